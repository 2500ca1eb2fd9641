"""The HTML of the page: what strangers write is shown as text, latents can be opened, circles do not overlap."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from csr_hf.demo.answering import Settings, answer
from csr_hf.demo.comparing import compare
from csr_hf.demo.latent_map import WIDTH, draw_map, find_texts, place_bubbles
from csr_hf.demo.latent_page import _shorten, list_latents, show_latent, show_map
from csr_hf.demo.markup import show_body, text
from csr_hf.demo.results import show_answer, show_comparison, show_header
from csr_hf.demo.run_view import Document, RunView
from tests.demo.conftest import HOSTILE


@pytest.fixture(scope="module")
def view(texts_run):
    return RunView.open(texts_run, device="cpu")


class Elements(HTMLParser):
    """Collects tags and what is shown as text; fails where tags do not close."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check(content):
    found = Elements(content)
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object"}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]|\$\{|\{\{", content)
    return found


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_a_text_holds_is_shown_as_text(hostile):
    found = check(show_body(Document("1", hostile, None)))
    assert {tag for tag, _ in found.tags} <= {"p", "details", "summary"}
    shown = "".join(found.texts)
    assert "\x1b" not in shown
    assert "cat" in shown


def test_answers_hold_no_html_of_texts_and_questions(view):
    for question in HOSTILE:
        chosen = Settings(8, "none", 50)
        found = check(show_answer(view, answer(view, question, chosen), chosen))
        assert len([1 for tag, attributes in found.tags if "csr-hit" in attributes.get("class", "")]) == 100


def test_answers_say_bytes_milliseconds_and_what_is_common(view):
    chosen = Settings(4, "none", 10)
    found = answer(view, "red bird", chosen)
    shown = "".join(check(show_answer(view, found, chosen)).texts)
    assert f"{found.common} of 10 hits in common" in shown
    assert f"{found.sparse.bytes:.0f} bytes a document" in shown
    assert "128 bytes a document" in shown
    assert len(re.findall(r"\d ms", shown)) == 3


def test_latents_are_buttons_with_their_names(view):
    chosen = Settings(8, "none", 3)
    found = answer(view, "red bird", chosen)
    tags = check(show_answer(view, found, chosen)).tags
    buttons = [attributes for tag, attributes in tags if tag == "button"]
    wanted = [*found.asked, *(share.latent for hit in found.sparse.hits for share in hit.shares)]
    assert [int(button["data-latent"]) for button in buttons] == wanted
    assert all(view.name(int(button["data-latent"])) in button["aria-label"] for button in buttons)
    # A latent of the question has one color wherever it is.
    colors = {}
    for button in buttons:
        if int(button["data-latent"]) in found.asked:
            assert colors.setdefault(button["data-latent"], button["class"]) == button["class"]


def test_comparisons_show_shared_latents(view):
    found = compare(view, "cat dog", "cat bird", 8)
    shown = check(show_comparison(view, found))
    assert f"{len(found.shared)} of 8 latents shared" in "".join(shown.texts)
    assert len([1 for tag, _ in shown.tags if tag == "tr"]) == len(found.shared) + 1


def test_the_header_says_what_there_is(view):
    shown = "".join(check(show_header(view)).texts)
    assert "150 documents" in shown
    assert "96 latents" in shown


@pytest.mark.parametrize("count", [1, 2, 40, 120])
def test_circles_do_not_overlap_and_grow_with_how_often(count):
    rng = np.random.default_rng(count)
    atoms = rng.standard_normal((count, 8))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    fires = rng.random(count) * 0.3 + 0.001
    drawn = place_bubbles(np.arange(count) * 2, fires, atoms)
    assert [bubble.latent for bubble in drawn.bubbles] == list(range(0, 2 * count, 2))
    places = np.array([(bubble.x, bubble.y) for bubble in drawn.bubbles])
    radii = np.array([bubble.radius for bubble in drawn.bubbles])
    gaps = np.linalg.norm(places[:, None] - places, axis=2) - radii[:, None] - radii
    assert gaps[~np.eye(count, dtype=bool)].min(initial=1) > 0
    assert (places[:, 0] - radii).min() >= -1e-6
    assert (places[:, 0] + radii).max() <= WIDTH + 1e-6
    assert (places[:, 1] + radii).max() <= drawn.height + 1e-6
    order = np.argsort(fires)
    assert (np.diff(radii[order]) >= -1e-9).all()


def test_latents_that_are_all_alike_are_one_group():
    atoms = np.tile(np.eye(1, 8), (40, 1))
    found = place_bubbles(np.arange(40), np.ones(40), atoms)
    assert len(found.bubbles) == 40 and len(found.groups) == 1


def test_similar_latents_stand_together():
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(4), 12)
    atoms = np.eye(4)[kinds] + 0.1 * rng.standard_normal((48, 4))
    drawn = place_bubbles(np.arange(48), np.full(48, 0.1), atoms / np.linalg.norm(atoms, axis=1, keepdims=True))
    groups = np.array([bubble.group for bubble in drawn.bubbles])
    assert all(len(set(groups[kinds == kind])) == 1 for kind in range(4))
    assert len(drawn.groups) == len(set(groups)) == 4


def test_the_map_names_its_circles_for_those_who_cannot_see_it(view):
    drawn = draw_map(view)
    found = check(show_map(view, drawn))
    circles = [attributes for tag, attributes in found.tags if attributes.get("role") == "button"]
    assert [int(each["data-latent"]) for each in circles] == [bubble.latent for bubble in drawn.bubbles]
    assert [each["tabindex"] for each in circles].count("0") == 1
    assert all(view.name(int(each["data-latent"])) in each["aria-label"] for each in circles)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sort, list", "sort"),
        ("blood sugar #12", "blood sugar"),
        ("c #", "c #"),
        ("a name that is far too long for it", "a name that is far to…"),
    ],
)
def test_labels_are_the_first_phrase_of_a_name(name, label):
    assert _shorten(name) == label


def test_names_of_groups_stay_within_the_map(view):
    drawn = draw_map(view)
    outside = drawn._replace(groups=[group._replace(x=x) for group in drawn.groups for x in (-30, 500, 1030)])
    found = check(show_map(view, outside))
    (left, _, width, _) = next(map(float, each["viewbox"].split()) for _, each in found.tags if "viewbox" in each)
    places = [float(each["x"]) for _, each in found.tags if each.get("class") == "csr-group"]
    names = [view.name(group.latent).partition(",")[0][:22] for group in outside.groups]
    for x, name in zip(places, names, strict=True):
        half = len(name) * 0.55 * 17 / 2
        assert left <= x - half + 1 and x + half - 1 <= left + width
    assert places[1] == 500


def test_texts_of_a_latent_are_those_that_have_it_most(view):
    latent = int(np.argmax(view.fires))
    found = find_texts(view, latent, 9)
    values = [each.value for each in found]
    assert values == sorted(values, reverse=True)
    active = np.sort(view.codes.values[view.codes.indices == latent])[::-1]
    np.testing.assert_allclose(values[:6], active[:6])
    assert len({each.document.id for each in found}) == len(found) == 9
    shown = "".join(check(show_latent(view, latent)).texts)
    assert view.name(latent) in shown
    assert f"{view.fires[latent]:.1%}" in shown


def test_latents_to_pick_from_are_those_that_fire(view):
    listed = list_latents(view)
    assert {number for _, number in listed} == set(np.flatnonzero(view.fires).tolist())
    assert "no latent 5000" in show_latent(view, 5000)
    assert "no latent -1" in show_latent(view, -1)


@pytest.mark.slow
def test_pictures_are_shown(photo_run):
    view = RunView.open(photo_run, device="cpu")
    assert view.has_pictures
    chosen = Settings(8, "none", 4)
    found = answer(view, "a red square", chosen)
    tags = check(show_answer(view, found, chosen)).tags
    pictures = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 8
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)


@pytest.mark.parametrize("name", ["/etc/hostname.png", "data:image/png;base64,AAAA"])
def test_questions_that_look_like_pictures_stay_words(photo_run, tmp_path, name):
    """What a stranger types never opens a file."""
    view = RunView.open(photo_run, device="cpu")
    path = tmp_path / "there.png"
    path.write_bytes(b"no picture at all")
    for question in (name, str(path)):
        assert answer(view, question, Settings(8, "none", 2)).sparse.hits


def test_escaping_leaves_templates_nothing():
    assert text('${x} {{y}} `z` <b> & "q"') == (
        "&#36;&#123;x&#125; &#123;&#123;y&#125;&#125; &#96;z&#96; &lt;b&gt; &amp; &quot;q&quot;"
    )
