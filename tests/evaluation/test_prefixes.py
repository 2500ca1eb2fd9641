import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr_hf.evaluation.prefixes import PCA, Adapter, PrefixFormat, Truncation, choose_format, fit_components
from tests.evaluation.conftest import unit


@given(budget=st.integers(1, 2000), width=st.integers(1, 800), similarity=st.sampled_from(["cosine", "dot"]))
def test_a_format_fits_its_budget_and_wastes_nothing(budget, width, similarity):
    found = choose_format(budget, width, similarity)
    scale = 0 if similarity == "cosine" else 4
    assert found.size <= budget or found.dims == 0
    if found.precision == "float16":
        assert found == (width, "float16", 2 * width)
    else:
        assert found.size == found.dims + scale
        assert found.dims in (width, max(0, budget - scale))


def test_truncation_is_the_unit_prefix_to_half_a_127th_of_its_largest_component(skewed):
    baseline = Truncation(choose_format(8, 24, "cosine"))
    prefix = unit(skewed[:, :8])
    np.testing.assert_allclose(baseline.query(skewed), prefix, rtol=1e-5)
    step = np.abs(prefix).max(axis=1, keepdims=True) / 127
    levels = np.rint(prefix / step)
    np.testing.assert_allclose(baseline.store(skewed), unit(levels), atol=1e-6)
    assert np.abs(levels).max() == 127
    assert (baseline.bytes_per_vector, baseline.settings["dims"], baseline.settings["precision"]) == (8, 8, "int8")


def test_a_vector_that_fits_whole_is_float16(skewed):
    baseline = Truncation(choose_format(50, 24, "cosine"))
    np.testing.assert_allclose(baseline.store(skewed), skewed, atol=5e-4)
    assert (baseline.bytes_per_vector, baseline.settings["precision"]) == (48, "float16")


def test_rows_of_zeros_stay_zeros():
    for similarity in ("cosine", "dot"):
        assert not Truncation(choose_format(9, 12, similarity), similarity).store(np.zeros((2, 12), np.float32)).any()


def test_a_scale_takes_bytes_where_norms_count(skewed):
    long = skewed * np.linspace(1, 9, len(skewed), dtype=np.float32)[:, None]
    baseline = Truncation(choose_format(10, 24, "dot"), "dot")
    assert (baseline.bytes_per_vector, baseline.settings["dims"]) == (10, 6)
    np.testing.assert_allclose(baseline.store(long), long[:, :6], atol=np.abs(long).max() / 200)


def test_pca_equals_the_singular_vectors_of_the_training_rows(skewed):
    train, held_out = skewed[:200], skewed[200:]
    baseline = PCA(fit_components(train), choose_format(5, 24, "cosine"))
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:5]
    projected = unit((held_out - mean) @ directions.T)
    signs = np.sign((baseline.query(held_out) * projected).sum(0))
    np.testing.assert_allclose(baseline.query(held_out) * signs, projected, atol=1e-4)
    np.testing.assert_allclose(baseline.store(held_out) * signs, projected, atol=8e-3)
    assert baseline.bytes_per_vector == 5


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_pca_goes_back_to_points_where_norms_count(skewed, similarity):
    train = 3 * skewed + 1
    baseline = PCA(fit_components(train), choose_format(48, 24, similarity), similarity)
    np.testing.assert_allclose(baseline.store(train[:40]), train[:40], atol=5e-3)
    assert np.array_equal(baseline.query(train), train)


def test_there_are_no_more_components_than_rows(skewed):
    assert fit_components(skewed[:6]).directions.shape == (24, 6)


def test_an_adapter_stores_prefixes_of_what_it_maps_to(skewed):
    weight = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0].astype(np.float32)
    baseline = Adapter(weight, PrefixFormat(7, "int8", 7))
    expected = unit(skewed @ weight[:, :7])
    np.testing.assert_allclose(baseline.query(skewed), expected, atol=1e-6)
    np.testing.assert_allclose(baseline.store(skewed), expected, atol=8e-3)
    assert baseline.weight.shape == (24, 7)
