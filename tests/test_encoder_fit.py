"""`CSREncoder.fit` is a run, and what it makes is shared like one."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from csr_hf import CSREncoder, load_backbone
from csr_hf.runs.folder import RunFolder
from tests.helpers.backbones import KINDS
from tests.helpers.hub_server import TOKEN

SMALL = {
    "training": {"max_steps": 20, "per_device_train_batch_size": 32},
    "data": {"held_out": 0.3},
    "evaluation": {"ks": [4], "baselines": ["truncate"]},
}


@pytest.fixture(scope="module")
def texts():
    return KINDS["bert"].sentences(90)


@pytest.fixture(scope="module")
def fitted(tiny_folder, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "run"
    encoder = CSREncoder(str(tiny_folder("bert")), k=4, hidden_dim=64, device="cpu")
    assert encoder.fit(texts, output_dir=folder, recipe=SMALL) is encoder
    return encoder, folder


def test_fit_is_a_run(fitted, texts):
    encoder, path = fitted
    folder = RunFolder.of(path)
    assert folder.is_run and folder.results.is_file() and folder.index.is_dir()
    assert (encoder.head.config.k, encoder.head.config.hidden_dim) == (4, 64)
    again = CSREncoder.from_pretrained(path, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert np.array_equal(again.encode(texts).indices, encoder.encode(texts).indices)
    assert repr(encoder).endswith("bert/model, 32 -> 64 latents, k=4, on cpu)")


def test_fit_goes_on_with_the_same_texts_and_refuses_others(fitted, texts, tiny_folder):
    encoder, path = fitted
    before = {file: file.stat().st_mtime_ns for file in RunFolder.of(path).model.iterdir()}
    same = CSREncoder(load_backbone(str(tiny_folder("bert")), device="cpu"), k=4, hidden_dim=64)
    assert same.fit(iter(texts), output_dir=path, recipe=SMALL).fingerprint == encoder.fingerprint
    assert {file: file.stat().st_mtime_ns for file in RunFolder.of(path).model.iterdir()} == before
    kept = sorted(path.parent.rglob("texts.parquet"))
    with pytest.raises(ValueError, match=r"holds a run with data.source .*, this recipe says"):
        same.fit(texts[1:], output_dir=path, recipe=SMALL)
    assert sorted(path.parent.rglob("texts.parquet")) == kept
    with pytest.raises(ValueError, match=r"holds a run with model.k 4, this recipe says 5"):
        CSREncoder(same.backbone, k=5, hidden_dim=64).fit(texts, output_dir=path, recipe=SMALL)


def test_a_new_head_has_the_k_of_the_one_that_it_replaces(fitted, texts, tmp_path):
    encoder = CSREncoder.from_pretrained(fitted[1], device="cpu")
    encoder.hidden_dim = 48
    encoder.fit(texts, output_dir=tmp_path / "run", recipe=SMALL)
    assert (encoder.k, encoder.head.config.k, encoder.head.config.hidden_dim) == (4, 4, 48)


@pytest.mark.parametrize("kind", ["pairs", "rows", "dataset", "columns"])
def test_fit_takes_pairs_and_tables(kind, tiny_folder, tmp_path):
    rows = KINDS["bert"].pairs(90)
    given = {
        "pairs": [(row["anchor"], row["positive"]) for row in rows],
        "rows": rows,
        "dataset": Dataset.from_list(rows).select(range(90)),
        "columns": {name: [row[name] for row in rows] for name in ("anchor", "positive")},
    }
    encoder = CSREncoder(str(tiny_folder("bert")), k=4, hidden_dim=64, device="cpu")
    encoder.fit(given[kind], output_dir=tmp_path / "run", recipe=SMALL)
    tasks = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert tasks[0]["task"].startswith("texts.parquet, ") and tasks[0]["task"].endswith("held-out pairs")


def test_what_is_no_data_is_refused(tiny_folder, tmp_path):
    encoder = CSREncoder(str(tiny_folder("bert")), k=4, device="cpu")
    for given, message in (
        ("", "data.source"),
        ({"b", "a"}, "has no order"),
        (["a", None], r"inputs\[1\] is missing"),
        ([("a", "b"), ("c",)], r"inputs\[1\] has 1 parts"),
        ([], "nothing to learn from"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.fit(given, output_dir=tmp_path / "run", recipe=SMALL)
        assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_four_lines_from_texts_to_a_published_head(hub, tiny_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("user/tiny", tiny_folder("bert"))
    encoder = CSREncoder("user/tiny", k=4, hidden_dim=64, device="cpu")
    encoder.fit(texts, output_dir=tmp_path / "run", recipe=SMALL)
    assert encoder.push_to_hub("user/tiny-csr").endswith("user/tiny-csr")
    shared = CSREncoder.from_pretrained("user/tiny-csr", device="cpu")
    assert shared.fingerprint == encoder.fingerprint
    assert np.array_equal(shared.encode(texts).indices, encoder.encode(texts).indices)
    card = hub.repo("user/tiny-csr").files("main")["README.md"].decode()
    assert "held-out texts" in card and "user/tiny-csr" in card and "base_model: user/tiny" in card


def test_a_model_in_memory_is_fitted_and_saved_whole(tiny_folder, texts, tmp_path):
    from sentence_transformers import SentenceTransformer, SparseEncoder

    model = SentenceTransformer(str(tiny_folder("bert")), device="cpu")
    model.prompts["query"] = "ask: "
    encoder = CSREncoder(model, k=4, hidden_dim=64).fit(texts, output_dir=tmp_path / "run", recipe=SMALL)
    encoder.save_pretrained(tmp_path / "out", layout="full")
    own = CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu")
    expected = encoder.encode_query(
        texts[:5], project=False, normalize_embeddings=True, convert_to_sparse_tensor=False
    )
    for found in (
        own.encode_query(texts[:5], project=False, normalize_embeddings=True, convert_to_sparse_tensor=False),
        stock.encode_query(texts[:5], convert_to_sparse_tensor=False),
    ):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    encoder.save_pretrained(tmp_path / "out", layout="full")
    other = CSREncoder(encoder.backbone, type(own.head)(own.head.config))
    with pytest.raises(ValueError, match="holds another head"):
        other.save_pretrained(tmp_path / "out")
    for _ in range(2):
        other.save_pretrained(tmp_path / "other", layout="full")
    assert CSREncoder.from_pretrained(tmp_path / "other", device="cpu").fingerprint == other.fingerprint
