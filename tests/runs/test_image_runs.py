"""Runs on images and captions, from the command line to the page of hits."""

import re

import numpy as np
import pytest
import torch

from csr_hf import CSRModel
from csr_hf.cli.main import main
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.evaluation.results import Results
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.searcher import RunSearcher
from tests.helpers.clip import SMALL, caption, picture


def test_broken_images_end_the_run_or_are_skipped_and_named(clip, tmp_path, capsys):
    for number in range(30):
        picture(number).save(tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_text("broken")
    (tmp_path / "07.png").write_bytes((tmp_path / "08.png").read_bytes()[:60])
    call = ["embed", "--corpus", str(tmp_path), "--backbone", clip.name, "--output-dir", str(tmp_path / "out")]
    assert main([*call, "--no-progress"]) == 2
    assert re.search(r"05.png cannot be read as an image.*--skip-bad", capsys.readouterr().err)
    assert main([*call, "--no-progress", "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"left out +broken: .*05.png, .*07.png", said)
    assert "28 rows of image" in said


def test_run_measures_both_directions_and_names_what_is_dead(photo_run, capsys):
    results = Results.load(photo_run)
    tasks = {row.task.rpartition(", ")[2] for row in results.rows}
    assert tasks == {"text to image", "image to text"}
    assert {row.metric for row in results.rows} == {"R@1", "R@5", "R@10"}
    assert {row.method for row in results.rows} >= {"dense", "CSR", "CSR, decoded", "int8", "PCA"}
    figures = RunRecipe.recorded(photo_run / "recipe.yaml", "results")
    assert {"dead_fraction_image", "dead_fraction_text"} <= figures.keys()
    head = CSRModel.from_pretrained(photo_run / "model")
    assert head.config.modalities == ["image", "text"]
    assert head.modality_last_nonzero.shape == (2, 96)
    assert (photo_run / "retention.png").is_file()
    assert main(["info", str(photo_run)]) == 0
    assert "24 -> 96 latents of image and text, k 8" in capsys.readouterr().out


def test_bias_of_a_modality_is_the_mean_of_what_is_trained_on(photo_run, clip, photos):
    (data,) = load_sources(DataArguments(source=str(photos), held_out=0.3))
    rows = np.flatnonzero(~data.held_out)
    head = CSRModel.from_pretrained(photo_run / "model")
    for number, role in enumerate(("image", "text")):
        inputs = data.inputs(role)
        expected = clip.embed([inputs[int(row)] for row in rows]).mean(0)
        np.testing.assert_allclose(head.modality_bias[number].numpy(), expected, atol=2e-4)


def test_head_of_two_modalities_serves_images_without_captions(photo_run, photos, tmp_path, capsys):
    """It is adapted to them, measured by neighbors, and indexes them as it would with captions."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(80):
        picture(number).save(folder / f"{number:03}.png")
    shared = ["--corpus", str(folder), "--head", str(photo_run), "--no-progress"]
    call = ["run", *shared, "--output-dir", str(tmp_path / "more"), "--training.max_steps=3", "--data.held_out=0.4"]
    assert main([*call, "--evaluation.ks=[8]", "--training.per_device_train_batch_size=16"]) == 0
    assert {row.metric for row in Results.load(tmp_path / "more").rows} == {"dense top 10"}
    head = CSRModel.from_pretrained(tmp_path / "more" / "model")
    before = CSRModel.from_pretrained(photo_run / "model")
    assert torch.equal(head.modality_bias, before.modality_bias)
    # Images alone were seen.
    assert head.modality_last_nonzero[1].max() == 0
    capsys.readouterr()
    assert main(["index", *shared, "--output-dir", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), str(folder / "007.png"), "--top-k", "1"]) == 0
    assert re.search(r"1\. (0\.99\d|1\.000) .*007\.png", capsys.readouterr().out)


def test_search_finds_images_by_text_and_by_image(photo_run, photos, tmp_path, capsys):
    page = tmp_path / "out.html"
    asked = str(photos / "012.png")
    assert main(["search", str(photo_run), asked, "red stripes", "--html", str(page)]) == 0
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if " 1. " in line)
    assert first.endswith("012.png")
    content = page.read_text()
    assert content.count("data:image/jpeg;base64,") == 11
    assert "red stripes" in content and caption(12) in content
    assert (photos / "012.png").resolve().as_uri() in content


def test_the_path_of_a_missing_image_is_not_searched_as_a_text(photo_run, clip, photos, capsys):
    assert main(["search", str(photo_run), "missing photo.jpg", "--top-k", "1"]) == 0
    capsys.readouterr()
    assert main(["search", str(photo_run), str(photos / "missing.jpg")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"missing.jpg is no file, though it ends like an image. Correct the path, or add words", said)
    with pytest.raises(ValueError, match=r"missing.jpg cannot be read as an image: .*No such file"):
        clip.embed([photos / "missing.jpg"])


def test_images_beside_precomputed_embeddings_are_refused(clip, photos, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ones((30, 24), np.float32))
    sources = f"[{{source: {photos}}}, {{source: {tmp_path / 'rows.npy'}}}]"
    call = ["embed", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(tmp_path / "run")]
    assert main([*call, "--data.sources", sources, "--no-progress"]) == 2
    assert "images beside precomputed embeddings" in capsys.readouterr().err


def test_precomputed_embeddings_do_not_fit_a_head_of_two_modalities(photo_run, clip, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ones((30, clip.dim), np.float32))
    for command in ("index", "train"):
        call = [command, "--corpus", str(tmp_path / "rows.npy"), "--head", str(photo_run), "--no-progress"]
        assert main([*call, "--output-dir", str(tmp_path / "run")]) == 2
        assert "`data.source` rows.npy holds precomputed embeddings" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_texts_and_images_without_pairs_are_one_index(clip, photos, tmp_path):
    for number in range(40):
        picture(number).save(tmp_path / f"{number:03}.png")
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(f"text {number}" for number in range(40)))
    sources = f"[{{source: {tmp_path}}}, {{source: {tmp_path / 'texts.csv'}}}]"
    call = ["run", "--corpus", "x", "--backbone", clip.name, "--output-dir", str(tmp_path / "run"), *SMALL]
    assert main([*call, "--data.sources", sources, "--data.held_out=0.5", "--training.max_steps=3"]) == 0
    assert {row.metric for row in Results.load(tmp_path / "run").rows} == {"dense top 10"}
    (task,) = {row.task for row in Results.load(tmp_path / "run").rows}
    assert re.search(r"held-out rows among \d+$", task)
    documents = RunSearcher.load(tmp_path / "run", device="cpu").documents
    assert len(documents) == 80 and documents[79]["thumbnail"] is None


def test_shared_bias_is_what_the_recipe_says(clip, photos, tmp_path):
    call = ["run", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(tmp_path / "run"), *SMALL]
    assert main([*call, "--model.modality_bias=false", "--training.max_steps=2"]) == 0
    head = CSRModel.from_pretrained(tmp_path / "run" / "model")
    assert head.config.modalities == ["image", "text"]
    assert not head.modality_bias.any()
