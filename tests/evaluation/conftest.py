import numpy as np
import pytest

from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.results import Results, Row
from tests.publishing.conftest import make_head


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def skewed():
    """300 rows of unit norm, 24 dimensions whose variances fall, around a mean that is not zero."""
    rng = np.random.default_rng(0)
    return unit((rng.standard_normal((300, 24)) @ np.diag(1 / np.arange(1, 25)) + 0.1).astype(np.float32))


@pytest.fixture(scope="session")
def cached(backbone, tmp_path_factory):
    return CachedBackbone(backbone, tmp_path_factory.mktemp("embeddings"))


@pytest.fixture(scope="session")
def minilm_head():
    return make_head(hidden_dim=1536, k=32)


@pytest.fixture
def results():
    rows = [Row("pairs", "nDCG@10", "dense", None, 1536, 0.8, 1.0), Row("pairs", "recall", "dense", None, 1536, 1, 1)]
    for k in (8, 16):
        rows += [Row("pairs", "nDCG@10", "CSR", k, 4 * k, 0.6 + k / 100, 0.75 + k / 80)]
        rows += [Row("pairs", "recall", "CSR", k, 4 * k, 0.5, 0.5)]
    return Results(rows, {"command": "csr-hf run x.yaml", "machine": "a machine"})


@pytest.fixture
def labeled():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((5, 16))
    labels = rng.integers(0, 5, 400)
    rows = (centers[labels] + 1.2 * rng.standard_normal((400, 16))).astype(np.float32)
    return rows[:300], labels[:300], rows[300:], labels[300:]


@pytest.fixture(scope="module")
def searched(backbone):
    texts = [f"{thing} number {i}" for i in range(20) for thing in ("cat", "river", "matrix", "poem", "engine")]
    rng = np.random.default_rng(0)
    documents = backbone.embed(texts)
    queries = documents[rng.choice(100, 10, replace=False)] + 0.05 * rng.standard_normal((10, 384)).astype(np.float32)
    return documents, queries
