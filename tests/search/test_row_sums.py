"""Sums of rows of a matrix in vector registers."""

import numpy as np
import pytest

from csr_hf.search.row_sums import WIDTH, shift_of, sum_rows


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("k", "dtype"), [(1, np.uint16), (5, np.int32), (33, np.uint16)])
def test_sums_are_those_of_the_products_without_their_last_bits(columns, k, dtype):
    rng = np.random.default_rng(columns * k)
    indices, values = rng.integers(0, 50, (4, k)).astype(dtype), rng.integers(0, 256, (4, k)).astype(np.uint8)
    matrix = rng.integers(0, 256, (50, columns * WIDTH)).astype(np.uint8)
    sums = np.full(columns * WIDTH, 77, np.uint16)
    for row in range(4):
        sum_rows(indices, values, row, matrix, shift_of(k), sums)
        products = values[row, :, None].astype(int) * matrix[indices[row]].astype(int)
        np.testing.assert_array_equal(sums, (products >> int(shift_of(k))).sum(axis=0))


@pytest.mark.parametrize("k", [1, 2, 3, 32, 33, 64, 65, 500])
def test_the_largest_sum_fits_in_sixteen_bits(k):
    assert k * (255 * 255 >> int(shift_of(k))) <= 65_535
    # No bit is given up that need not be.
    assert k == 1 or k * (255 * 255 >> int(shift_of(k)) - 1) > 65_535 / 2
