import numpy as np
import pytest

from csr_hf.evaluation.baselines import PCA, Binary, Int8, ProductQuantization, Truncation, make_baselines


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((300, 24)) @ np.diag(1 / np.arange(1, 25)) + 0.1).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_truncation_is_the_unit_prefix(embeddings):
    baseline = Truncation(4)
    prefix = embeddings[:, :4] / np.linalg.norm(embeddings[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(baseline.queries(embeddings), prefix, rtol=1e-5)
    np.testing.assert_allclose(baseline.documents(embeddings), prefix, atol=1e-3)
    assert baseline.bytes_per_vector == 8


def test_pca_equals_the_singular_vectors_of_the_training_rows(embeddings):
    train, held_out = embeddings[:200], embeddings[200:]
    baseline = PCA(train, 5)
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:5]
    projected = (held_out - mean) @ directions.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    signs = np.sign((baseline.queries(held_out) * projected).sum(0))
    np.testing.assert_allclose(baseline.queries(held_out) * signs, projected, atol=1e-4)
    np.testing.assert_allclose(baseline.documents(held_out) * signs, projected, atol=1e-3)
    assert baseline.bytes_per_vector == 10


def test_int8_is_within_half_a_step_inside_the_training_range(embeddings):
    baseline = Int8(embeddings)
    error = np.abs(baseline.documents(embeddings) - embeddings)
    step = (embeddings.max(0) - embeddings.min(0)) / 255
    assert (error <= step / 2 + 1e-6).all()
    beyond = baseline.documents(embeddings * 100)
    assert (beyond <= embeddings.max(0) + 1e-5).all()
    assert baseline.bytes_per_vector == 24
    assert np.array_equal(baseline.queries(embeddings), embeddings)


def test_binary_keeps_signs(embeddings):
    baseline = Binary(24)
    assert np.array_equal(baseline.documents(embeddings) > 0, embeddings > 0)
    assert set(np.unique(baseline.documents(embeddings))) == {-1, 1}
    assert baseline.bytes_per_vector == 3
    assert Binary(25).bytes_per_vector == 4


def test_product_quantization_stores_the_nearest_centroid_of_each_part():
    rng = np.random.default_rng(0)
    train, held_out = rng.standard_normal((2000, 24)), rng.standard_normal((50, 24)).astype(np.float32)
    baseline = ProductQuantization(train, 7)  # 24 is no multiple of 7: three parts of 4, four of 3
    assert baseline.bytes_per_vector == 7
    assert [centroids.shape for centroids in baseline.centroids] == [(256, 4)] * 3 + [(256, 3)] * 4
    stored, start = baseline.documents(held_out), 0
    for centroids in baseline.centroids:
        part = held_out[:, start : start + centroids.shape[1]]
        nearest = ((part[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        np.testing.assert_allclose(stored[:, start : start + centroids.shape[1]], centroids[nearest], atol=1e-5)
        start += centroids.shape[1]
    assert start == 24
    assert np.array_equal(baseline.queries(held_out), held_out)
    coarse, fine = (
        np.square(ProductQuantization(train, size).documents(held_out) - held_out).mean() for size in (4, 12)
    )
    assert fine < coarse


def test_product_quantization_of_too_little_is_refused():
    with pytest.raises(ValueError, match="needs 256 training embeddings; there are 100"):
        ProductQuantization(np.zeros((100, 24)), 4)
    with pytest.raises(ValueError, match="to 25 bytes needs that many of 24 dimensions"):
        ProductQuantization(np.zeros((300, 24)), 25)


def test_baselines_get_the_bytes_they_are_given(embeddings):
    made = make_baselines(["truncate", "pca", "int8", "binary"], embeddings, 24, [10, 20, 1000])
    sizes = [(baseline.name, baseline.bytes_per_vector) for baseline in made]
    expected = [(name, size) for name in ("truncation", "PCA") for size in (10, 20, 48)]
    assert sizes == [*expected, ("int8", 24), ("binary", 3)]
