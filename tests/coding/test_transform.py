"""Transform coding: bits against entropy, errors against theory, and any bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csr_hf.coding.range_coder import TOTAL
from csr_hf.coding.row_lengths import row_lengths, stored_bytes
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.coding.transform import TransformQuantizer, make_model
from csr_hf.coding.trellis import FINE_AT_ONE, FINE_PER_OCTAVE, choose_levels, make_trellis

DIM = 48


def make_residuals(count=2000, decay=8.0, seed=0):
    """Rows whose deviations fall along hidden axes."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(9).standard_normal((DIM, DIM)))[0]
    return (0.1 * rng.standard_normal((count, DIM)) * np.exp(-np.arange(DIM) / decay) @ axes + 0.02).astype(np.float32)


def error(rows, quantizer):
    return ((rows - quantizer.decode(quantizer.encode(rows))) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum()


def test_bytes_are_spent_nearly_as_well_as_theory_allows():
    rows, unseen = make_residuals(), make_residuals(seed=1)
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    for size in (6, 9, 13, 17):
        quantizer = TransformQuantizer.fit(rows, size)
        codes = quantizer.encode(unseen)
        assert codes.shape == (2000, 2 * size)
        assert size - 1 < stored_bytes(codes) / 2000 <= size
        # Reverse water-filling: the least mean squared error of so many bits, header aside.
        levels = np.geomspace(variances.max(), variances.min() * 1e-4, 4000)
        rates = np.array([np.maximum(0, 0.5 * np.log2(variances / level)).sum() for level in levels])
        level = levels[np.searchsorted(rates, 8 * (size - 3))]
        least = np.minimum(level, variances).sum() / variances.sum()
        # A uniform quantizer with entropy coding costs 1.53 dB; the end of a row a byte.
        assert least < error(unseen, quantizer) < 2.5 * least
        # Three bytes of a row say how it is read, which is half of the smallest.
        if 6 < size <= DIM // 2:
            assert error(unseen, quantizer) < 0.85 * error(unseen, ScalarQuantizer.fit(rows, size))


def test_rows_of_any_size_of_values_are_read_back():
    quantizer = TransformQuantizer.fit(make_residuals(), 24)
    rows = make_residuals(60, seed=2)
    for scale in (1e-6, 1e-3, 1.0, 30.0):
        scaled = (rows - quantizer.mean) * np.float32(scale) + quantizer.mean
        decoded = quantizer.decode(quantizer.encode(scaled))
        assert ((scaled - decoded) ** 2).sum() < 0.03 * ((scaled - quantizer.mean) ** 2).sum()
    mean = np.tile(quantizer.mean, (3, 1))
    np.testing.assert_array_equal(quantizer.decode(quantizer.encode(mean)), mean)
    for huge in (3e38, -3e38):
        assert np.isfinite(quantizer.decode(quantizer.encode(np.full((2, DIM), huge, np.float32)))).all()


@pytest.mark.parametrize("size", [4, 6])
def test_rows_along_one_axis_alone_fit_too(size):
    """What no model expects needs more bits than the steps it was made for."""
    quantizer = TransformQuantizer.fit(make_residuals(), size)
    rows = quantizer.axes[[0, 1, -1]] * np.float32(0.5)
    codes = quantizer.encode(rows)
    assert stored_bytes(codes) <= 3 * size
    assert np.isfinite(quantizer.decode(codes)).all()


def test_rows_that_are_encoded_together_lose_alike():
    quantizer = TransformQuantizer.fit(make_residuals(), 16)
    rows = make_residuals(seed=4)
    rows[::2] = quantizer.mean + (rows[::2] - quantizer.mean) * np.float32(1.5)
    codes = quantizer.encode(rows)
    lost = ((quantizer.decode(codes) - rows) ** 2).sum(axis=1)
    lengths = row_lengths(codes)
    assert lengths[::2].mean() > lengths[1::2].mean() + 1
    assert lost[::2].mean() < 1.2 * lost[1::2].mean()
    steps = codes[:, 0].astype(int) * FINE_PER_OCTAVE // 4 - codes[:, 1]
    assert len(np.unique(steps)) == 1


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(4, 40))))
def test_any_bytes_can_be_read(codes):
    axes = np.eye(DIM, dtype=np.float32)
    quantizer = TransformQuantizer(axes, np.zeros(DIM, np.float32), -np.arange(DIM, dtype=np.int16), codes.shape[1])
    decoded = quantizer.decode(codes)
    assert decoded.shape == (len(codes), DIM) and np.isfinite(decoded).all()


@pytest.mark.parametrize("size", [9, 21, 48])
def test_levels_are_read_as_they_were_meant(size):
    """A level stands for the mean of what is rounded to it, and levels are two steps apart."""
    quantizer = TransformQuantizer.fit(make_residuals(), size)
    rows = make_residuals(seed=3)
    codes = quantizer.encode(rows)
    lost = np.abs((quantizer.decode(codes) - rows) @ quantizer.axes.T)
    widest = 2.0 ** ((codes[:, 0].astype(float) - 128 + quantizer.spreads.max()) / 4)
    steps = widest * 2.0 ** ((FINE_AT_ONE - codes[:, 1].astype(float)) / FINE_PER_OCTAVE)
    assert (lost <= 2 * steps[:, None]).mean() > 0.999
    assert (lost <= steps[:, None]).mean() > 0.93


def test_frequencies_are_of_a_logistic_distribution():
    """Beside where levels end, which the choice by error and bits moves by less than half a step."""
    model = make_model()
    for context in (24, 33, 48):
        most, deviation = model.highest[context], 2.0 ** ((context - 24) / 4)
        for quantizer, middles in enumerate((2 * np.arange(most + 1) + 1, np.r_[0.5, 2 * np.arange(1, most + 1)])):
            sums = model.cumulative[context, quantizer]
            assert sums[0] == 0 and (np.diff(sums[: 2 * most + 2]) > 0).all() and (sums[2 * most + 1 :] == TOTAL).all()
            low, high = (2 / (1 + np.exp(-(middles + to) * np.pi / (deviation * 3**0.5))) - 1 for to in (-0.35, 0.5))
            found = sums[1 : 2 * most + 2 : 2] / TOTAL
            assert (low - 0.01 < found).all() and (found < high + 0.01).all()
    # They are computed alike everywhere, or a code would be read otherwise elsewhere.
    weights = np.arange(1, model.cumulative.shape[2] + 1)
    assert int((model.cumulative * weights).sum()) == 862_249_032_124


def test_levels_are_chosen_together():
    """Against a written-out search of all paths: no other levels have less error and bits together."""
    rng, model, dim = np.random.default_rng(0), make_model(), 5
    spreads = np.array([0, 0, -2, -4, -6])
    following = [[0, 2], [2, 0], [1, 3], [3, 1]]
    for trial in range(20):
        row = (rng.logistic(size=dim) * 2.0 ** (spreads / 4)).astype(np.float32)
        fine = 96 + int(rng.integers(-10, 30))
        contexts = spreads + (fine - 96 + 3) // 6 + 24
        sizes = np.abs(row) * 2.0 ** ((fine - 96) / 24)
        paths = {0: (0.0, ())}
        for axis in range(dim):
            best = {}
            for state, (cost, levels) in paths.items():
                for level in range(min(int(model.highest[contexts[axis]]), 8) + 1):
                    at = contexts[axis], state // 2, level
                    more = cost + (sizes[axis] - model.points[at]) ** 2 + 0.35 * model.bits[at]
                    to = following[state][level % 2]
                    if to not in best or more < best[to][0]:
                        best[to] = more, (*levels, level)
            paths = best
        expected = min(paths.values())[1]
        levels = np.empty(dim, np.int64)
        choose_levels(row, spreads, fine, model, make_trellis(dim), levels)
        assert np.array_equal(np.abs(levels), expected), trial
        assert np.array_equal(np.sign(levels) * np.sign(row), (levels != 0))


def test_few_rows_are_no_reason_to_believe_that_others_do_not_differ():
    rows, unseen = make_residuals(256), make_residuals(seed=1)
    few, many = (TransformQuantizer.fit(each, 12) for each in (rows, make_residuals()))
    assert error(unseen, few) < 2 * error(unseen, many)
    with pytest.raises(ValueError, match="residual codes need 256 training embeddings; there are 200"):
        TransformQuantizer.fit(rows[:200], 8)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("axes", lambda made: made[:, 1:], "must be float32"),
        ("axes", lambda made: made.astype(np.float64), "must be float32"),
        ("axes", lambda made: made * np.float32(np.inf), "NaN or infinity"),
        ("mean", lambda made: made[1:], "must be float32"),
        ("mean", lambda made: made * np.float32(np.nan), "NaN or infinity"),
        ("spreads", lambda made: made.astype(np.int32), "must be int16"),
        ("spreads", lambda made: made * 0 + np.int16(-32768), "must be int16 from -400 to 400"),
        ("size", lambda made: 2, r"`size` \(2\) must be from 4 to 32,767 bytes"),
    ],
)
def test_foreign_parts_are_refused(name, change, message):
    made = TransformQuantizer.fit(make_residuals(300), 8)
    parts = {**made.arrays, "size": 8}
    with pytest.raises(ValueError, match=message), np.errstate(invalid="ignore"):
        TransformQuantizer(**{**parts, name: change(parts[name])})
