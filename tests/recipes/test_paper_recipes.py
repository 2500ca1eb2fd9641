"""Recipes for data and models that are not here: their first ten steps, on made-up rows of the same form and size."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from datasets import Dataset

from csr_hf import CSRModel, RunRecipe
from csr_hf.cli.main import main
from tests.helpers.backbones import KINDS
from tests.helpers.clip import caption, picture, save_clip
from tests.helpers.scripts import ROOT, load_script

PAPER = ROOT / "recipes" / "paper"
DECODER = KINDS["decoder"]
# It has 128 positions.
SHORT = ["--backbone.max_seq_length=128"]
# The recipes' batches and latents would take minutes on a CPU.
SMALL = ["--training.max_steps=10", "--training.per_device_train_batch_size=32", "--training.logging_steps=1"]
SMALL += ["--model.hidden_dim=512", "--model.k_aux=128"]
CLASSES = 5


def make_rows(count, dim, seed=0):
    """Rows as backbones give them: classes, of which each fills a few directions, beside a mean."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centers = rng.standard_normal((CLASSES, dim))
    return (0.5 + centers[labels] + 0.3 * rng.standard_normal((count, dim))).astype(np.float32), labels


def write_resnet(folder):
    """One file where the recipe expects it, as the authors publish it: means of what a ReLU gives, and classes."""
    rows, labels = make_rows(200, 2048)
    path = folder / "data" / "csr-embeds" / "FF2048_RN50_Embeds" / "1K_train_ff2048.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, data=np.maximum(rows, 0), label=labels)
    return []


def write_vit(folder):
    """The same of a ViT-B."""
    rows, labels = make_rows(200, 768)
    (folder / "data").mkdir()
    np.savez(folder / "data" / "vit_base_train.npz", data=rows, label=labels)
    return []


def write_vit_parts(folder):
    """A folder of parts, as the authors' script cuts such a file, of a ViT-L."""
    rows, labels = make_rows(200, 1024)
    (folder / "parts").mkdir()
    for start in range(0, 200, 100):
        part = slice(start, start + 100)
        path = folder / "parts" / f"chunk_{start}_{start + 100}.npz"
        np.savez_compressed(path, data=rows[part], label=labels[part, None].astype(np.float16))
    return ["--data.source", "parts", "--data.columns", "{embedding: data, label: label}"]


def write_banking(folder):
    """Texts and classes, and a small decoder in place of the model."""
    DECODER.save(folder / "decoder")
    texts = DECODER.sentences(200)
    rows = {"text": texts, "label": [f"intent {number % 7}" for number in range(200)]}
    Dataset.from_dict(rows).to_parquet(folder / "banking.parquet")
    columns = ["--data.columns", "{text: text, label: label}"]
    return ["--data.source", str(folder / "banking.parquet"), *columns, *SHORT, "--backbone", str(folder / "decoder")]


def write_nv_embeddings(folder):
    """Embeddings of unit norm with classes, as the authors publish those of NV-Embed-v2."""
    rows, labels = make_rows(200, 4096)
    np.savez(folder / "train.npz", data=rows / np.linalg.norm(rows, axis=1, keepdims=True), label=labels)
    return ["--data.source", str(folder / "train.npz"), "--data.columns", "{embedding: data, label: label}"]


def write_fiqa(folder):
    """Pairs where the recipe expects them, and a small decoder in place of the model."""
    DECODER.save(folder / "decoder")
    (folder / "data").mkdir()
    Dataset.from_list(DECODER.pairs(200)).to_parquet(folder / "data" / "fiqa_pairs.parquet")
    return [*SHORT, "--backbone", str(folder / "decoder")]


def write_e5_embeddings(folder):
    rows, _ = make_rows(200, 4096)
    Dataset.from_dict({"embedding": list(rows)}).to_parquet(folder / "rows.parquet")
    columns = ["--data.columns", "{embedding: embedding}"]
    return ["--data.source", str(folder / "rows.parquet"), *columns, "--training.contrast", "self"]


def write_coco(folder):
    """Images with five captions each in the metadata of their folder, and a small CLIP of the same width."""
    save_clip(folder / "clip", dim=512)
    (folder / "train2014").mkdir()
    with (folder / "train2014" / "metadata.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file_name", "text"])
        for number in range(40):
            name = f"COCO_train2014_{number:012}.png"
            picture(number).save(folder / "train2014" / name)
            lines.writerows([name, f"{caption(number)}, said {again} times"] for again in range(5))
    return ["--backbone", str(folder / "clip")]


CASES = {
    "imagenet_resnet50_k32": (write_resnet, 2048),
    "imagenet_vit_k32": (write_vit, 768),
    "imagenet_vit_k32, parts": (write_vit_parts, 1024),
    "nv_embed_v2_k32": (write_banking, DECODER.dim),
    "nv_embed_v2_k32, embeddings": (write_nv_embeddings, 4096),
    "e5_mistral_k32": (write_fiqa, DECODER.dim),
    "e5_mistral_k32, embeddings": (write_e5_embeddings, 4096),
    "clip_coco_k64": (write_coco, 512),
}
"""Recipe -> what writes its data and says what differs from the recipe, and the width of a row."""


def test_every_recipe_that_was_not_run_is_tested():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in PAPER.glob("*.yaml")}
    assert {name.partition(",")[0] for name in CASES} == {n for n, text in texts.items() if "Not run here" in text}


@pytest.mark.parametrize("case", CASES)
def test_first_ten_steps(tmp_path, monkeypatch, case):
    write, dim = CASES[case]
    path = PAPER / f"{case.partition(',')[0]}.yaml"
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(path), *write(tmp_path), *SMALL, "--output-dir", "run", "--no-progress"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "training_log.jsonl").open(encoding="utf-8")]
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    given = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    k = given["k"]
    assert {f"reconstruction_{k}", f"reconstruction_{4 * k}", "contrast"} <= steps[0].keys()
    assert all(math.isfinite(line["loss"]) for line in steps)
    head = CSRModel.from_pretrained(tmp_path / "run" / "model")
    assert (head.config.input_dim, head.config.k, head.config.dead_threshold) == (dim, k, given["dead_threshold"])
    # Both begin at 0.
    assert head.latent_bias.abs().max() > 0 < head.pre_bias.abs().max()
    assert len({line["loss"] for line in steps}) == 10


def test_sizes_of_heads_are_the_published_ones():
    sizes = {path.stem: RunRecipe.load(path).model for path in PAPER.glob("*_k*.yaml")}
    widths = {"imagenet_resnet50_k32": 2048, "imagenet_vit_k32": 768, "nv_embed_v2_k32": 4096, "e5_mistral_k32": 4096}
    for name, width in {**widths, "clip_coco_k64": 512}.items():
        assert sizes[name].hidden_dim_for(width) == 4 * width
        assert sizes[name].k_aux == (1024 if width == 4096 else 512)


@pytest.mark.parametrize("path", sorted(PAPER.glob("*_k*.yaml")), ids=lambda path: path.stem)
def test_settings_are_those_of_the_published_code(path):
    """arXiv 2503.01776: constant rate of Adam, errors as means over elements, no warm-up; latents 4x the width."""
    training = RunRecipe.load(path).training
    assert training.error == "element"
    assert training.reconstruction == {"1": 1.0, "4": 0.125}
    assert (training.lr_scheduler_type, training.warmup_ratio, training.beta) == ("constant", 0, 1 / 32)
    assert training.learning_rate == (4e-5 if path.stem.startswith(("nv_", "e5_")) else 4e-4)
    assert training.gamma == (1 if path.stem.startswith("clip") else 0.1)


def test_nearest_class_is_that_of_the_nearest_of_all_rows(tmp_path):
    script = load_script("paper/nearest_class")
    rows, labels = make_rows(300, 32)
    np.savez(tmp_path / "train.npz", data=rows[:200], label=labels[:200])
    np.savez(tmp_path / "test.npz", data=rows[200:], label=labels[200:].astype(np.float16)[:, None])
    options = ["--data.source", str(tmp_path / "train.npz"), "--data.columns", "{embedding: data, label: label}"]
    sizes = [*SMALL, "--model.hidden_dim=64", "--model.k_aux=32", "--k", "8"]
    assert main(["train", *options, *sizes, "--output-dir", str(tmp_path / "run"), "--no-progress"]) == 0
    results = script.measure_nearest(
        str(tmp_path / "run"), *(str(tmp_path / f"{n}.npz") for n in ("train", "test")), [4]
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = (unit[200:] @ unit[:200].T).argmax(axis=1)
    dense = results.rows[0]
    assert (dense.method, dense.n_queries, dense.n_documents) == ("dense", 100, 200)
    assert dense.score == (labels[:200][nearest] == labels[200:]).mean()
    assert [row.k for row in results.rows] == [None, 4, 4]


@pytest.mark.slow
def test_pairs_of_a_task_are_its_training_questions_with_what_answers_them(shared_data, tmp_path):
    """SciFact: 919 judgments of 809 training questions."""
    pytest.importorskip("mteb")
    home = shutil.copytree(shared_data / "hf_home", tmp_path / "home", copy_function=os.link)
    call = [sys.executable, "recipes/paper/task_pairs.py", "SciFact", str(tmp_path / "pairs.parquet")]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pairs = Dataset.from_parquet(str(tmp_path / "pairs.parquet"))
    assert pairs.column_names == ["anchor", "positive"]
    assert (len(pairs), len(set(pairs["anchor"]))) == (919, 809)
    assert min(map(len, pairs["positive"])) > 100
