"""Every kind of backbone from the first command to the last: run, resume, encode, search, evaluate, export, load."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from mteb.mocks import MockRetrievalTask
from safetensors.numpy import load_file
from sentence_transformers import SparseEncoder
from transformers import AutoModel

from csr_hf import CSREncoder, CSRModel, Results, load_backbone
from csr_hf.cli.main import main
from csr_hf.publishing.export import export
from csr_hf.runs.searcher import RunSearcher
from tests.helpers.backbones import KINDS, load_stock
from tests.helpers.clip import caption, picture, save_photos
from tests.helpers.doors import plain
from tests.helpers.runs import make_once
from tests.helpers.scripts import ROOT

STEPS = {"max_steps": 8, "save_steps": 4, "logging_steps": 4, "per_device_train_batch_size": 16}
RECIPE = {
    "model": {"hidden_dim": "4x", "k": 8},
    "training": STEPS,
    "evaluation": {"ks": [8], "baselines": ["binary"]},
    "index": {"copies": ["float16"]},
}
ROWS = 100
ALWAYS = ("dot", "router", "matryoshka", "bfloat16", "remote_code", "clip")
"""Kinds that go all the way in every test run; `make slow-test` takes the others, which differ in embedding alone."""
SCORED = ("dot", "router")
"""Kinds whose scores are computed in every test run too, which takes longer than all else here."""


def some(always):
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]


@pytest.fixture(params=some(ALWAYS))
def name(request):
    return request.param


@pytest.fixture
def kind(name):
    return KINDS[name]


@pytest.fixture
def folder(name, kind, session_folder):
    """A folder with a backbone, a recipe, and the finished `run` of it; to be read, not written."""

    def make(folder):
        kind.save(folder / "backbone")
        backbone = {"name_or_path": str(folder / "backbone"), "device": "cpu", **kind.settings}
        data = {"source": str(write_data(folder, kind)), "held_out": 0.3}
        (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "backbone": backbone, "data": data}))
        assert call(kind, "run", folder / "recipe.yaml", "--output-dir", folder / "run") == 0

    return make_once(session_folder / f"kind_{name}", make)


@pytest.fixture
def encoder(folder, kind):
    return CSREncoder.from_pretrained(folder / "run", device="cpu", trust_remote_code=kind.trust_remote_code)


def call(kind, *words):
    trust = ["--trust-remote-code"] if kind.trust_remote_code else []
    return main([*map(str, words), "--no-progress", *trust])


def write_data(folder, kind):
    """Write pictures with captions for a backbone of both, else pairs of texts."""
    if "image" in kind.modalities:
        save_photos(folder / "photos", ROWS)
        return folder / "photos"
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, kind.pairs(ROWS))))
    return folder / "pairs.jsonl"


def texts_of(kind):
    return [caption(number) for number in range(5)] if "image" in kind.modalities else kind.sentences(5, seed=1)


def unit_if_cosine(codes, kind):
    return (codes.normalize() if kind.similarity == "cosine" else codes).to_torch().to_dense()


def close(found, expected, kind):
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=kind.tolerance, rtol=0)


def test_embeddings_are_those_of_sentence_transformers(encoder, folder, kind):
    stock, texts = load_stock(folder / "backbone", kind), texts_of(kind)
    ways = {None: stock.encode, "query": stock.encode_query, "document": stock.encode_document}
    own = load_backbone(
        str(folder / "backbone"), device="cpu", trust_remote_code=kind.trust_remote_code, **kind.settings
    )
    assert own.similarity_fn_name == stock.similarity_fn_name == kind.similarity
    assert own.modalities == kind.modalities
    assert own.fingerprint == encoder.backbone.fingerprint
    for task, encode in ways.items():
        expected = encode(texts, normalize_embeddings="image" in kind.modalities)
        assert expected.shape == (5, kind.dim)
        # The head's config is enough: nobody says the settings again.
        for backbone in (own, encoder.backbone):
            close(backbone.embed(texts, task=task), expected, kind)


def test_run_is_resumed(folder, kind, tmp_path):
    """Each kind is embedded, trained, measured and indexed by one command, and trained on by another."""
    assert {row.method for row in Results.load(folder / "run").rows} == {"dense", "CSR", "CSR, decoded", "binary"}
    again = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(again / "checkpoints" / "step_0000008")
    shutil.rmtree(again / "model")
    cache = ["--cache-dir", folder / "embeddings"]
    assert call(kind, "train", folder / "recipe.yaml", "--output-dir", again, *cache) == 0
    whole, resumed = (CSRModel.from_pretrained(path / "model").state_dict() for path in (folder / "run", again))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_encode_and_search_agree_between_command_and_python(encoder, folder, kind, tmp_path, capsys):
    texts = texts_of(kind)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    out = tmp_path / "codes.safetensors"
    assert call(kind, "encode", folder / "run", tmp_path / "texts.txt", "-o", out, "--device", "cpu") == 0
    codes, expected = load_file(out), encoder.encode(texts)
    assert np.array_equal(codes["indices"], expected.indices)
    np.testing.assert_array_equal(codes["values"], expected.values.astype(np.float16))
    searcher = RunSearcher.load(folder / "run", device="cpu", trust_remote_code=kind.trust_remote_code)
    hits = searcher.search(texts[0], top_k=3)
    capsys.readouterr()
    assert call(kind, "search", folder / "run", texts[0], "--top-k", "3", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert len(hits) == 3
    assert all(f"{hit.score:.3f}" in said for hit in hits)


@pytest.mark.parametrize("name", some(SCORED))
def test_task_of_mteb_is_measured(name, folder, kind, tmp_path, monkeypatch, capsys):
    module = importlib.import_module("mteb.get_tasks")
    task = MockRetrievalTask.metadata.name
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, task: MockRetrievalTask})
    flags = ["--tasks", task, "--k", "8", "--baselines", "binary", "--output-dir", tmp_path]
    capsys.readouterr()
    assert call(kind, "evaluate", folder / "run", *flags, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    found = {row.method: row.score for row in Results.load(tmp_path).select(task=task)}
    assert ({row["method"]: row["score"] for row in said["results"]["rows"]}, said["failures"]) == (found, {})
    assert {"dense", "CSR", "CSR, decoded", "binary"} <= found.keys()
    assert all(0 <= score <= 1 for score in found.values())


def test_export_is_loaded_by_every_door(encoder, folder, kind, tmp_path):
    if kind.trust_remote_code:
        pytest.skip("its export is the head alone")
    assert call(kind, "export", folder / "run", tmp_path / "out", "--device", "cpu") == 0
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu")
    own = CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert own.backbone.source.endswith("itself")
    assert own.fingerprint == encoder.fingerprint
    assert own.backbone.fingerprint == encoder.backbone.fingerprint
    assert own.backbone.similarity_fn_name == kind.similarity
    weights = encoder.head.state_dict()
    for head in (AutoModel.from_pretrained(tmp_path / "out"), CSRModel.from_pretrained(tmp_path / "out")):
        assert all(torch.equal(weights[name], tensor) for name, tensor in head.state_dict().items())
        assert head.dtype == torch.float32
    ways = [(way, texts_of(kind), k) for way, k in (("encode", 8), ("encode_query", 4), ("encode_document", 8))]
    ways += [("encode", [picture(number) for number in range(3)], 8)] if "image" in kind.modalities else []
    for way, inputs, k in ways:
        expected = unit_if_cosine(plain(encoder, way)(inputs, max_active_dims=k), kind)
        close(getattr(stock, way)(inputs, max_active_dims=k).to_dense(), expected, kind)
        close(unit_if_cosine(plain(own, way)(inputs, max_active_dims=k), kind), expected, kind)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.trust_remote_code])
def test_backbone_with_code_of_its_own_goes_out_as_a_head(name, encoder, folder, kind, tmp_path, capsys):
    done = export(folder / "run", tmp_path / "out", base_model="user/theirs", device="cpu")
    assert done.layout == "head"
    assert "needs code of its own repository" in done.reason
    assert torch.equal(CSRModel.from_pretrained(tmp_path / "out").encoder.weight, encoder.head.encoder.weight)
    assert main(["export", str(folder / "run"), str(tmp_path / "full"), "--layout", "full"]) == 2
    said = capsys.readouterr().err
    assert "layout full cannot hold this backbone: it needs code of its own" in said
    assert main(["export", str(folder / "run"), str(tmp_path / "full")]) == 2
    assert "not on the Hub" in capsys.readouterr().err
    assert not (tmp_path / "full").exists()
    with pytest.raises(ValueError, match="trust_remote_code"):
        CSREncoder.from_pretrained(folder / "run", device="cpu")


def test_page_of_recipes_names_every_kind():
    """And what its user passes."""
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8").partition("## Backbones\n")[2]
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(KINDS)
    for row, kind in zip(rows, KINDS.values(), strict=True):
        assert all(f"`{example}`" in row for example in kind.examples), row
        assert all(f"`{key}: " in row for key in kind.settings), row
        assert ("trust_remote_code" in row and "the head alone" in row) == kind.trust_remote_code, row
