import sys

import numpy as np
import pytest

from csr_hf.evaluation.faiss_quantizers import (
    OptimizedProductQuantization,
    ProductQuantization,
    RaBitQ,
    count_rabitq_bytes,
    divisors,
)
from tests.evaluation.conftest import unit

faiss = pytest.importorskip("faiss", reason="pip install faiss-cpu")


@pytest.fixture(scope="module")
def rows():
    """Correlated rows of unit norm: 2,000 to fit on, 200 documents, 30 queries, 24 dimensions."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((24, 24)) / np.arange(1, 25)[:, None]
    made = unit((rng.standard_normal((2_230, 24)) @ mix + 0.3).astype(np.float32))
    return made[:2_000], made[2_000:2_200], made[2_200:]


def test_product_quantization_stores_the_nearest_centroid_of_each_part(rows):
    train, documents, _ = rows
    baseline = ProductQuantization(train, 6, "dot")
    centroids = faiss.vector_to_array(baseline.codec.pq.centroids).reshape(6, 256, 4)
    stored = baseline.store(documents)
    for part, known in enumerate(centroids):
        own = documents[:, 4 * part : 4 * part + 4]
        nearest = ((own[:, None] - known[None]) ** 2).sum(-1).argmin(1)
        np.testing.assert_allclose(stored[:, 4 * part : 4 * part + 4], known[nearest], atol=1e-6)
    assert (baseline.bytes_per_vector, baseline.codec.sa_code_size()) == (6, 6)
    np.testing.assert_allclose(ProductQuantization(train, 6).store(documents), unit(stored), atol=1e-5)


def error_of(method, documents):
    return np.square(method.store(documents) - documents).sum(axis=1).mean()


def test_more_bytes_and_a_rotation_lose_less(rows):
    train, documents, _ = rows
    plain = [error_of(ProductQuantization(train, size), documents) for size in (3, 6, 12)]
    assert plain == sorted(plain, reverse=True)
    assert error_of(OptimizedProductQuantization(train, 6), documents) < plain[1]


def test_an_optimized_quantization_reads_back_in_the_space_of_the_embeddings(rows):
    train, documents, _ = rows
    baseline = OptimizedProductQuantization(train, 12, "dot")
    assert (baseline.name, baseline.bytes_per_vector, baseline.codec.sa_code_size()) == ("OPQ", 12, 12)
    np.testing.assert_allclose(baseline.store(documents), documents, atol=0.25)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_scores_of_rabitq_are_those_of_faiss_itself(rows, bits, similarity):
    train, documents, queries = rows
    scale = 1 if similarity == "cosine" else np.linspace(1, 3, 200, dtype=np.float32)[:, None]
    baseline = RaBitQ(train, bits, similarity)
    documents = documents * scale
    hits = baseline.index(documents).search(queries, 200)
    index = baseline.codec
    assert index.ntotal == 0
    index.add(documents)
    scores, positions = index.search(queries, 200)
    index.reset()
    np.testing.assert_allclose(hits.scores, scores, atol=1e-4)
    by_position = [np.zeros_like(scores) for _ in range(2)]
    for table, found in zip(by_position, ((positions, scores), (hits.positions, hits.scores)), strict=True):
        np.put_along_axis(table, *found, axis=1)
    np.testing.assert_allclose(*by_position, atol=1e-4)
    assert baseline.bytes_per_vector == index.sa_code_size() == count_rabitq_bytes(24, bits)


def test_more_bits_of_rabitq_estimate_better(rows):
    train, documents, queries = rows
    exact = queries @ documents.T
    errors = []
    for bits in (1, 2, 3, 4):
        baseline = RaBitQ(train, bits)
        errors.append(np.abs(baseline.query(queries) @ baseline.store(documents).T - exact).mean())
        assert baseline.vectors(documents).shape == documents.shape
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.25 * errors[0]


def test_rabitq_compares_distances_to_the_vectors(rows):
    train, documents, queries = rows
    baseline = RaBitQ(train, 4, "euclidean")
    assert baseline.store(documents).shape == documents.shape
    assert np.array_equal(baseline.query(queries), queries)
    np.testing.assert_allclose(baseline.store(documents), documents, atol=0.15)


def test_384_dimensions_take_the_bytes_that_faiss_stores():
    assert [count_rabitq_bytes(384, bits) for bits in (1, 2, 3, 4)] == [56, 116, 164, 212]


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: ProductQuantization(rows, 6),
        lambda rows: OptimizedProductQuantization(rows, 6),
        lambda rows: RaBitQ(rows, 2),
    ],
)
def test_fits_give_the_same_twice(rows, make):
    """faiss seeds its k-means and rotations itself; both fits have as many threads."""
    assert np.array_equal(make(rows[0]).store(rows[1]), make(rows[0]).store(rows[1]))


def test_fewer_rows_than_dimensions_are_enough_for_a_rotation():
    """faiss alone ends the whole process."""
    train = unit(np.random.default_rng(0).standard_normal((260, 320)).astype(np.float32))
    assert OptimizedProductQuantization(train, 2).store(train[:3]).shape == (3, 320)


def test_threads_of_faiss_are_as_they_were(rows):
    before = faiss.omp_get_max_threads()
    ProductQuantization(rows[0], 2)
    assert faiss.omp_get_max_threads() == before


def test_nothing_can_be_stored(rows):
    train, documents, _ = rows
    assert RaBitQ(train, 1).store(documents[:0]).shape == (0, 25)


def test_fits_write_nothing_to_the_terminal(rows, capfd):
    ProductQuantization(rows[0][:300], 6)
    OptimizedProductQuantization(rows[0][:300], 2)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"OPQ needs 256 training embeddings; there are 100\. Train on more"):
        OptimizedProductQuantization(np.zeros((100, 24), np.float32), 4)
    with pytest.raises(ValueError, match=r"`size` \(7\) does not divide the 24 dimensions\. Take one of \[1, 2, 3, 4"):
        ProductQuantization(np.zeros((300, 24), np.float32), 7)
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_without_faiss_the_line_to_type_is_named(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for make in (lambda: ProductQuantization(rows[0], 6), lambda: RaBitQ(rows[0], 1)):
        with pytest.raises(ImportError, match=r'fitted by faiss: pip install "csr_hf\[eval\]"'):
            make()
