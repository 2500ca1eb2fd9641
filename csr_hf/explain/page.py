"""Write what is known of latents as one HTML page, which needs no server, no network and no other file."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from csr_hf.explain.latents import Example, Latent, Latents
from csr_hf.plumbing.atomic import write_whole

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #d9dee5; --paper: #fff; --bar: #4a7dbd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa4b2; --line: #343b46; --paper: #15181d; --bar: #6ea3e0; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; margin: 0 auto;
  max-width: 64rem; padding: 1rem; }
h1 { font-size: 1.4rem; }
p, small, td.number { color: var(--soft); }
input { background: var(--paper); border: 1px solid var(--soft); border-radius: 4px; box-sizing: border-box;
  color: inherit; font: inherit; padding: .5rem; width: 100%; }
.table { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
details { border-top: 1px solid var(--line); padding: .45rem 0; }
summary { cursor: pointer; display: grid; gap: .2rem 1rem; grid-template-columns: 3.5rem 1fr 7rem 9rem; }
summary:focus-visible, a:focus-visible, input:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
summary b { overflow-wrap: anywhere; }
meter { width: 6rem; }
ul { list-style: none; margin: .4rem 0; padding: 0 0 0 3.5rem; }
li { overflow-wrap: anywhere; padding: .1rem 0; }
img { height: 4rem; vertical-align: middle; }
a { color: var(--bar); }
@media (max-width: 40rem) { summary { grid-template-columns: 3.5rem 1fr; } ul { padding-left: 0; } }
"""
_SCRIPT = """
const field = document.getElementById("find"), latents = [...document.querySelectorAll("details")];
const count = document.getElementById("count");
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const latent of latents) {
    const text = latent.textContent.toLowerCase();
    latent.hidden = !words.every(word => text.includes(word));
    shown += !latent.hidden;
  }
  count.textContent = shown + " of " + latents.length;
});
window.addEventListener("hashchange", reveal);
function reveal() {
  const latent = document.getElementById(location.hash.slice(1));
  if (latent && latent.tagName === "DETAILS") { latent.hidden = false; latent.open = true; latent.scrollIntoView(); }
}
reveal();
"""


def write_page(path: str | Path, latents: Latents, title: str = "Latents") -> None:
    """Write a page of latents: the most frequent first, to be searched by word and opened one by one.

    Args:
        path: the file to write, whole or not at all.
        latents: of a head.
        title: of the page.

    Raises:
        OSError: if the folder cannot be written.
    """
    live = sorted(latents.live, key=lambda latent: (-latent.fires, latent.number))
    most = max((latent.fires for latent in live), default=1.0)
    entries = "\n".join(_render_latent(latent, latents, most) for latent in live)
    dead = len(latents) - len(live)
    silent = f" {dead:,} more never fire." if dead else ""
    heading = html.escape(title)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{heading}</h1>\n"
        f"<p>{len(live):,} latents that fire in {latents.texts:,} texts, the most frequent first.{silent} A name is "
        "chosen on one half of the texts; AUC says how well it tells texts with the latent from texts without, half "
        "of them the nearest, on the other half. A name with a question mark says little.</p>\n"
        f"{_render_scores(latents)}"
        '<p><label for="find">Find latents by name or text</label> <span id="count" role="status"></span></p>\n'
        f'<input id="find" type="search" autocomplete="off">\n<main>\n{entries}\n</main>\n'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )
    with write_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _render_scores(latents: Latents) -> str:
    if not latents.scores:
        return ""
    lines = "\n".join(
        f"<tr><td>{html.escape(str(row['names']))}, by {html.escape(str(row['by']))}, "
        f"strongest {row['share']:.0%}</td>"
        f"<td>{_show(row['median'])}</td><td>{_show(row['at_least_0.8'])}</td></tr>"
        for row in latents.scores
    )
    header = "<tr><th>what predicts</th><th>median AUC</th><th>share of at least 0.8</th></tr>"
    return f'<div class="table"><table>{header}\n{lines}</table></div>\n'


def _render_latent(latent: Latent, latents: Latents, most: float) -> str:
    mark = ' <span title="says little">?</span>' if latent.is_doubtful else ""
    auc = f"AUC {_show(latent.auc)}, words {_show(latent.auc_words)}"
    companions = ", ".join(
        f'<a href="#l{other}">{html.escape(latents.name(other))}</a> {strength:.2f}'
        for other, strength in latent.together
    )
    together = f"<li><small>fires with {companions}</small></li>" if companions else ""
    again = "" if latent.again is None else f"<li><small>cosine with another seed's: {latent.again:.2f}</small></li>"
    examples = "".join(_render_example(example) for example in latent.examples)
    return (
        f'<details id="l{latent.number}"><summary><small>{latent.number}</small>'
        f"<b>{html.escape(latents.name(latent.number))}{mark}</b>"
        f'<span><meter value="{latent.fires / most:.3f}" aria-label="how often"></meter></span>'
        f"<small>{latent.fires:.2%} · {auc}</small></summary>"
        f"<ul>{examples}{together}{again}</ul></details>"
    )


def _render_example(example: Example) -> str:
    image = ""
    if example.thumbnail is not None:
        encoded = base64.b64encode(example.thumbnail).decode("ascii")
        image = f'<img src="data:image/jpeg;base64,{encoded}" alt=""> '
    return f"<li>{image}<small>{example.value:.3f}</small> {html.escape(example.text)}</li>"


def _show(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"
