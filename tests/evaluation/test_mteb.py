"""Methods as models of the real mteb, on its mock tasks and on small tasks with known answers."""

import json
import math

import mteb
import numpy as np
import pytest
import torch
from mteb.mocks import MOCK_TASK_TEST_GRID
from mteb.similarity_functions import cos_sim, pairwise_cos_sim

from csr_hf import CSREncoder
from csr_hf.evaluation.baselines import Binary, Int8
from csr_hf.evaluation.methods import (
    BaselineMethod,
    CodesMatrix,
    CSRMethod,
    DecodedCSRMethod,
    DenseMethod,
    TwoStageMethod,
    all_methods,
)
from csr_hf.evaluation.mteb import EmbeddingSource, MTEBEncoder, model_meta
from csr_hf.evaluation.tasks import evaluate_tasks, load_tasks
from tests.publishing.conftest import make_head

NAMED = {"model_name": "user/x", "revision": "1"}
QUIET = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
TEXT_TASKS = [task for task in MOCK_TASK_TEST_GRID if task.metadata.modalities == ["text"]]


@pytest.fixture(scope="module")
def source(backbone, tmp_path_factory):
    return EmbeddingSource(backbone, tmp_path_factory.mktemp("embeddings"), progress=False)


@pytest.fixture(scope="module")
def head():
    return make_head(hidden_dim=1536, k=32)


class DenseArithmetic:
    """The same rows, made dense, compared and searched by mteb's own arithmetic."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.mteb_model_meta = encoder.mteb_model_meta

    def encode(self, *arguments, **options):
        return np.asarray(self.encoder.encode(*arguments, **options))

    def similarity(self, embeddings1, embeddings2):
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1, embeddings2):
        return pairwise_cos_sim(embeddings1, embeddings2)


def by_name(tasks):
    return {task.metadata.name: task for task in tasks}


def scores_of(model, task):
    found = mteb.evaluate(model, task, encode_kwargs={"batch_size": 32, "show_progress_bar": False}, **QUIET)
    return {
        (result.task_name, split, number, name): float(value)
        for result in found.task_results
        for split, subsets in result.scores.items()
        for number, subset in enumerate(subsets)
        for name, value in subset.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def test_there_are_29_text_tasks():
    assert len(TEXT_TASKS) == 29


@pytest.mark.parametrize("number", range(29))
def test_sparse_path_equals_dense_arithmetic_on_every_kind_of_task(source, head, number):
    task = TEXT_TASKS[number]
    encoder = MTEBEncoder(source, CSRMethod(head, 32, refine=False))
    sparse, dense = (scores_of(model, task) for model in (encoder, DenseArithmetic(encoder)))
    assert sparse.keys() == dense.keys()
    assert len(sparse) > 0
    for name, score in sparse.items():
        assert math.isclose(score, dense[name], abs_tol=1e-6) or (math.isnan(score) and math.isnan(dense[name])), name


def test_stock_sparse_encoder_gives_the_same_scores(backbone, source, head, tmp_path):
    from sentence_transformers import SparseEncoder

    from csr_hf.publishing.sentence_transformers import write_full

    (tmp_path / "full").mkdir()
    write_full(backbone, head, tmp_path / "full")
    stock = SparseEncoder(str(tmp_path / "full"), device="cpu")
    own = MTEBEncoder.from_encoder(CSREncoder(backbone, head), tmp_path / "embeddings")
    for name in ("MockSTSTask", "MockClassificationTask", "MockRetrievalTask"):
        task = next(task for task in TEXT_TASKS if task.metadata.name == name)
        expected, found = scores_of(stock, task), scores_of(own, task)
        main = [key for key in expected if key[-1] == "main_score"]
        assert main
        for key in main:
            assert found[key] == pytest.approx(expected[key], abs=1e-3)


def test_rows_stay_sparse_where_estimators_take_them(source, head):
    encoder = MTEBEncoder(source, CSRMethod(head, 4))
    kinds = {}
    for task in TEXT_TASKS:
        kinds[task.metadata.type] = encoder.encode(
            [{"text": ["a", "b"]}], task_metadata=task.metadata, hf_split="", hf_subset=""
        )
    for kind in ("Classification", "Clustering", "STS", "Regression", "BitextMining"):
        assert isinstance(kinds[kind], CodesMatrix)
        assert kinds[kind].nnz <= 8
        assert len(kinds[kind]) == 2
    assert isinstance(kinds["PairClassification"], np.ndarray)


class Corpus(list):
    """Rows as mteb hands them over, a column by name."""

    def __getitem__(self, name):
        return [row[name] for row in self] if isinstance(name, str) else super().__getitem__(name)


@pytest.fixture(scope="module")
def searched(backbone):
    texts = [f"{thing} number {i}" for i in range(20) for thing in ("cat", "river", "matrix", "poem", "engine")]
    rng = np.random.default_rng(0)
    documents = backbone.embed(texts)
    queries = documents[rng.choice(100, 10, replace=False)] + 0.05 * rng.standard_normal((10, 384)).astype(np.float32)
    return documents, queries


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def codes_of(method, embeddings, k, refine=False):
    values, indices = method.head.encode(torch.from_numpy(np.ascontiguousarray(embeddings)), k, refine=refine)
    return torch.zeros(len(values), method.head.config.hidden_dim).scatter(1, indices, values).detach().numpy()


def searched_codes(method, documents, queries, refine):
    """Codes as they are stored, what they decode to, and the largest projections of the queries."""
    stored = codes_of(method, documents, method.k, refine).astype(np.float16).astype(np.float32)
    atoms = method.head.encoder.weight.detach().numpy()
    projections = unit(queries) @ atoms.T
    kept = -np.sort(-projections, axis=1)[:, [method.query_k - 1]]
    asked = np.where(projections >= np.maximum(kept, 0), projections, 0)
    return stored, stored @ atoms + method.head.pre_bias.detach().numpy(), asked


def written_out(method, documents, queries):
    """Scores of all pairs, from the definition of each method; -9 for those without a latent in common."""
    if isinstance(method, DecodedCSRMethod):
        stored, decoded, asked = searched_codes(method, documents, queries, "pursuit")
        return np.where(asked @ stored.T > 0, unit(queries) @ unit(decoded).T, -9)
    if isinstance(method, TwoStageMethod):
        stored, _, asked = searched_codes(method, documents, queries, True)
        kept = unit(documents)
        if method.copy == "binary":
            kept = np.where(kept > 0, 1, -1) / np.sqrt(384)
        return np.where(asked @ stored.T > 0, unit(queries) @ kept.T, -9)
    if isinstance(method, CSRMethod) and method.refine:
        stored, decoded, asked = searched_codes(method, documents, queries, True)
        return asked @ stored.T / np.linalg.norm(decoded, axis=1)
    if isinstance(method, CSRMethod):
        return unit(codes_of(method, queries, method.query_k)) @ unit(codes_of(method, documents, method.k)).T
    if isinstance(method, BaselineMethod):
        return method.baseline.queries(unit(queries)) @ method.baseline.documents(unit(documents)).T
    return unit(queries) @ unit(documents).T


def test_every_method_searches_and_scores_as_it_is_defined(head, searched):
    documents, queries = searched
    methods = all_methods(
        head,
        documents[::-1],
        ks=[8, 32],
        baselines=["truncate", "pca", "int8", "binary"],
        two_stage=["int8", "binary", "float16"],
        candidates=100,
    )
    methods.append(CSRMethod(head, 8, refine=False))
    assert len({str(method.settings) for method in methods}) == len(methods)
    for method in methods:
        searcher = method.index(documents)
        expected = written_out(method, documents, queries)
        hits = searcher.search(queries, 5)
        for row, positions in enumerate(hits.positions):
            np.testing.assert_allclose(expected[row, positions], np.sort(expected[row])[::-1][:5], atol=2e-3)
            np.testing.assert_allclose(hits.scores[row], expected[row, positions], atol=2e-3)
            chosen = np.array([at for at in (3, 50, 97) if expected[row, at] > -9], np.int64)
            np.testing.assert_allclose(searcher.score(queries[row], chosen), expected[row, chosen], atol=2e-3)


def test_bytes_are_those_that_are_stored(head, searched):
    sizes = {(method.name, method.k): method.bytes_per_vector for method in all_methods(head, searched[0], ks=[8])}
    # Two bytes for an index of 1,536, two for a value, four for a norm.
    assert sizes == {
        ("dense", None): 1536,
        ("CSR", 8): 36,
        ("CSR, decoded", 8): 36,
        ("CSR + int8", 8): 36 + 384 + 4,
        ("truncation", None): 36,
        ("PCA", None): 36,
        ("int8", None): 384,
        ("binary", None): 48,
    }
    assert CSRMethod(make_head(hidden_dim=100_000, k=8), 8).bytes_per_vector == 52


def test_without_training_embeddings_fitted_baselines_are_left_out(head):
    names = [
        method.name for method in all_methods(head, None, ks=[8], baselines=["truncate", "pca", "int8", "binary"])
    ]
    assert names == ["dense", "CSR", "CSR, decoded", "CSR + int8", "truncation", "binary"]


def test_unknown_baseline_names_the_nearest(head):
    with pytest.raises(ValueError, match=r"baseline 'truncat' is unknown\. Did you mean 'truncate'"):
        all_methods(head, None, ks=[8], baselines=["truncat"])
    with pytest.raises(ValueError, match=r"two-stage copy 'in8' is unknown\. Known: binary, int8, float16"):
        all_methods(head, None, ks=[8], two_stage=["in8"])


def test_documents_that_share_no_latent_come_last(head, searched):
    documents, _ = searched
    method = CSRMethod(head, 1, refine=False)
    hits = method.index(documents).search(documents[:3], 100)
    for positions in hits.positions:
        assert sorted(positions) == list(range(100))
    assert (np.diff(hits.scores, axis=1) <= 0).all()


def test_cache_keeps_models_methods_and_settings_apart(source, head, tmp_path):
    """mteb's own trap: models without a name share their cached scores."""
    task = next(task for task in TEXT_TASKS if task.metadata.name == "MockRetrievalTask")
    cache = mteb.ResultCache(tmp_path)
    methods = [
        DenseMethod(384),
        CSRMethod(head, 4),
        CSRMethod(head, 8),
        CSRMethod(head, 4, query_k_factor=2),
        CSRMethod(head, 4, refine=False),
        CSRMethod(make_head(1, hidden_dim=1536, k=32), 4),
        DecodedCSRMethod(head, 4),
        BaselineMethod(Binary(384)),
        BaselineMethod(Int8(np.eye(384, dtype=np.float32)), "a"),
        BaselineMethod(Int8(2 * np.eye(384, dtype=np.float32)), "b"),
    ]
    metas = [model_meta(source.backbone, method) for method in methods]
    for method, meta in zip(methods, metas, strict=True):
        assert cache.load_task_result(task.metadata.name, meta) is None, method.settings
        mteb.evaluate(MTEBEncoder(source, method), task, cache=cache, co2_tracker=False, show_progress_bar=False)
        assert cache.load_task_result(task.metadata.name, meta) is not None
    paths = {path.parent for path in tmp_path.rglob("MockRetrievalTask.json")}
    assert len(paths) == len(methods)


def test_backbone_runs_once_whatever_the_number_of_methods(backbone, head, tmp_path):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockRetrievalTask", "MockSTSTask")]
    first = EmbeddingSource(backbone, tmp_path / "a", progress=False)
    evaluate_tasks(by_name(tasks), [DenseMethod(384)], first, tmp_path / "x", **NAMED)
    second = EmbeddingSource(backbone, tmp_path / "b", progress=False)
    methods = all_methods(head, None, ks=[4, 8, 16], baselines=["truncate", "binary"])
    evaluate_tasks(by_name(tasks), methods, second, tmp_path / "y", **NAMED)
    assert second.embedded == first.embedded > 0
    third = EmbeddingSource(backbone, tmp_path / "b", progress=False)
    evaluate_tasks(by_name(tasks), methods, third, tmp_path / "z", **NAMED)
    assert third.embedded == 0


def test_spared_lookups_change_no_score(source, head, tmp_path):
    for task in TEXT_TASKS:
        if "Classification" not in task.metadata.type:
            continue
        method = CSRMethod(head, 4)
        expected = scores_of(MTEBEncoder(source, method), type(task)())
        evaluate_tasks(by_name([type(task)()]), [method], source, tmp_path / task.metadata.name, **NAMED)
        (path,) = (tmp_path / task.metadata.name).rglob(f"{task.metadata.name}.json")
        found = json.loads(path.read_text())["scores"]
        main = [subset["main_score"] for subsets in found.values() for subset in subsets]
        assert main == pytest.approx([score for key, score in expected.items() if key[-1] == "main_score"])


def test_a_part_of_a_task_has_a_name_and_a_score_of_its_own(source, head, tmp_path):
    task = type(next(task for task in TEXT_TASKS if task.metadata.name == "MockMultilingualSTSTask"))
    first, second = task().hf_subsets[:2]
    whole = evaluate_tasks({"whole": task()}, [DenseMethod(384)], source, tmp_path, **NAMED).results
    parts = {f"part:{name}": task().filter_languages(None, hf_subsets=[name]) for name in (first, second)}
    # The cache holds the whole task by now.
    found = evaluate_tasks(parts, [DenseMethod(384)], source, tmp_path, **NAMED).results
    assert [row.task for row in found.rows] == ["whole", f"part:{first}", f"part:{second}"]
    scores = [row.score for row in found.rows]
    assert scores[0] == pytest.approx((scores[1] + scores[2]) / 2)
    assert whole.rows[0] == found.rows[0]
    assert found.details["datasets"] == {}


def test_rows_of_earlier_calls_stay_with_the_same_head_alone(source, head, tmp_path):
    tasks = {
        task.metadata.name: task for task in TEXT_TASKS if task.metadata.name in ("MockSTSTask", "MockRetrievalTask")
    }
    for name, task in tasks.items():
        seen = {"trained_on": {"MockSTSTask"}, "details": {"head": "a"}}
        found = evaluate_tasks({name: task}, [DenseMethod(384)], source, tmp_path, **NAMED, **seen)
    assert {row.task for row in found.results.rows} == set(tasks)
    assert set(found.results.details["task_types"]) == set(tasks)
    assert "### MockSTSTask (the head was trained on its data)" in found.results.to_markdown()
    assert set(found.results.details["datasets"]) == {"MockRetrievalTask"}
    other = evaluate_tasks(
        {"MockSTSTask": tasks["MockSTSTask"]},
        [DenseMethod(384)],
        source,
        tmp_path,
        model_name="user/x",
        revision="1",
        details={"head": "b"},
    )
    assert {row.task for row in other.results.rows} == {"MockSTSTask"}


class Interrupted(CSRMethod):
    """Stops like a person at the keyboard."""

    def index(self, documents):
        raise KeyboardInterrupt


class Defective(CSRMethod):
    def index(self, documents):
        raise RuntimeError("no such data")


def test_interrupted_evaluation_goes_on_where_it_stopped(source, head, tmp_path):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockSTSTask", "MockRetrievalTask")]
    tasks.sort(key=lambda task: task.metadata.name, reverse=True)
    whole = evaluate_tasks(
        by_name(tasks),
        [DenseMethod(384), CSRMethod(head, 4)],
        source,
        tmp_path / "whole",
        model_name="user/x",
        revision="1",
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(
            by_name(tasks),
            [DenseMethod(384), Interrupted(head, 4)],
            source,
            tmp_path / "run",
            model_name="user/x",
            revision="1",
        )
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("Mock*.json")}
    assert len(done) == 3
    again = evaluate_tasks(
        by_name(tasks),
        [DenseMethod(384), CSRMethod(head, 4)],
        source,
        tmp_path / "run",
        model_name="user/x",
        revision="1",
    )
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for row, expected in zip(again.results.rows, whole.results.rows, strict=True):
        assert (row.task, row.method) == (expected.task, expected.method)
        assert row.score == pytest.approx(expected.score, abs=1e-9)


def test_task_that_fails_is_reported_and_the_others_go_on(source, head, tmp_path):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockRetrievalTask", "MockSTSTask")]
    said = []
    found = evaluate_tasks(
        by_name(tasks),
        [DenseMethod(384), Defective(head, 4)],
        source,
        tmp_path,
        model_name="user/x",
        revision="1",
        say=said.append,
    )
    assert found.failures == {"MockRetrievalTask": "RuntimeError: no such data"}
    assert {row.task for row in found.results.rows} == {"MockSTSTask"}
    assert "MockRetrievalTask: failed, RuntimeError: no such data" in said
    assert found.results.details["task_types"] == {"MockSTSTask": "STS"}


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(
        ValueError, match=r"task 'SciFac' is unknown to mteb: 'SciFac' not found\. Did you mean: 'SciFact"
    ):
        load_tasks(["STSBenchmark", "SciFac"])
    with pytest.raises(ValueError, match="xx"):
        load_tasks(["MTOPIntentClassification:xx"])
    (task,) = load_tasks(["MTOPIntentClassification:en:test"]).values()
    assert (task.hf_subsets, task.eval_splits) == (["en"], ["test"])
