"""Methods as models of the real mteb, on its mock tasks."""

import math

import mteb
import numpy as np
import pytest
from mteb.similarity_functions import cos_sim, pairwise_cos_sim

from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod, DecodedMethod
from csr_hf.evaluation.mteb import MTEBEncoder, model_meta
from csr_hf.evaluation.scalar_quantizers import Binary, Int8
from csr_hf.evaluation.vector_method import DenseMethod
from tests.helpers.mteb_tasks import TEXT_TASKS, often, scores_of
from tests.publishing.conftest import make_head


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


@pytest.mark.parametrize("task", often(TEXT_TASKS))
def test_sparse_path_equals_dense_arithmetic_on_every_kind_of_task(cached, minilm_head, task):
    encoder = MTEBEncoder(cached, CSRMethod(minilm_head, 32, plain=True))
    sparse, dense = (scores_of(model, task) for model in (encoder, DenseArithmetic(encoder)))
    assert sparse.keys() == dense.keys()
    assert len(sparse) > 0
    for name, score in sparse.items():
        assert math.isclose(score, dense[name], abs_tol=1e-6) or (math.isnan(score) and math.isnan(dense[name])), name


def test_stock_sparse_encoder_gives_the_same_scores(backbone, cached, minilm_head, tmp_path):
    from sentence_transformers import SparseEncoder

    from csr_hf.publishing.sentence_transformers import write_full

    (tmp_path / "full").mkdir()
    write_full(backbone, minilm_head, tmp_path / "full")
    stock = SparseEncoder(str(tmp_path / "full"), device="cpu")
    own = MTEBEncoder.from_head(backbone, minilm_head, tmp_path / "embeddings")
    for name in ("MockSTSTask", "MockClassificationTask", "MockRetrievalTask"):
        task = next(task for task in TEXT_TASKS if task.metadata.name == name)
        expected, found = scores_of(stock, task), scores_of(own, task)
        main = [key for key in expected if key[-1] == "main_score"]
        assert main
        for key in main:
            assert found[key] == pytest.approx(expected[key], abs=1e-3)


def test_rows_stay_sparse_where_estimators_take_them(cached, minilm_head):
    encoder = MTEBEncoder(cached, CSRMethod(minilm_head, 4))
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


def test_cache_keeps_models_methods_and_settings_apart(cached, minilm_head, tmp_path):
    """mteb's own trap: models without a name share their cached scores."""
    task = next(task for task in TEXT_TASKS if task.metadata.name == "MockRetrievalTask")
    cache = mteb.ResultCache(tmp_path)
    methods = [
        DenseMethod(384),
        CSRMethod(minilm_head, 4),
        CSRMethod(minilm_head, 8),
        CSRMethod(minilm_head, 4, plain=True),
        CSRMethod(make_head(1, hidden_dim=1536, k=32), 4),
        DecodedMethod(minilm_head, 4),
        Binary(384),
        Int8(np.eye(384, dtype=np.float32), fit="a"),
        Int8(2 * np.eye(384, dtype=np.float32), fit="b"),
    ]
    metas = [model_meta(cached, method) for method in methods]
    for method, meta in zip(methods, metas, strict=True):
        assert cache.load_task_result(task.metadata.name, meta) is None, method.settings
        mteb.evaluate(MTEBEncoder(cached, method), task, cache=cache, co2_tracker=False, show_progress_bar=False)
        assert cache.load_task_result(task.metadata.name, meta) is not None
    paths = {path.parent for path in tmp_path.rglob("MockRetrievalTask.json")}
    assert len(paths) == len(methods)


def test_a_search_without_a_corpus_is_refused(cached, minilm_head):
    with pytest.raises(RuntimeError, match="Call `index` first"):
        MTEBEncoder(cached, CSRMethod(minilm_head, 4)).search({"id": ["q"]}, task_metadata=None, top_k=1)
