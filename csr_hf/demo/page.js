// Buttons of latents, and circles of the map, tell the page which latent is meant; arrow keys walk over the map.
const open = (latent) => trigger("select", { latent: Number(latent.dataset.latent) });
const circles = () => [...element.querySelectorAll(".csr-b")];
const say = (circle) => {
  const line = element.querySelector(".csr-over");
  if (line && circle) line.textContent = circle.getAttribute("aria-label");
};
const place = (circle) => circle.getAttribute("transform").match(/-?[\d.]+/g).map(Number);
const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(circle) {
  circles().forEach((each) => each.setAttribute("aria-pressed", each === circle));
  open(circle);
  // On a narrow screen the texts are below the map.
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (innerWidth < 768) document.getElementById("panel")?.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

function walk(from, [dx, dy]) {
  const [x, y] = place(from);
  let best = null, least = Infinity;
  for (const each of circles()) {
    const [ex, ey] = place(each), ahead = (ex - x) * dx + (ey - y) * dy, aside = Math.abs((ex - x) * dy - (ey - y) * dx);
    const far = ahead + 2 * aside;
    if (ahead > 1 && far < least) { least = far; best = each; }
  }
  if (!best) return;
  from.tabIndex = -1;
  best.tabIndex = 0;
  best.focus();
}

element.addEventListener("click", (event) => {
  const chip = event.target.closest(".csr-chip"), circle = event.target.closest(".csr-b");
  if (chip) open(chip);
  if (circle) press(circle);
});
element.addEventListener("keydown", (event) => {
  const circle = event.target.closest(".csr-b");
  if (!circle) return;
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); press(circle); }
  if (event.key in step) { event.preventDefault(); walk(circle, step[event.key]); }
});
element.addEventListener("focusin", (event) => say(event.target.closest(".csr-b")));
element.addEventListener("mouseover", (event) => say(event.target.closest(".csr-b")));
