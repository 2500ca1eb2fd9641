"""Instructions that numba does not name, beside what NumPy does."""

import numpy as np
import pytest

from csr_hf.plumbing.jit import LANES, at_least, count_bits, from_half, half_by_bits, jit, largest_size, lowest


@jit()
def lowest_of(bits):
    return lowest(bits)


@pytest.mark.parametrize("bound", [0, 1, 500, 999, 65_535])
def test_numbers_that_reach_a_bound(bound):
    numbers = np.random.default_rng(bound).integers(0, 1000, 70).astype(np.uint16)
    numbers[[3, 66]] = bound
    for first in (0, 1, 6):
        bits = compared(numbers, first, np.uint16(bound))
        found = [place for place in range(LANES) if bits >> place & 1]
        assert found == np.flatnonzero(numbers[first : first + LANES] >= bound).tolist()
        assert lowest_of(np.uint64(bits)) == found[0]


@jit()
def compared(numbers, first, bound):
    return at_least(numbers, first, bound)


def test_bits_are_added_to_the_counts_of_their_places():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 300, dtype=np.uint64)
    words[:3] = 0, 2**64 - 1, 1
    counts = np.full(LANES + 9, 5, np.uint16)
    counted(words, counts, 4)
    ones = (words[:, None] >> np.arange(LANES, dtype=np.uint64) & np.uint64(1)).sum(axis=0)
    np.testing.assert_array_equal(counts[4:-5] - 5, ones)
    assert (counts[:4] == 5).all() and (counts[-5:] == 5).all()


@jit()
def counted(words, counts, first):
    for word in words:
        count_bits(word, counts, first)


@pytest.mark.parametrize("length", [0, 1, 7, 64, 385])
def test_the_largest_size_is_that_of_numpy(length):
    numbers = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    assert largest_size(numbers) == np.abs(numbers).max(initial=0)
    assert np.isinf(largest_size(np.append(numbers, np.float32(-np.inf))))
    assert np.isnan(largest_size(np.append(np.float32([np.nan, np.inf]), numbers)))


@pytest.mark.parametrize("plainly", [True, False])
def test_every_finite_float16_is_widened(plainly):
    bits = np.arange(2**16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    np.testing.assert_array_equal(widened(bits, plainly), bits.view(np.float16).astype(np.float32))


@jit()
def widened(bits, plainly):
    floats = np.empty(bits.shape[0], np.float32)
    for place in range(bits.shape[0]):
        floats[place] = half_by_bits(bits[place]) if plainly else from_half(bits[place])
    return floats
