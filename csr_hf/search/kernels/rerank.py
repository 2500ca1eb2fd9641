"""Score candidates by what is stored of them: packed codes with residuals, or float16 copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout, score_rows
from csr_hf.plumbing.jit import LINE, from_half, jit, prefetch
from csr_hf.search.kernels.topk import make_key, offer

_AHEAD = 16
"""Candidates that are scored together, and for which memory is asked before those in front are."""
_NEAR = 4
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


@jit()
def _ask_all(stored: Stored, row: int) -> None:
    """Ask for all that is stored of a row."""
    _ask(stored.rows, row)
    _ask(stored.residual, row)
    prefetch(stored.scales, row)


@jit(fastmath=_FAST)
def _add_residual(codes: np.ndarray, row: int, table: np.ndarray) -> np.float32:
    """Add up the table's entries for a row, four at a time, since each addition waits for the one before."""
    first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    parts = codes.shape[1]
    whole = parts - parts % 4
    for part in range(0, whole, 4):
        first += table[part, codes[row, part]]
        second += table[part + 1, codes[row, part + 1]]
        third += table[part + 2, codes[row, part + 2]]
        fourth += table[part + 3, codes[row, part + 3]]
    for part in range(whole, parts):
        first += table[part, codes[row, part]]
    return first + second + third + fourth


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
    for at in range(min(_AHEAD, count)):
        _ask_all(stored, candidates[at])
    for begin in range(0, count, _AHEAD):
        stop = min(begin + _AHEAD, count)
        for at in range(stop, min(stop + _AHEAD, count)):
            _ask_all(stored, candidates[at])
        score_rows(stored.rows, candidates[begin:stop], stored.layout, stored.worth, projections, scores[begin:stop])
        for at in range(begin, stop):
            row = candidates[at]
            total = scores[at] + offset + _add_residual(stored.residual, row, table)
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
        if at + _NEAR < count:
            _ask(copies, candidates[at + _NEAR])
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
