import numpy as np
import pytest

from csr_hf.evaluation.baselines import PCA, Binary, Int8, Truncation


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
