"""Score candidates by what is stored of them: packed codes with residuals, or float16 copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout, score_rows
from csr_hf.coding.scalar_kernels import LEVELS, SCALE_BYTES, SHARED, read_scale
from csr_hf.plumbing.jit import LINE, from_half, jit, prefetch
from csr_hf.search.kernels.dots import LANES, dot, dot_shared
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
    """See `coding.scalar`, uint8, shape (n, bytes)."""
    scales: np.ndarray
    """What scores are multiplied by, less one, bits of float16, uint16, shape (n,)."""


@jit(inline="always")
def _ask(flat: np.ndarray, row: int, width: int) -> None:
    """Ask for the memory of a row of an array."""
    for at in range(row * width, (row + 1) * width, LINE):
        prefetch(flat, at)


@jit(inline="always")
def _multiply_levels(codes: np.ndarray, span: tuple[int, int], whole: int, query: np.ndarray, sums: np.ndarray) -> int:
    """Multiply the levels of a residual with a query.

    Args:
        codes: of all documents, uint8, flat.
        span: its first byte behind the scale, and the first byte behind it.
        whole: axes that have a byte.
        query: in the order of `coding.scalar.order_axes`, int16.
        sums: room for a number, int32.
    """
    first, half, begin, total = span[0] + whole, span[1] - span[0] - whole, whole, 0
    if whole >= LANES:
        begin = whole - whole % LANES
        dot(codes, span[0], begin, query, 0, sums)
        total += sums[0]
        if begin < whole:
            dot(codes, first - LANES, LANES, query, begin, sums)
            total += sums[0]
            begin += LANES
    else:
        for at in range(whole):
            total += np.int64(np.int8(codes[span[0] + at])) * query[at]
    if half >= SHARED:
        full = half - half % SHARED
        dot_shared(codes, first, full, query, begin, sums)
        total += sums[0]
        if full < half:
            dot_shared(codes, span[1] - SHARED, SHARED, query, begin + 2 * full, sums)
            total += sums[0]
    else:
        for at in range(half):
            code = codes[first + at]
            total += np.int64(LEVELS[code & 15]) * query[begin + at]
            total += np.int64(LEVELS[code >> 4]) * query[begin + half + at]
    return total


@jit()
def score_codes(
    stored: Stored,
    candidates: np.ndarray,
    projections: np.ndarray,
    offset: np.float32,
    rest: tuple[np.ndarray, np.float32, int],
    scores: np.ndarray,
) -> None:
    """Compute <query, decoded document> of candidates, times their scales.

    Args:
        stored: of the segment.
        candidates: rows, int32, shape (m,).
        projections: of the query, float32, shape (hidden_dim,).
        offset: product with the bias of the head.
        rest: products of the query with the axes of residuals, in their order, int16; what one is worth; and axes that
            have a byte.
        scores: receives them, float32, shape (m,).
    """
    count, (query, step, whole), sums = candidates.shape[0], rest, np.empty(1, np.int32)
    rows, codes, width = stored.rows.reshape(-1), stored.residual.reshape(-1), stored.residual.shape[1]
    for at in range(min(_AHEAD, count)):
        _ask(rows, candidates[at], stored.rows.shape[1])
        _ask(codes, candidates[at], width)
        prefetch(stored.scales, candidates[at])
    for begin in range(0, count, _AHEAD):
        stop = min(begin + _AHEAD, count)
        for at in range(stop, min(stop + _AHEAD, count)):
            _ask(rows, candidates[at], stored.rows.shape[1])
            _ask(codes, candidates[at], width)
            prefetch(stored.scales, candidates[at])
        score_rows(stored.rows, candidates[begin:stop], stored.layout, stored.worth, projections, scores[begin:stop])
        for at in range(begin, stop):
            row = candidates[at]
            total = scores[at] + offset
            if query.shape[0] > 0:
                span = row * width + SCALE_BYTES, (row + 1) * width
                found = _multiply_levels(codes, span, whole, query, sums)
                total += np.float32(found) * (step * read_scale(codes, row * width))
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
    count, flat = candidates.shape[0], copies.reshape(-1)
    for at in range(count):
        if at + _NEAR < count:
            _ask(flat, candidates[at + _NEAR], copies.shape[1])
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
