"""Runs on a backbone that compares embeddings by dot product: measured, indexed, searched and evaluated by it."""

import importlib
import json

import numpy as np
import pytest
import yaml
from mteb.mocks import MockRetrievalTask
from sentence_transformers import SentenceTransformer, util

from csr_hf import CSRModel, MTEBArguments, Results, SearchParams, evaluate_mteb
from csr_hf.backends import open_backend
from csr_hf.cli.main import main
from csr_hf.cli.searching import collection_name
from csr_hf.codes import encode_embeddings, project_queries
from csr_hf.evaluation.mteb import MTEBEncoder
from csr_hf.evaluation.neighbors import ndcg_at
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.searcher import RunSearcher
from csr_hf.search.index import InvertedIndex
from tests.helpers.backbones import KINDS
from tests.helpers.mteb_tasks import scores_of
from tests.helpers.runs import make_once

RECIPE = {
    "model": {"hidden_dim": "4x", "k": 8},
    "training": {"max_steps": 8, "per_device_train_batch_size": 16},
    "evaluation": {"ks": [8], "baselines": ["binary", "int8"]},
    "index": {"copies": ["float16"]},
}
VARIANTS = {
    "dot": [],
    "euclidean": ["--backbone.similarity", "euclidean"],
}


@pytest.fixture(scope="module")
def place(session_folder):
    """A tiny backbone, pairs of texts, and runs on both: by dot product and by distance."""

    def make(folder):
        KINDS["dot"].save(folder / "backbone")
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, KINDS["dot"].pairs(80))))
        backbone = {"name_or_path": str(folder / "backbone"), "device": "cpu"}
        data = {"source": str(folder / "pairs.jsonl"), "held_out": 0.4}
        (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "backbone": backbone, "data": data}))
        for name, flags in VARIANTS.items():
            call = ["run", str(folder / "recipe.yaml"), "--no-progress", "--output-dir", str(folder / name)]
            assert main([*call, *flags]) == 0

    return make_once(session_folder / "similarities", make)


@pytest.fixture
def texts(place):
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    return {role: [row[role] for row in rows] for role in ("anchor", "positive")}


def test_held_out_rows_are_measured_by_the_backbones_own_similarity(place, texts):
    model = SentenceTransformer(str(place / "backbone"), device="cpu")
    results = Results.load(place / "dot")
    (row,) = results.select(method="dense", metric="nDCG@10")
    held_out = hold_out_of(place, texts)
    asked, answers = (model.encode([texts[role][at] for at in held_out]) for role in ("anchor", "positive"))
    by_dot, by_cosine = (
        ndcg_at(np.argsort(-np.asarray(compare(asked, answers)), axis=1), np.arange(len(held_out))).mean()
        for compare in (model.similarity, util.cos_sim)
    )
    assert row.score == pytest.approx(by_dot, abs=1e-6)
    assert row.score != pytest.approx(by_cosine, abs=1e-3)
    (recall,) = results.select(method="dense", metric="dense top 10")
    assert recall.score == 1
    assert results.details["similarity"] == "dot"
    assert "compares embeddings by dot product" in (place / "dot" / "results.md").read_text()
    (int8,) = results.select(method="int8", metric="dense top 10")
    assert int8.score > 0.8


def hold_out_of(place, texts):
    from csr_hf.data.sources import load_sources

    (source,) = load_sources(RunRecipe.load(place / "dot" / "recipe.yaml").data)
    return np.flatnonzero(source.held_out)


def test_distances_are_measured_and_the_search_says_what_it_compares_by(place):
    results = Results.load(place / "euclidean")
    assert results.details["similarity"] == "euclidean"
    assert "A search by CSR compares by cosine" in (place / "euclidean" / "results.md").read_text()
    assert InvertedIndex.load(place / "euclidean" / "index").similarity == "cosine"
    assert CSRModel.from_pretrained(place / "euclidean" / "model").config.base_model_settings == {
        "similarity": "euclidean"
    }
    (dense,) = results.select(method="dense", metric="dense top 10")
    assert dense.score == 1


@pytest.mark.parametrize("reranked_by", ["float16", "codes"])
def test_a_search_gives_dot_products(place, texts, reranked_by):
    model = SentenceTransformer(str(place / "backbone"), device="cpu")
    searcher = RunSearcher.load(place / "dot", device="cpu")
    assert searcher.index.index.similarity == "dot"
    searcher.index.params = SearchParams(rerank=reranked_by)
    documents = model.encode(texts["positive"])
    if reranked_by == "codes":
        coder = searcher.index.coder
        documents = coder.decode(coder.encode(documents))
    for question in texts["anchor"][:5]:
        expected = model.encode([question])[0] @ documents.T
        hits = searcher.search(question, 5)
        found = [texts["positive"].index(hit.text) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], expected[found], rtol=0.02, atol=0.02)
        np.testing.assert_allclose([hit.score for hit in hits], -np.sort(-expected)[:5], rtol=0.02, atol=0.02)


def test_mteb_measures_the_dense_model_as_it_does_itself(place, tmp_path, monkeypatch):
    module = importlib.import_module("mteb.get_tasks")
    name = MockRetrievalTask.metadata.name
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, name: MockRetrievalTask})
    arguments = MTEBArguments(ks=[8], baselines=["binary", "int8"], output_dir=str(tmp_path), device="cpu")
    results = evaluate_mteb(place / "dot", [name], arguments).results
    expected = scores_of(SentenceTransformer(str(place / "backbone"), device="cpu"), MockRetrievalTask())
    main_scores = [score for key, score in expected.items() if key[-1] == "main_score"]
    (dense,) = results.select(method="dense")
    assert dense.score == pytest.approx(np.mean(main_scores), abs=1e-6)
    assert results.details["similarity"] == "dot"
    assert "compares embeddings by dot product" in results.to_markdown()
    (meta,) = [path for path in (tmp_path / "mteb").rglob("model_meta.json") if "similarity_dot" == path.parent.name]
    assert json.loads(meta.read_text())["similarity_fn_name"] == "dot"


def test_settings_of_the_head_are_used_by_every_measurement(place, tmp_path, monkeypatch):
    """The prompts that a head was trained with are put before the texts of a task, and nobody says them again."""
    head = CSRModel.from_pretrained(place / "dot" / "model")
    head.config.base_model_settings = {"prompts": {"query": "ask: "}, "similarity": "cosine", "max_seq_length": 20}
    head.save_pretrained(tmp_path / "head")
    module = importlib.import_module("mteb.get_tasks")
    name = MockRetrievalTask.metadata.name
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, name: MockRetrievalTask})
    seen = {}
    search = MTEBEncoder.search
    monkeypatch.setattr(
        MTEBEncoder,
        "search",
        lambda self, *rest, **options: seen.update(backbone=self.cached.backbone) or search(self, *rest, **options),
    )
    arguments = MTEBArguments(ks=[8], baselines=[], output_dir=str(tmp_path / "out"), device="cpu")
    results = evaluate_mteb(tmp_path / "head", [name], arguments).results
    assert results.details["similarity"] == "cosine"
    backbone = seen["backbone"]
    assert (backbone.prompt(None, "query"), backbone.model.max_seq_length) == ("ask: ", 20)
    assert backbone.similarity_fn_name == "cosine"


def test_a_search_backend_gives_dot_products_of_codes(place, texts, tmp_path):
    pytest.importorskip("milvus_lite", reason='pip install "csr_hf[milvus]"')
    engine = ["--backend", f"milvus-lite:{tmp_path / 'there.db'}"]
    call = ["index", "--corpus", str(place / "pairs.jsonl"), "--text-column", "positive", "--no-progress", *engine]
    assert main([*call, "--head", str(place / "dot"), "--output-dir", str(tmp_path / "run")]) == 0
    with open_backend(engine[1], collection=collection_name(tmp_path / "run")) as backend:
        searcher = RunSearcher.load(tmp_path / "run", device="cpu", backend=backend)
        hits = searcher.search("a question", 5, query_k=64)
    embedding = searcher.encoder.backbone.embed(["a question"], task="query")
    codes = encode_embeddings(
        searcher.encoder.head, searcher.encoder.backbone.embed(texts["positive"]), refine="pursuit"
    )
    products = project_queries(searcher.encoder.head, embedding).codes(64).to_scipy() @ codes.to_scipy().T
    expected = -np.sort(-products.toarray().ravel())[:5]
    np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=0.03)
