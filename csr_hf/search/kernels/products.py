"""Multiply queries with what an index knows, in integers.

For a lone query all rows come from memory, which takes longer than to multiply them: few bytes are what makes it fast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen, jit
from csr_hf.search.kernels.dots import LANES, dot, dot_four

_QUERY_NORM, _ROW_NORM, _HIGHEST = 2.0**14, 2.0**15 - 1, 127
"""Their product, and with it any partial sum, fits in 32 bits."""


class Factors(NamedTuple):
    """Rows of integers that queries are multiplied with."""

    rows: np.ndarray
    """int8 or int16, shape (n, dim and zeros up to a multiple of `LANES`)."""
    steps: np.ndarray
    """What one is worth in each row, float32, shape (n,)."""

    @classmethod
    def of(cls, rows: np.ndarray, *, fine: bool) -> Factors:
        """Round finite floats, shape (n, dim): to 8 bits, off by 0.4 % of a row's largest number at most, or to 16."""
        if fine:
            steps = np.linalg.norm(rows.astype(np.float64), axis=1) / _ROW_NORM
        else:
            steps = np.abs(rows).max(axis=1, initial=0).astype(np.float64) / _HIGHEST
        rounded = np.zeros((len(rows), -(-rows.shape[1] // LANES) * LANES), np.int16 if fine else np.int8)
        rounded[:, : rows.shape[1]] = np.rint(rows / np.where(steps > 0, steps, 1)[:, None])
        return cls(frozen(rounded), frozen(steps, np.float32))


@jit()
def round_queries(queries: np.ndarray, order: np.ndarray, rounded: np.ndarray, steps: np.ndarray) -> None:
    """Round queries to 16 bits.

    Args:
        queries: finite, float32, shape (n, dim).
        order: of their dimensions, int32, shape (places,); -1 for a zero.
        rounded: receives them, int16, shape (n, places).
        steps: receives what one is worth, float32, shape (n,).
    """
    for i in range(queries.shape[0]):
        total = np.float64(0)
        for axis in range(queries.shape[1]):
            total += np.float64(queries[i, axis]) * np.float64(queries[i, axis])
        step = np.sqrt(total) / _QUERY_NORM
        steps[i], rounded[i] = step, 0
        for place in range(order.shape[0] if step > 0 else 0):
            if order[place] >= 0:
                rounded[i, place] = np.int16(np.rint(queries[i, order[place]] / step))


@jit()
def multiply(factors: Factors, queries: np.ndarray, steps: np.ndarray, products: np.ndarray) -> None:
    """Compute inner products of rows with queries.

    Args:
        factors: what to multiply with.
        queries: int16, shape (n, width of the rows).
        steps: theirs, float32, shape (n,).
        products: receives them, float32, shape (n, rows).
    """
    count, width = factors.rows.shape
    n, rows, flat, sums = queries.shape[0], factors.rows.reshape(-1), queries.reshape(-1), np.empty(4, np.int32)
    whole = n - n % 4
    for row in range(count):
        step = factors.steps[row]
        for i in range(0, whole, 4):
            dot_four(rows, row * width, width, flat, i * width, sums)
            for at in range(4):
                products[i + at, row] = np.float32(sums[at]) * (step * steps[i + at])
        for i in range(whole, n):
            dot(rows, row * width, width, flat, i * width, sums)
            products[i, row] = np.float32(sums[0]) * (step * steps[i])
