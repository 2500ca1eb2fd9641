"""`csr-hf explain` on a small run with a head of random weights."""

import json

import numpy as np
import pytest

from csr_hf.cli.main import main
from csr_hf.explain.latents import Latents
from csr_hf.runs.folder import RunFolder
from tests.conftest import make_head

WORDS = ["cat", "dog", "bird", "red", "blue", "green", "run", "walk", "look", "water"]


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """The folder of an index of 120 texts."""
    folder = tmp_path_factory.mktemp("explained")
    make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("router"))).save_pretrained(folder / "head")
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(WORDS, 5))}) for _ in range(120)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    words = ["index", "--corpus", str(folder / "texts.jsonl"), "--head", str(folder / "head"), "--device", "cpu"]
    assert main([*words, "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_latents_are_written_shown_and_reported(run, capsys):
    capsys.readouterr()
    other = str(run.parent / "head")
    assert main(["explain", str(run), "--device", "cpu", "--share", "0.5,1", "--other", other, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    files = RunFolder.of(run)
    latents = Latents.load(files.latents, head=report["head"])
    assert report["live"] == len(latents.live) > 0
    assert latents.texts == report["texts"] <= 120
    assert {row["share"] for row in report["scores"]} == {0.5, 1}
    # The head itself has all of its latents.
    assert report["found_again"] == 1
    named = [latent for latent in latents.live if latent.name]
    assert named
    assert all(set(latent.name.replace(",", "").split()) <= set(WORDS) for latent in named)
    assert files.latents_page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {"latents.json", "latents.html"} <= {path.name for path in files.measured}


def test_a_table_shows_the_most_frequent_latents(run, capsys):
    assert main(["explain", str(run), "--device", "cpu", "--show", "3"]) == 0
    shown = capsys.readouterr().out
    assert "what names predict" in shown
    assert "TF-IDF" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere has no model"),
        (["RUN", "--share", "0"], "greater than 0"),
        (["RUN", "--other", "nowhere-else"], "nowhere-else"),
    ],
)
def test_mistakes_are_named(run, capsys, words, message):
    assert main(["explain", *(str(run) if word == "RUN" else word for word in words), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
