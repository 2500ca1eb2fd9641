"""`csr-hf explain` on a small run with a head of random weights."""

import json

import numpy as np
import pytest

from csr_hf import CSREncoder
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


def test_searches_say_why_and_are_steered(run, capsys, tmp_path):
    if not RunFolder.of(run).latents.is_file():
        assert main(["explain", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    asked, page = ["search", str(run), "red bird", "--device", "cpu", "--why"], tmp_path / "found.html"
    assert main([*asked, "--html", str(page), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    latents = Latents.load(RunFolder.of(run).latents)
    for hit in answer["hits"]:
        assert sum(share["score"] for share in hit["why"]) == pytest.approx(hit["score"], abs=2e-3)
        assert all(
            share["name"] == latents.name(share["latent"]) for share in hit["why"] if share["latent"] is not None
        )
    shares = [share for share in answer["hits"][0]["why"] if share["latent"] is not None]
    best = max(shares, key=lambda share: share["score"])
    written = page.read_text(encoding="utf-8")
    assert f'href="#l{best["latent"]}"' in written
    assert f'id="l{best["latent"]}"' in written
    # What is required is there; names and numbers mean the same.
    assert main([*asked, "--must", str(best["latent"]), "--more", f"{best['latent']}=0.5", "--json"]) == 0
    (steered,) = json.loads(capsys.readouterr().out)["answers"]
    assert all(best["latent"] in {share["latent"] for share in hit["why"]} for hit in steered["hits"])
    assert main(asked) == 0
    assert latents.name(best["latent"]) in capsys.readouterr().out
    assert main([*asked, "--without", "no such name"]) == 2
    assert "'no such name' names no latent" in capsys.readouterr().err
    assert main([*asked, "--more", "5=much"]) == 2
    assert "no number behind" in capsys.readouterr().err


def test_encoders_of_a_run_know_the_names(run, tmp_path):
    if not RunFolder.of(run).latents.is_file():
        assert main(["explain", str(run), "--device", "cpu"]) == 0
    encoder = CSREncoder.from_pretrained(run, device="cpu")
    match = encoder.explain("red bird", "a bird on the water")
    assert sum(share.score for share in match.shares) == pytest.approx(match.score, abs=1e-5)
    assert match.shares[0].name == Latents.load(RunFolder.of(run).latents).name(match.shares[0].latent)
    lines = repr(match).splitlines()
    assert lines[0] == f"Match(score={match.score:.4f})"
    assert sum(float(line.split()[0]) for line in lines[1:]) == pytest.approx(match.score, abs=1e-3)
    # Embeddings say the same as their texts.
    rows = encoder.embed(["red bird"], task="query"), encoder.embed(["a bird on the water"], task="document")
    assert encoder.explain(rows[0][0], rows[1][0]).score == pytest.approx(match.score, abs=1e-5)
    with pytest.raises(ValueError, match="`query` has 3 dimensions"):
        encoder.explain(rows[0][0][:3], "a bird")
    moved = CSREncoder.from_pretrained(run.parent / "head", device="cpu")
    assert moved.latents is None
    assert moved.explain("red bird", "a bird").shares[0].name.startswith("latent ")


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
