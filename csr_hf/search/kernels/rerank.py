"""Score candidates by what is stored of them: packed codes with residuals, or float16 copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout, score_rows
from csr_hf.plumbing.jit import LINE, from_half, jit, prefetch
from csr_hf.search.kernels.topk import make_key, offer

_AHEAD = 8
"""Candidates in advance of which memory is asked for."""
_FAST = {"reassoc", "contract", "nsz"}


class Stored(NamedTuple):
    """What is kept of the documents of a segment, by row."""

    rows: np.ndarray
    """Packed codes, uint8, shape (n, row_bytes)."""
    layout: Layout
    """How they are read."""
    worth: np.ndarray
    """What a level is worth by its scale, float32, shape (256,)."""
    residual: np.ndarray
    """uint8, shape (n, bytes)."""
    scales: np.ndarray
    """What scores are multiplied by, less one, bits of float16, uint16, shape (n,)."""


@jit()
def _ask(array: np.ndarray, row: int) -> None:
    """Ask for the memory of a row."""
    width = array.shape[1]
    flat = array.reshape(-1)
    for at in range(row * width, (row + 1) * width, LINE):
        prefetch(flat, at)


@jit(fastmath=_FAST)
def _add_residual(codes: np.ndarray, table: np.ndarray) -> np.float32:
    first, second = np.float32(0), np.float32(0)
    parts = codes.shape[0]
    for part in range(0, parts - 1, 2):
        first += table[part, codes[part]]
        second += table[part + 1, codes[part + 1]]
    if parts % 2:
        first += table[parts - 1, codes[parts - 1]]
    return first + second


@jit()
def score_codes(
    stored: Stored,
    candidates: np.ndarray,
    projections: np.ndarray,
    offset: np.float32,
    table: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Compute <query, decoded document> of candidates, times their scales.

    Args:
        stored: of the segment.
        candidates: rows, int32, shape (m,).
        projections: of the query, float32, shape (hidden_dim,).
        offset: product with the bias of the head.
        table: products with the centroids of residual codes, float32, shape (bytes, 256).
        scores: receives them, float32, shape (m,).
    """
    count = candidates.shape[0]
    for at in range(count):
        if at + _AHEAD < count:
            _ask(stored.rows, candidates[at + _AHEAD])
            _ask(stored.residual, candidates[at + _AHEAD])
            prefetch(stored.scales, candidates[at + _AHEAD])
        score_rows(
            stored.rows,
            candidates[at : at + 1],
            stored.layout,
            stored.worth,
            projections,
            scores[at : at + 1],
        )
        row = candidates[at]
        total = scores[at] + offset + _add_residual(stored.residual[row], table)
        scores[at] = total * (np.float32(1) + np.float32(from_half(stored.scales[row])))


@jit(fastmath=_FAST)
def _multiply(copy: np.ndarray, query: np.ndarray) -> np.float32:
    total = np.float32(0)
    for axis in range(query.shape[0]):
        total += from_half(copy[axis]) * query[axis]
    return total


@jit()
def score_copies(copies: np.ndarray, candidates: np.ndarray, query: np.ndarray, scores: np.ndarray) -> None:
    """Compute <query, copy> of candidates.

    Args:
        copies: bits of float16, uint16, shape (n, dim).
        candidates: rows, int32, shape (m,).
        query: float32, shape (dim,).
        scores: receives them, float32, shape (m,).
    """
    count = candidates.shape[0]
    for at in range(count):
        if at + _AHEAD < count:
            _ask(copies, candidates[at + _AHEAD])
        scores[at] = _multiply(copies[candidates[at]], query)


@jit()
def offer_all(
    candidates: np.ndarray, scores: np.ndarray, order: np.ndarray, start: int, heap: np.ndarray, size: int
) -> int:
    """Offer candidates to a heap of the best keys.

    Args:
        candidates: rows of a segment, int32, shape (m,).
        scores: theirs, float32, shape (m,).
        order: positions of rows in the segment.
        start: position at which the segment begins.
        heap: uint64, shape (top_k,).
        size: keys that it holds.

    Returns:
        how many it holds then.
    """
    for at in range(candidates.shape[0]):
        size = offer(heap, size, make_key(scores[at], start + order[candidates[at]]))
    return size
