"""Bring dense queries to unit norm, and make the tables in which signs of documents are looked up."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit, largest_size
from csr_hf.search.kernels.simd import HIGHEST

_LARGEST = float(np.finfo(np.float32).max)


@jit()
def bring_to_unit_norm(queries: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> int:
    """Divide queries by their norms; zeros stay.

    Args:
        queries: float32, shape (n, dim).
        rows: receives them, float32, shape (n, dim).
        norms: receives the norms, float32, shape (n, 1), the largest number there is where they are above it.

    Returns:
        the first query that holds NaN or infinity, -1 if none does; those behind it are left out.
    """
    for i in range(queries.shape[0]):
        largest, total = largest_size(queries[i]), np.float64(0)
        if not np.isfinite(largest):
            return i
        for axis in range(queries.shape[1]):
            total += np.float64(queries[i, axis]) * np.float64(queries[i, axis])
        norm = np.sqrt(total)
        norms[i, 0] = min(norm, _LARGEST)
        for axis in range(queries.shape[1]):
            rows[i, axis] = np.float64(queries[i, axis]) / norm if norm > 0 else 0.0
    return -1


@jit()
def fill_sign_tables(queries: np.ndarray, tables: np.ndarray, steps: np.ndarray, lengths: np.ndarray) -> None:
    """Make what signs of documents are looked up in: for every four dimensions the sums of those whose bit is set.

    With s the signs of a document as -1 and 1, <s, query> = steps * (sum of its entries) - lengths, up to rounding.

    Args:
        queries: rotated as documents are, float32, shape (n, dim).
        tables: receives them, uint8, shape (n, 32 * bytes of a document); see `simd.add_entries`.
        steps: receives what an entry is worth, float32, shape (n,).
        lengths: receives the sum of absolute values, float32, shape (n,).
    """
    n, dim = queries.shape
    places = tables.shape[1] // 32
    most = min(HIGHEST, 65_535 // (2 * places))
    sums = np.empty(16, np.float32)
    for i in range(n):
        # The largest entry of any table sets the step of all, so that sums compare.
        largest, every = np.float32(1e-30), np.float32(0)
        for first in range(0, dim, 4):
            total = np.float32(0)
            for axis in range(first, min(first + 4, dim)):
                total += abs(queries[i, axis])
            largest, every = max(largest, total), every + total
        step = np.float32(most) / largest
        steps[i], lengths[i] = np.float32(2) / step, every
        for half in range(2 * places):
            # The first dimension of a byte is its highest bit, and its upper half the second table.
            first, low = 4 * half, np.float32(0)
            for axis in range(first, min(first + 4, dim)):
                low += min(queries[i, axis], np.float32(0))
            sums[0] = -low
            for bit in range(4):
                axis = first + 3 - bit
                more = queries[i, axis] if axis < dim else np.float32(0)
                for code in range(1 << bit):
                    sums[code | 1 << bit] = sums[code] + more
            at = 32 * (half // 2) + 16 * (1 - half % 2)
            for code in range(16):
                tables[i, at + code] = np.uint8(min(np.float32(most), np.rint(sums[code] * step)))
