"""Instructions that numba does not name, beside what NumPy does."""

import numpy as np
import pytest

from csr_hf.plumbing.jit import from_half, half_by_bits, jit, largest_size, lowest


@jit()
def lowest_of(bits):
    return lowest(bits)


def test_the_lowest_bit_is_found():
    assert [lowest_of(np.uint64(bits)) for bits in (1, 8, 2**63, 2**63 + 2**40)] == [0, 3, 63, 40]


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
