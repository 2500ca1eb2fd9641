import numpy as np
import pytest

from csr_hf.evaluation.baselines import PCA, Binary, DenseMethod, Int8, ProductQuantization, Truncation, make_baselines


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((300, 24)) @ np.diag(1 / np.arange(1, 25)) + 0.1).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_truncation_is_the_unit_prefix(embeddings):
    baseline = Truncation(4)
    prefix = embeddings[:, :4] / np.linalg.norm(embeddings[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(baseline.query(embeddings), prefix, rtol=1e-5)
    np.testing.assert_allclose(baseline.store(embeddings), prefix, atol=1e-3)
    assert baseline.bytes_per_vector == 8


def test_pca_equals_the_singular_vectors_of_the_training_rows(embeddings):
    train, held_out = embeddings[:200], embeddings[200:]
    baseline = PCA(train, 5)
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:5]
    projected = (held_out - mean) @ directions.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    signs = np.sign((baseline.query(held_out) * projected).sum(0))
    np.testing.assert_allclose(baseline.query(held_out) * signs, projected, atol=1e-4)
    np.testing.assert_allclose(baseline.store(held_out) * signs, projected, atol=1e-3)
    assert baseline.bytes_per_vector == 10


def test_int8_is_within_half_a_step_inside_the_training_range(embeddings):
    baseline = Int8(embeddings)
    error = np.abs(baseline.store(embeddings) - embeddings)
    step = (embeddings.max(0) - embeddings.min(0)) / 255
    assert (error <= step / 2 + 1e-6).all()
    beyond = baseline.store(embeddings * 100)
    assert (beyond <= embeddings.max(0) + 1e-5).all()
    assert baseline.bytes_per_vector == 24
    assert np.array_equal(baseline.query(embeddings), embeddings)


def test_binary_keeps_signs(embeddings):
    baseline = Binary(24)
    assert np.array_equal(baseline.store(embeddings) > 0, embeddings > 0)
    assert set(np.unique(baseline.store(embeddings))) == {-1, 1}
    assert baseline.bytes_per_vector == 3
    assert Binary(25).bytes_per_vector == 4


def test_product_quantization_stores_the_nearest_centroid_of_each_part():
    rng = np.random.default_rng(0)
    train, held_out = rng.standard_normal((2000, 24)), rng.standard_normal((50, 24)).astype(np.float32)
    baseline = ProductQuantization(train, 7)  # 24 is no multiple of 7: three parts of 4, four of 3
    assert baseline.bytes_per_vector == 7
    assert [centroids.shape for centroids in baseline.centroids] == [(256, 4)] * 3 + [(256, 3)] * 4
    stored, start = baseline.store(held_out), 0
    for centroids in baseline.centroids:
        part = held_out[:, start : start + centroids.shape[1]]
        nearest = ((part[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        np.testing.assert_allclose(stored[:, start : start + centroids.shape[1]], centroids[nearest], atol=1e-5)
        start += centroids.shape[1]
    assert start == 24
    assert np.array_equal(baseline.query(held_out), held_out)
    coarse, fine = (np.square(ProductQuantization(train, size).store(held_out) - held_out).mean() for size in (4, 12))
    assert fine < coarse


def test_product_quantization_of_too_little_is_refused():
    with pytest.raises(ValueError, match="needs 256 training embeddings; there are 100"):
        ProductQuantization(np.zeros((100, 24)), 4)
    with pytest.raises(ValueError, match="to 25 bytes needs 25 dimensions; there are 24"):
        ProductQuantization(np.zeros((300, 24)), 25)


@pytest.mark.parametrize("make", [lambda rows: Truncation(4), lambda rows: PCA(rows, 5), lambda rows: Int8(rows)])
def test_searches_compare_unit_queries_with_what_is_stored(embeddings, make):
    method = make(embeddings)
    searcher = method.index(3 * embeddings[:40])
    queries = embeddings[40:45]
    expected = method.query(queries) @ method.store(embeddings[:40]).T
    hits = searcher.search(5 * queries, 7)
    np.testing.assert_allclose(hits.scores, -np.sort(-expected, axis=1)[:, :7], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, hits.positions, axis=1), hits.scores, atol=1e-5)
    np.testing.assert_allclose(searcher.score(queries[0], np.array([9, 3])), expected[0, [9, 3]], atol=1e-5)
    np.testing.assert_allclose(method.vectors(2 * queries), method.store(queries), atol=1e-2)


def test_dense_vectors_stay_as_they_are(embeddings):
    method = DenseMethod(24)
    assert method.vectors(3 * embeddings).tobytes() == (3 * embeddings).tobytes()
    assert method.bytes_per_vector == 96
    np.testing.assert_allclose(method.index(3 * embeddings).search(embeddings[:3], 1).scores, 1, rtol=1e-5)


def test_fitted_baselines_are_told_apart_by_what_they_were_fitted_on(embeddings):
    names = ["truncate", "pca", "int8", "binary"]
    one, same, other = (
        [method.settings for method in make_baselines(names, rows, 24, [10])]
        for rows in (embeddings, embeddings.copy(), embeddings[::-1])
    )
    assert one == same
    assert [first == second for first, second in zip(one, other, strict=True)] == [True, False, False, True]


def test_pca_keeps_no_more_directions_than_there_are_training_rows(embeddings):
    (method,) = make_baselines(["pca"], embeddings[:6], 24, [40])
    assert method.bytes_per_vector == 12


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"baseline 'truncat' is unknown\. Did you mean `truncate`\?"):
        make_baselines(["truncat"], None, 24, [10])


def test_baselines_get_the_bytes_they_are_given(embeddings):
    made = make_baselines(["truncate", "pca", "int8", "binary"], embeddings, 24, [10, 20, 1000])
    sizes = [(baseline.name, baseline.bytes_per_vector) for baseline in made]
    expected = [(name, size) for name in ("truncation", "PCA") for size in (10, 20, 48)]
    assert sizes == [*expected, ("int8", 24), ("binary", 3)]
