"""The page in a real browser: every control, by mouse and by keyboard, and nothing that is sent elsewhere."""

import json
import shutil
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from csr_hf.search_index import SearchIndex
from tests.demo.conftest import HOSTILE

pytestmark = pytest.mark.browser
gradio_client = pytest.importorskip("gradio_client", reason='pip install "csr_hf[demo]"')
pytest.importorskip("selenium", reason='pip install "csr_hf[test-browser]"')
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("needs Chromium: apt-get install chromium chromium-driver", allow_module_level=True)
PATIENCE = 120
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--window-size=1280,1400",
]


@pytest.fixture(scope="module")
def page(texts_run):
    """The page of the run, served."""
    from csr_hf.demo.app import open_page

    opened = open_page(texts_run, title="Texts <b>of</b> tests", device="cpu")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    found.set_page_load_timeout(PATIENCE)
    yield found
    found.quit()


class Visit:
    """A page that is open in the browser."""

    def __init__(self, driver, url, theme="light"):
        self.driver = driver
        # The page before has lost its server: what it says of that is not of this page.
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get_log("browser")
        driver.get(f"{url}?__theme={theme}")
        self.wait(lambda: self.all("#results .csr"))

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE, ignored_exceptions=()).until(lambda _: condition())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.wait(lambda: self.all(selector))[0]

    def html(self, selector):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerHTML ?? ''", selector)

    def text(self, selector):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def changes(self, act, selector="#results"):
        """Do something, and wait until a part of the page is another one than before."""
        before = self.html(selector)
        act()
        self.wait(lambda: self.html(selector) not in ("", before))

    def write(self, selector, text):
        """Put a text into a field as pasting does, for characters that no key has."""
        self.driver.execute_script(
            """const field = document.querySelector(arguments[0]);
            Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, arguments[1]);
            field.dispatchEvent(new Event("input", { bubbles: true }));""",
            selector,
            text,
        )

    def upload(self, selector, path):
        """Send a file by the button of this selector, without the dialog that no driver can reach."""
        field = self.driver.execute_script(
            """const button = document.querySelector(arguments[0]);
            const find = (place) => place.querySelector("input[type=file]");
            return find(button) ?? find(button.parentElement);""",
            selector,
        )
        field.send_keys(str(path))

    def open_tab(self, name):
        tab = self.wait(lambda: [each for each in self.all("button[role=tab]") if each.text.strip() == name])[0]
        tab.click()

    def requests(self):
        """Return the addresses that the browser has asked for."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def visit(driver, page):
    return Visit(driver, page.url)


def focus(visit):
    return visit.driver.switch_to.active_element


def test_every_control_answers_and_nothing_is_asked_of_others(visit, page):
    assert len(visit.all("#results .csr-hit")) == 20
    assert visit.driver.title == "Texts <b>of</b> tests · csr_hf"
    # A question that is picked, and one that is typed.
    visit.changes(visit.all(".csr-pick")[1].click)
    visit.wait(lambda: visit.one("#question textarea").get_attribute("value") == visit.all(".csr-pick")[1].text)
    visit.write("#question textarea", "red bird")
    visit.changes(visit.one("#ask").click)
    # k, by keyboard as by mouse.
    before = visit.text("#results .csr-cost")
    slider = visit.one("#k input[type=range]")
    visit.changes(lambda: slider.send_keys(Keys.HOME))
    visit.wait(lambda: visit.text("#results .csr-cost").split()[0] != before.split()[0])
    assert "the 1 largest latents" in visit.text("#results")
    # Every way to rerank.
    for number, said in ((1, "all that is stored"), (2, "float16 embeddings"), (3, "the search of the index")):
        visit.changes(visit.all("#rerank input")[number].click)
        visit.wait(lambda said=said: said in visit.text("#results"))
    number = visit.one("#hits input[type=range]")
    number.send_keys(Keys.HOME)
    visit.wait(lambda: len(visit.all("#results .csr-hit")) == 2)
    number.send_keys(Keys.ARROW_RIGHT)
    visit.wait(lambda: len(visit.all("#results .csr-hit")) == 4)
    assert {urllib.parse.urlsplit(each).netloc for each in visit.requests()} <= {
        urllib.parse.urlsplit(page.url).netloc,
        "",
    }
    assert visit.errors() == []


def test_latents_open_from_hits_the_map_and_by_name(visit):
    chip = visit.one("#results .csr-hit .csr-chip")
    name, latent = chip.text, chip.get_attribute("data-latent")
    visit.changes(chip.click, "#panel")
    visit.wait(lambda: visit.text("#panel h2") == name)
    assert f"latent {latent} " in visit.text("#panel")
    circle = next(each for each in visit.all("#map .csr-b") if each.get_attribute("data-latent") != latent)
    visit.driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", circle)
    wanted = circle.get_attribute("data-latent")
    visit.wait(lambda: f"latent {wanted} " in visit.text("#panel"))
    assert circle.get_attribute("aria-pressed") == "true"
    assert visit.all("#panel .csr-hit")
    field = visit.one("#latent input")
    field.click()
    options = visit.wait(lambda: visit.all("ul[role=listbox] li"))
    label = options[2].text
    options[2].click()
    visit.wait(lambda: f"latent {label.rsplit(' ', 1)[-1]} " in visit.text("#panel"))
    assert visit.errors() == []


def test_the_map_works_by_keyboard(visit):
    visit.open_tab("Latents")
    visit.one("#map .csr-b")
    visit.driver.execute_script("document.querySelector('#map .csr-b[tabindex=\"0\"]').focus()")
    start = focus(visit).get_attribute("data-latent")
    walked = set()
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        focus(visit).send_keys(key)
        walked.add(focus(visit).get_attribute("data-latent"))
    assert walked - {start}
    assert visit.text("#map .csr-over") == focus(visit).get_attribute("aria-label")
    latent = focus(visit).get_attribute("data-latent")
    focus(visit).send_keys(Keys.ENTER)
    visit.wait(lambda: f"latent {latent} " in visit.text("#panel"))


def test_the_search_works_by_keyboard_alone(visit):
    field = visit.one("#question textarea")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("green water")
    visit.changes(lambda: field.send_keys(Keys.ENTER))
    reached = set()
    for _ in range(40):
        focus(visit).send_keys(Keys.TAB)
        now = focus(visit)
        reached.add(now.get_attribute("data-latent") or now.get_attribute("type") or now.tag_name)
        if now.get_attribute("data-latent"):
            break
    assert {"range", "radio"} <= reached
    latent = focus(visit).get_attribute("data-latent")
    assert latent
    focus(visit).send_keys(Keys.ENTER)
    visit.wait(lambda: f"latent {latent} " in visit.text("#panel"))


def test_two_texts_are_compared(visit):
    visit.open_tab("Compare")
    visit.one("#compare").click()
    visit.wait(lambda: "Write two texts" in visit.text("#compared [role=alert]"))
    visit.write("#first textarea", "cat dog bird")
    visit.write("#second textarea", "cat bird dog")
    visit.one("#compare").click()
    visit.wait(lambda: visit.all("#compared tbody tr"))
    visit.one("#compare-k input[type=range]").send_keys(Keys.HOME)
    visit.wait(lambda: " of 1 latents shared" in visit.text("#compared"))
    visit.write("#second textarea", "<img src=x onerror='window.hacked = 1'> ${window.hacked = 1}")
    visit.changes(visit.one("#compare").click, "#compared")
    assert visit.driver.execute_script("return window.hacked === undefined")


def test_latents_steer_and_contradictions_are_named(visit):
    visit.all("button.label-wrap")[0].click()
    for name in ("more", "without"):
        visit.wait(lambda name=name: visit.one(f"#{name} input").is_displayed())
        visit.one(f"#{name} input").click()
        option = visit.wait(lambda: visit.all("ul[role=listbox] li"))[0]
        visit.changes(option.click)
        visit.one(f"#{name} input").send_keys(Keys.ESCAPE)
        # Another list opens once this one has closed: until then its options would be taken for the other's.
        visit.wait(lambda: not visit.all("ul[role=listbox]"))
    visit.wait(lambda: "both wanted and unwanted" in visit.text("#results [role=alert]"))


def test_latents_that_are_required_narrow_the_hits(visit):
    visit.all("button.label-wrap")[0].click()
    visit.wait(lambda: visit.one("#must input").is_displayed())
    visit.changes(lambda: visit.one("#hits input[type=range]").send_keys(Keys.END))
    visit.wait(lambda: len(visit.all("#results .csr-hit")) == 100)
    visit.one("#must input").click()
    options = visit.wait(lambda: visit.all("ul[role=listbox] li"))
    # The rarest: its share of the documents stands behind its name.
    wanted = options[-1].text
    visit.driver.execute_script("arguments[0].scrollIntoView()", options[-1])
    visit.changes(options[-1].click)
    share = float(wanted.split(" · ")[1].rstrip("%")) / 100
    visit.wait(lambda: len(visit.all("#results section:first-of-type .csr-hit")) == round(share * 150))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("   ", "Ask in words"),
        ("cat " * 5000, "Only the first 5,000 characters"),
        ("<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>", "hits in common"),
        ("${window.hacked = 1} {{value}} {{#each value}} `x`", "hits in common"),
        ("\x1b[31mred\x1b[0m \u202e \u0000 \ud83d\udc08", "hits in common"),
        ("a.png data:image/png;base64,AAAA ../../etc/passwd", "hits in common"),
    ],
)
def test_bad_questions_are_answered_or_named(visit, question, said):
    visit.write("#question textarea", question)
    visit.changes(visit.one("#ask").click)
    visit.wait(lambda: said in visit.text("#results"))
    assert visit.driver.execute_script("return window.hacked === undefined")
    assert not visit.all("#results script, #results h1, #results img")


def test_texts_that_hold_html_are_shown_as_text(driver, texts_run, tmp_path):
    from csr_hf.demo.app import open_page

    shutil.copytree(texts_run, tmp_path / "run")
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    texts = index.index.documents["text"].to_pylist()
    ids = index.index.ids_of(np.arange(len(texts))).tolist()
    index.delete([one for one, text in zip(ids, texts, strict=True) if text not in HOSTILE])
    index.save(tmp_path / "run")
    opened = open_page(tmp_path / "run", device="cpu")
    try:
        visit = Visit(driver, opened.url)
        visit.wait(lambda: len(visit.all("#results .csr-hit")) == 2 * len(HOSTILE))
        seen = visit.text("#results")
        assert "<script>window.hacked = 1</script>" in seen
        assert "${window.hacked = 1} {{value}}" in seen
        assert driver.execute_script("return window.hacked === undefined")
        assert not visit.all("#results script, #results img, #results h1")
        assert visit.errors() == []
    finally:
        opened.close()


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_the_page_fits_phones_and_both_themes(driver, page, width, theme):
    sizes = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    try:
        visit = Visit(driver, page.url, theme)
        for tab in ("Search", "Latents", "Compare"):
            visit.open_tab(tab)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        ink, paper = driver.execute_script(
            """const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765;
            const head = document.querySelector(".csr-head h1");
            let under = head;
            const isClear = (each) => /, 0\\)$/.test(getComputedStyle(each).backgroundColor);
            while (under.parentElement && isClear(under)) under = under.parentElement;
            return [light(getComputedStyle(head).color), light(getComputedStyle(under).backgroundColor)];"""
        )
        assert (ink > 0.7 and paper < 0.3) if theme == "dark" else (ink < 0.3 and paper > 0.7)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pictures_are_questions(driver, photo_run, photos, tmp_path):
    from csr_hf.demo.app import open_page

    opened = open_page(photo_run, title="Pictures", device="cpu")
    try:
        visit = Visit(driver, opened.url)
        visit.wait(lambda: visit.all("#results .csr-hit img"))
        sent = next(path for path in sorted(photos.iterdir()) if path.suffix == ".png")
        visit.changes(lambda: visit.upload("#picture", sent))
        visit.wait(lambda: "The picture fires" in visit.text("#results"))
        assert visit.all("#results .csr-asked img")
        # What else is chosen is asked of the same picture.
        visit.changes(lambda: visit.one("#k input[type=range]").send_keys(Keys.HOME))
        visit.wait(lambda: "the 1 largest latents" in visit.text("#results"))
        assert "The picture fires" in visit.text("#results")
        (tmp_path / "broken.png").write_bytes(b"no picture")
        visit.changes(lambda: visit.upload("#picture", tmp_path / "broken.png"))
        visit.wait(lambda: "no picture that can be read" in visit.text("#results [role=alert]"))
        # Words take its place.
        visit.write("#question textarea", "a red square")
        visit.changes(visit.one("#ask").click)
        visit.wait(lambda: "The question fires" in visit.text("#results"))
        visit.changes(lambda: visit.one("#k input[type=range]").send_keys(Keys.END))
        visit.wait(lambda: "The question fires" in visit.text("#results"))
        assert visit.errors() == []
    finally:
        opened.close()


def test_an_empty_index_opens_and_says_so(driver, texts_run, tmp_path):
    from csr_hf.demo.app import open_page

    shutil.copytree(texts_run, tmp_path / "run")
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    index.delete(filter='text != "nothing like it"')
    index.save(tmp_path / "run")
    opened = open_page(tmp_path / "run", device="cpu")
    try:
        visit = Visit(driver, opened.url)
        assert "The index is empty" in visit.text(".csr-head")
        visit.write("#question textarea", "red bird")
        visit.changes(visit.one("#ask").click)
        visit.wait(lambda: "Nothing found" in visit.text("#results"))
        visit.open_tab("Latents")
        visit.wait(lambda: "No latent fires" in visit.text("#map"))
        assert visit.errors() == []
    finally:
        opened.close()


def test_a_hundred_requests_at_a_time_are_all_answered(page):
    # gradio's own client gives up answers that arrive as its stream ends.
    address = f"{page.url}gradio_api/call/search"

    def ask(number):
        content = json.dumps({"data": [f"red bird {number}", 8, "codes", 5, [], [], []]}).encode()
        asked = urllib.request.Request(address, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as found:
            event = json.load(found)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=PATIENCE) as found:
            kind, said = found.read().decode().strip().split("\n\n")[-1].split("\n", 1)
        assert kind == "event: complete"
        return json.loads(said.removeprefix("data: "))[0]

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(100)))
    assert all(answer.count('class="csr-hit') == 10 for answer in answers)


@pytest.mark.parametrize(
    "settings", [[10**6, "none", 5], [8, "none", 10**6], [8, "no such way", 5], ["many", "none", 5], [8, "none", -1]]
)
def test_nonsense_over_the_wire_is_refused(page, settings):
    client = gradio_client.Client(page.url, verbose=False)
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict("red bird", *settings, [], [], [], api_name="/search")
