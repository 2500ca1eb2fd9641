"""What is known of latents, written and read; the page shows it and runs nothing that texts say."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from csr_hf.explain.latents import Example, Latent, Latents
from csr_hf.explain.page import write_page

EVIL = "<script>alert(\"x\")</script> & 'more'"


@pytest.fixture
def latents():
    known = [
        Latent(0, "blood, sugar", 0.02, 0.95, 0.8, ((2, 0.3),), (Example("insulin …", 2.5),), 0.9),
        Latent(1, "", 0.0),
        Latent(2, EVIL, 0.5, 0.6, None, ((0, 0.3), (1, 0.1)), (Example(EVIL, 1.0, b"\xff\xd8jpeg"),), 0.2),
    ]
    score = {"names": "names", "by": "BM25", "share": 0.1, "median": 0.8, "at_least_0.8": None, "below_0.7": 0.0}
    return Latents(known, "0123", 100, ({**score, "latents": 2},))


def test_files_hold_all_but_pictures(latents, tmp_path):
    latents.save(tmp_path / "latents.json")
    read = Latents.load(tmp_path / "latents.json", head="0123")
    assert read[0] == latents[0]
    assert read[1] == latents[1]
    assert read[2].examples == (Example(EVIL, 1.0),)
    assert (read.head, read.texts, read.scores) == (latents.head, latents.texts, latents.scores)
    lines = (tmp_path / "latents.json").read_text().splitlines()
    assert sum('"number"' in line for line in lines) == 3
    assert [record["doubtful"] for record in json.loads("\n".join(lines))["latents"]] == [False, True, True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("head"),
        lambda content: content.update(format="other"),
        lambda content: content["latents"].pop(0),
        lambda content: content["latents"][0].update(unknown=1),
        lambda content: content["latents"][0].update(together=[["a", 1]]),
        lambda content: content["latents"][0].update(together=[[3, 1]]),
        lambda content: content["latents"][0].update(auc="good"),
        lambda content: content["latents"][0].pop("fires"),
        lambda content: content.update(latents=7),
    ],
)
def test_damaged_files_are_refused(latents, tmp_path, damage):
    path = tmp_path / "latents.json"
    latents.save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"latents\.json is damaged, or no file of latents"):
        Latents.load(path)


def test_latents_of_another_head_are_refused(latents, tmp_path):
    latents.save(tmp_path / "latents.json")
    with pytest.raises(ValueError, match=r"another head \(0123\) than 4567"):
        Latents.load(tmp_path / "latents.json", head="4567")
    with pytest.raises(FileNotFoundError):
        Latents.load(tmp_path / "none.json")


def test_latents_are_found_by_number_and_name(latents):
    assert [latents.find(given) for given in (2, np.uint16(2), "2", "Blood, Sugar ")] == [2, 2, 2, 0]
    with pytest.raises(ValueError, match="'²' names no latent"):
        latents.find("²")
    assert [latents.name(number) for number in (0, 1)] == ["blood, sugar", "latent 1"]
    assert [latent.number for latent in latents.live] == [0, 2]
    assert latents.found_again == 0.5
    with pytest.raises(ValueError, match=r"latent 3 does not exist. Give a number from 0 to 2"):
        latents.find(3)


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)


def test_page_escapes_and_needs_no_network(latents, tmp_path):
    write_page(tmp_path / "latents.html", latents, f"Latents of {EVIL}")
    text = (tmp_path / "latents.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert" not in "".join(page.scripts)
    addresses = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert [found["id"] for tag, found in page.tags if tag == "details"] == ["l2", "l0"]
    assert "1 more never fire." in text


def test_page_of_no_live_latent(tmp_path):
    write_page(tmp_path / "latents.html", Latents([Latent(0, "", 0.0)], "h", 3))
    assert "0 latents that fire in 3 texts" in (tmp_path / "latents.html").read_text()


def test_names_of_strangers_steer_no_terminal(latents, tmp_path):
    path = tmp_path / "latents.json"
    latents.save(path)
    content = json.loads(path.read_text())
    content["latents"][0]["name"] = "blood\n\x1b[31m" + "a" * 1000
    path.write_text(json.dumps(content))
    name = Latents.load(path)[0].name
    assert name.isprintable()
    assert len(name) == 200


def test_texts_can_be_left_out(latents):
    bare = latents.without_examples()
    assert [latent.examples for latent in bare] == [(), (), ()]
    assert [latent.name for latent in bare] == [latent.name for latent in latents]
    assert latents[0].examples
