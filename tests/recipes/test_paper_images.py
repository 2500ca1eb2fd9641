"""recipes/paper on images: both networks, heads on the plain one and all measurements, on made-up pictures."""

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from csr_hf import Results
from csr_hf.evaluation.probes import knn_accuracy

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "paper"))

import image_heads
import image_networks

RECIPES = Path(__file__).parents[2] / "recipes"
CLASSES, TRAINED, TESTED = 4, 240, 40


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder of both networks after a few steps, on pictures whose class is their color."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 255, (CLASSES, 3))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(CLASSES)})
    for split, count in (("train", TRAINED), ("test", TESTED)):
        labels = rng.integers(0, CLASSES, count)
        noise = rng.integers(-60, 60, (count, 32, 32, 3))
        pixels = np.clip(colors[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
        rows = datasets.Dataset.from_dict({"img": list(pixels), "label": labels}, features=features)
        rows.to_parquet(folder / "data" / f"{split}.parquet")
    threads = torch.get_num_threads()
    image_networks.main(["--data", str(folder / "data"), "--output", str(folder / "runs"), "--epochs", "8"])
    torch.set_num_threads(threads)
    return folder / "runs"


def test_both_networks_learn_and_save_embeddings_of_both_splits(networks):
    for name, dims in (("plain", [256]), ("nested", [8, 16, 32, 64, 128, 256])):
        found = json.loads((networks / name / "network.json").read_text())
        assert found["dims"] == dims
        assert list(found["classifier_accuracy"]) == [str(dim) for dim in dims]
        assert found["classifier_accuracy"]["256"] > 0.6
        assert found["minutes_training"] > found["minutes_embedding"] > 0
        train, test = (np.load(networks / name / f"{split}.npz") for split in ("train", "test"))
        assert (train["embedding"].shape, test["embedding"].shape) == ((TRAINED, 256), (TESTED, 256))
        assert train["embedding"].dtype == np.float32 and train["embedding"].min() >= 0
        assert len(train["label"]) == TRAINED
        rows = [train["embedding"], train["label"], test["embedding"], test["label"]]
        assert knn_accuracy(*rows) > 0.6


def test_a_network_that_is_trained_stays(networks):
    before = (networks / "plain" / "train.npz").stat().st_mtime_ns
    image_networks.main(["--data", str(networks.parent / "data"), "--output", str(networks), "--networks", "plain"])
    assert (networks / "plain" / "train.npz").stat().st_mtime_ns == before


def test_shifted_pictures_hold_the_pixels_of_the_picture():
    pixels = torch.arange(3 * 32 * 32).reshape(1, 3, 32, 32).float().repeat(8, 1, 1, 1)
    moved = image_networks.shift_and_mirror(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape
    steps = moved[:, 0, 0, 5] - moved[:, 0, 0, 4]
    assert set(steps.tolist()) <= {1.0, -1.0} and len(set(steps.tolist())) == 2
    assert len({float(value) for value in moved[:, 0, 16, 16]}) > 1


def test_heads_are_trained_and_measured_beside_the_nested_network(networks, monkeypatch, tmp_path):
    recipe = tmp_path / "images.yaml"
    recipe.write_text(image_heads.RECIPE.read_text().replace("max_steps: 400", "max_steps: 20"))
    monkeypatch.setattr(image_heads, "RECIPE", recipe)
    monkeypatch.setattr(image_heads, "KS", (8, 16))
    output = tmp_path / "paper" / "results" / "images"
    arguments = ["--networks", str(networks), "--output", str(output), "--heads", "k8,k16,whitened_4x_k32"]
    image_heads.main(arguments)
    results = Results.load(output)
    numbers, sizes = dict.fromkeys(row.task for row in results.rows)
    plain = {row.method for row in results.select(task=numbers)}
    csr = "CSR, hidden_dim 1024"
    assert plain == {"dense", csr, f"{csr}, whitened", "nested", "first dimensions"}
    assert {row.k for row in results.select(method=csr)} == {8, 16}
    assert (output / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    (nested,) = results.select(task=numbers, method="nested", k=8, metric="1-NN accuracy")
    rows = [np.load(networks / "nested" / f"{split}.npz") for split in ("train", "test")]
    expected = knn_accuracy(
        rows[0]["embedding"][:, :8], rows[0]["label"], rows[1]["embedding"][:, :8], rows[1]["label"]
    )
    # Half precision may turn a tie.
    assert nested.score == pytest.approx(expected, abs=1.5 / TESTED)
    assert nested.bytes_per_vector == 16
    for row in results.select(task=sizes, method="CSR"):
        (rival,) = results.select(task=sizes, method="nested", bytes_per_vector=row.bytes_per_vector)
        assert rival.k == row.bytes_per_vector > row.k
    assert {"k8", "k16", "whitened_4x_k32"} == results.details["heads"].keys()
    for figures in results.details["heads"].values():
        assert 0 <= figures["dead_fraction"] <= 1 and figures["minutes"] > 0
    # What is done is not done again.
    before = json.dumps(results.details["heads"])
    image_heads.main(arguments)
    assert json.dumps(Results.load(output).details["heads"]) == before

    monkeypatch.syspath_prepend(RECIPES)
    from regions import markdown, paper_images

    monkeypatch.setattr(markdown, "RECIPES", tmp_path)
    pages = {name: region() for name, region in paper_images.REGIONS.items() if "clip" not in name}
    assert f"| 8 | {nested.score:.3f} ± " in pages["paper-images"]
    assert "| 4x | whitened by 0.9 | " in pages["paper-images-starts"]
    assert pages["paper-images-bytes"].count("\n") == 3
    assert all(pages.values())
