"""Numba kernels that turn queries into integers: values for lists, values for summaries, tables for signs."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.building import LEVELS
from csr_hf.search.lookup import HIGHEST
from csr_hf.search.routing import COARSE_SHIFT

COARSE_K = 32
"""Latents of a query, at most, that choose blocks."""
NOT_FINITE, OUT_OF_RANGE, TWICE = 1, 2, 3
"""What may be wrong with a query."""
_MOST = (2**31 - 1) // LEVELS


@jit()
def find_fault(latents: np.ndarray, values: np.ndarray, dim: int) -> tuple[int, int]:
    """The first query with something wrong, and what; (-1, 0) if all is well. Arguments as for `round_queries`."""
    seen = np.full(dim, -1, np.int32)
    for i in range(latents.shape[0]):
        for j in range(latents.shape[1]):
            value, latent = np.float64(values[i, j]), np.int64(latents[i, j])
            if not (value >= 0 and value < np.inf):
                return i, NOT_FINITE
            if latent < 0 or latent >= dim:
                return i, OUT_OF_RANGE
            if value > 0:
                if seen[latent] == i:
                    return i, TWICE
                seen[latent] = i
    return -1, 0


@jit()
def round_queries(
    latents: np.ndarray,
    values: np.ndarray,
    decoded: bool,
    steps: np.ndarray,
    coarse: np.ndarray,
    factors: np.ndarray,
) -> None:
    """Round the values of queries; not with numpy, whose dozen calls would take longer than searching for one.

    A document's values are at most 255, so sums fit in 31 bits if the integers of a query add up to 8.4 million: about
    as fine as float32. Those for summaries, of eight bits too, are such that sums of products fit in 16 bits.

    Args:
        latents: integers, shape (n, k).
        values: theirs, largest first, of any float type, shape (n, k).
        decoded: whether scores are of the values as they are, or of those of a unit-norm query.
        steps: receives the values as integers, int32, shape (n, k); 0 for latents not active.
        coarse: receives the largest for summaries, uint8, shape (n, up to `COARSE_K`).
        factors: receives what sums are multiplied by, float32, shape (n,).
    """
    for i in range(latents.shape[0]):
        squares = 0.0
        for j in range(latents.shape[1]):
            squares += np.float64(values[i, j]) * np.float64(values[i, j])
        norm = np.sqrt(squares) if squares > 0 else 1.0
        total, front = 0.0, 0.0
        for j in range(latents.shape[1]):
            total += np.float64(values[i, j]) / norm
            if j < coarse.shape[1]:
                front = total
        # One step less for each latent, since every active one has at least one step.
        resolution = (_MOST - latents.shape[1]) / max(total, 1.0)
        factors[i] = (norm if decoded else 1.0) / resolution
        largest = np.float64(values[i, 0]) / norm if latents.shape[1] else 0.0
        limit = (2**16 << COARSE_SHIFT) / (LEVELS + 1)
        scale = min(LEVELS / (largest if largest > 0 else 1.0), limit / (front if front > 0 else 1.0))
        for j in range(latents.shape[1]):
            value = np.float64(values[i, j]) / norm
            steps[i, j] = max(np.rint(value * resolution), 1.0) if value > 0 else 0.0
            if j < coarse.shape[1]:
                coarse[i, j] = np.uint8(np.floor(value * scale))


@jit()
def fill_tables(queries: np.ndarray, tables: np.ndarray) -> None:
    """Tables of dense queries: for every four dimensions the sum of those whose bit is set, less the smallest sum.

    Args:
        queries: float32, shape (n, input_dim).
        tables: receives them, uint8, shape (n, 32 * bytes of a document); see `add_entries`.
    """
    n, dim = queries.shape
    places = tables.shape[1] // 32
    most = min(HIGHEST, 65_535 // (2 * places))
    sums = np.empty(16, np.float32)
    for i in range(n):
        # The largest entry of any table sets the step of all, so that sums compare.
        largest = np.float32(1e-30)
        for first in range(0, dim, 4):
            total = np.float32(0)
            for axis in range(first, min(first + 4, dim)):
                total += abs(queries[i, axis])
            largest = max(largest, total)
        step = np.float32(most) / largest
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
            own = tables[i, 32 * (half // 2) + 16 * (1 - half % 2) :]
            for code in range(16):
                own[code] = np.uint8(min(np.float32(most), np.rint(sums[code] * step)))


def sign_tables(queries: np.ndarray) -> np.ndarray:
    """What the signs of documents are looked up in, uint8, shape (n, 32 * bytes of a document); see `fill_tables`."""
    n, dim = queries.shape
    tables = np.empty((n, 32 * -(-dim // 8)), np.uint8)
    fill_tables(queries, tables)
    return tables
