import numpy as np

from csr_hf.evaluation.scalar_quantizers import Binary, Int8, RotatedSigns
from tests.evaluation.conftest import unit


def test_int8_is_within_half_a_step_inside_the_training_range(skewed):
    baseline = Int8(skewed)
    error = np.abs(baseline.store(skewed) - skewed)
    step = (skewed.max(0) - skewed.min(0)) / 255
    assert (error <= step / 2 + 1e-6).all()
    beyond = baseline.store(skewed * 100)
    assert (beyond <= skewed.max(0) + 1e-5).all()
    assert baseline.bytes_per_vector == 24
    assert np.array_equal(baseline.query(skewed), skewed)


def test_binary_keeps_signs(skewed):
    baseline = Binary(24)
    assert np.array_equal(baseline.store(skewed) > 0, skewed > 0)
    assert set(np.unique(baseline.store(skewed))) == {-1, 1}
    assert baseline.bytes_per_vector == 3
    assert Binary(25).bytes_per_vector == 4


def test_rotated_signs_are_those_of_rotated_differences_from_the_mean(skewed):
    baseline, mean = RotatedSigns(skewed), skewed.mean(0)
    np.testing.assert_allclose(baseline.rotation @ baseline.rotation.T, np.eye(24), atol=1e-5)
    rotated = (skewed - mean) @ baseline.rotation
    signs = np.where(rotated > 0, 1, -1)
    expected = unit(mean + np.abs(rotated).mean() * signs @ baseline.rotation.T)
    np.testing.assert_allclose(baseline.store(skewed), expected, atol=1e-5)
    assert baseline.bytes_per_vector == 3


def test_rotated_signs_of_vectors_with_norms_keep_a_scale(skewed):
    rows = skewed * np.linspace(1, 5, len(skewed), dtype=np.float32)[:, None]
    baseline = RotatedSigns(rows, "dot")
    assert baseline.bytes_per_vector == 3 + 4
    rotated = (rows - rows.mean(0)) @ baseline.rotation
    scale = np.abs(rotated).mean(axis=1, keepdims=True)
    expected = rows.mean(0) + (scale * np.sign(rotated)) @ baseline.rotation.T
    np.testing.assert_allclose(baseline.store(rows), expected, atol=1e-4)


def test_a_rotation_keeps_more_than_plain_signs_where_dimensions_differ(skewed):
    rotated, plain = (method.store(skewed) for method in (RotatedSigns(skewed), Binary(24)))
    cosines = [(unit(stored) * skewed).sum(axis=1).mean() for stored in (rotated, plain)]
    assert cosines[0] > cosines[1] + 0.05


def test_rotations_are_seeded(skewed):
    one, same, other = (RotatedSigns(skewed, seed=seed).store(skewed[:5]) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
