"""The range coder: symbols are read as they were written, in as many bits as they are probable, from any bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from csr_hf.coding.range_coder import TOTAL, end_writing, peek, put, start_reading, start_writing, take


@njit
def write_symbols(sums, symbols, row, at):
    state = start_writing(at)
    for symbol in symbols:
        state = put(row, state, sums[symbol], sums[symbol + 1] - sums[symbol])
    return end_writing(row, state)


@njit
def read_symbols(sums, row, at, found):
    state = start_reading(row, at)
    for place in range(found.shape[0]):
        symbol = np.searchsorted(sums, peek(state), "right") - 1
        state = take(row, state, sums[symbol], sums[symbol + 1] - sums[symbol])
        found[place] = symbol


def write(shares, symbols, size, at=0):
    """Write symbols by their shares, and return the row, or None where they do not fit."""
    row = np.zeros(size, np.uint8)
    return row if write_symbols(np.r_[0, np.cumsum(shares)], np.array(symbols, np.int64), row, at) else None


def read(shares, row, count, at=0):
    found = np.empty(count, np.int64)
    read_symbols(np.r_[0, np.cumsum(shares)], row.copy(), at, found)
    return found.tolist()


@st.composite
def distributions(draw):
    cuts = draw(st.sets(st.integers(1, TOTAL - 1), min_size=1, max_size=20))
    return np.diff([0, *sorted(cuts), TOTAL])


@settings(max_examples=200, deadline=None)
@given(distributions(), st.lists(st.integers(0, 10**6), max_size=60), st.integers(0, 3))
def test_symbols_are_read_as_they_were_written(shares, numbers, at):
    symbols = [number % len(shares) for number in numbers]
    row = write(shares, symbols, at + 2 * len(symbols) + 6, at)
    used = at + max((place - at + 1 for place in np.flatnonzero(row)), default=0)
    assert read(shares, row, len(symbols), at) == symbols
    # What is behind the end of a row counts as zeros.
    assert read(shares, row[:used], len(symbols), at) == symbols
    bits = -np.log2(shares[symbols] / TOTAL).sum()
    assert 8 * (used - at) <= bits * (1 + 2**-8) + 16


def test_symbols_that_do_not_fit_are_said_not_to():
    shares, symbols = np.array([1, TOTAL - 1]), [0] * 10
    needed = next(size for size in range(40) if write(shares, symbols, size) is not None)
    assert needed == 20
    assert all(write(shares, symbols, size) is None for size in range(needed))


@settings(max_examples=100, deadline=None)
@given(distributions(), st.binary(max_size=12))
def test_any_bytes_can_be_read(shares, content):
    found = read(shares, np.frombuffer(content, np.uint8), 50)
    assert all(0 <= symbol < len(shares) for symbol in found)


@pytest.mark.parametrize("count", [1, 7, 300])
def test_carries_reach_bytes_that_are_written(count):
    """The last of many symbols near the upper end of the interval."""
    shares = np.array([TOTAL - 3, 2, 1])
    symbols = [2] * count + [1] * count + [2] * count
    row = write(shares, symbols, 8 * count + 8)
    assert read(shares, row, 3 * count) == symbols
