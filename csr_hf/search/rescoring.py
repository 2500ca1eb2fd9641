"""Numba kernels of the second stage: dense queries against what is stored of their candidates.

Every scoring kernel fills `scores`, float32 of the shape (queries, candidates), where `rows` name a document of
its arrays; -1 stands for a candidate that is none or stored elsewhere.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import LINE, from_half, jit, prefetch
from csr_hf.search.ranking import make_key, offer, smallest_score, sort_heap

_AHEAD = 8
"""Candidates whose memory is asked for in advance: documents lie anywhere."""
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@jit(fastmath=_FAST)
def _int8_product(copy: np.ndarray, row: int, queries: np.ndarray, q: int) -> np.float32:
    total = np.float32(0)
    for axis in range(queries.shape[1]):
        total += queries[q, axis] * np.float32(copy[row, axis])
    return total


@jit(fastmath=_FAST)
def _half_product(copy: np.ndarray, row: int, queries: np.ndarray, q: int) -> np.float32:
    total = np.float32(0)
    for axis in range(queries.shape[1]):
        total += queries[q, axis] * from_half(copy[row, axis])
    return total


@jit()
def _ask(copy: np.ndarray, row: int) -> None:
    """Prefetch a row; -1 for none."""
    if row >= 0:
        for at in range(0, copy.shape[1], LINE // copy.itemsize):
            prefetch(copy[row], at)


@jit()
def score_codes(
    indices: np.ndarray,
    values: np.ndarray,
    steps: np.ndarray,
    scale: np.ndarray,
    projections: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Dense queries against decoded documents: (sum_j projections_j z_j + offset) / ||decode(z)||.

    Args:
        indices: of the codes, shape (n, k).
        values: of the codes, uint8, shape (n, k).
        steps: what a step of the values is, float32, shape (n,).
        scale: steps / ||decode(z)||, float32, shape (n,); a document of scale 0 gets no score.
        projections: of the queries on the atoms, float32, shape (queries, dim).
        offsets: of the queries on pre_bias, float32, shape (queries,).
        rows: candidates, int64, shape (queries, candidates).
        scores: see above.
    """
    for q in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[q, i]
            if row >= 0 and scale[row] > 0:
                total = np.float32(0)
                for j in range(indices.shape[1]):
                    total += projections[q, indices[row, j]] * np.float32(values[row, j])
                scores[q, i] = (total + offsets[q] / steps[row]) * scale[row]


@jit()
def score_int8(copy: np.ndarray, scale: np.ndarray, queries: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Dense queries against eight-bit embeddings.

    Args:
        copy: int8, shape (n, input_dim).
        scale: what a step of each document is, float32, shape (n,).
        queries: float32, shape (queries, input_dim).
        rows: candidates, int64, shape (queries, candidates).
        scores: see above.
    """
    for q in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[q, i]
            if i + _AHEAD < rows.shape[1]:
                _ask(copy, rows[q, i + _AHEAD])
            if row >= 0:
                scores[q, i] = _int8_product(copy, row, queries, q) * scale[row]


@jit()
def score_float16(copy: np.ndarray, queries: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Dense queries against float16 embeddings.

    Args:
        copy: bits of float16, uint16, shape (n, input_dim).
        queries: float32, shape (queries, input_dim).
        rows: candidates, int64, shape (queries, candidates).
        scores: see above.
    """
    for q in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[q, i]
            if i + _AHEAD < rows.shape[1]:
                _ask(copy, rows[q, i + _AHEAD])
            if row >= 0:
                scores[q, i] = _half_product(copy, row, queries, q)


@jit(fastmath=_FAST)
def score_binary(
    planes: np.ndarray, begins: np.ndarray, queries: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> None:
    """Dense queries against signs, as vectors of unit norm: sum_j query_j sign_j / sqrt(input_dim).

    Args:
        planes: eight dimensions a byte, the first in the highest bit, 1 for positive; see `SubBlocks`.
        begins: rows where sub-blocks begin and the last ends.
        queries: float32, shape (queries, input_dim).
        rows: candidates, int64, shape (queries, candidates).
        scores: see above.
    """
    dim = queries.shape[1]
    bytes_of = (dim + 7) // 8
    # Sums of a query over the bits of every possible byte, each from that of the byte without its lowest bit.
    sums = np.zeros((bytes_of, 256), np.float32)
    for q in range(rows.shape[0]):
        whole = np.float32(0)
        for axis in range(dim):
            whole += queries[q, axis]
        for place in range(bytes_of):
            for byte in range(1, 256):
                lowest = 0
                while not (byte >> lowest) & 1:
                    lowest += 1
                axis = 8 * place + 7 - lowest
                extra = queries[q, axis] if axis < dim else np.float32(0)
                sums[place, byte] = sums[place, byte & (byte - 1)] + extra
        for i in range(rows.shape[1]):
            row = rows[q, i]
            if row >= 0:
                number = np.searchsorted(begins, row, side="right") - 1
                length, total = begins[number + 1] - begins[number], np.float32(0)
                at = bytes_of * begins[number] + row - begins[number]
                for place in range(bytes_of):
                    total += sums[place, planes[at + place * length]]
                scores[q, i] = (2 * total - whole) / np.sqrt(np.float32(dim))


@jit()
def rank_rows(
    copies: tuple[np.ndarray, np.ndarray, np.ndarray],
    queries: np.ndarray,
    q: int,
    rows: np.ndarray,
    order: np.ndarray,
    heap: np.ndarray,
) -> None:
    """The best of a query's candidates by what a copy says of them.

    Args:
        copies: int8 and scale as for `score_int8`, and float16 as for `score_float16`; one of them is empty.
        queries: float32, shape (queries, input_dim).
        q: which of them asks.
        rows: its candidates, int32, shape (candidates,).
        order: positions of rows.
        heap: zeros, uint64, shape (top_k,); receives the keys of positions, best first.
    """
    rounded, scale, halves = copies
    size, bound, last = 0, np.float32(-np.inf), rows.shape[0] - 1
    for i in range(rows.shape[0]):
        row = rows[i]
        following, far = rows[min(i + 1, last)], rows[min(i + _AHEAD, last)]
        if rounded.shape[0]:
            # Finding a page takes longer than reading it: that is asked for sooner.
            prefetch(rounded[far], 0)
            _ask(rounded, following)
            score = _int8_product(rounded, row, queries, q) * scale[row]
        else:
            prefetch(halves[far], 0)
            _ask(halves, following)
            score = _half_product(halves, row, queries, q)
        if score >= bound:
            size = offer(heap, size, make_key(score, order[row]))
            bound = smallest_score(heap, size, bound)
    sort_heap(heap, size)


@jit()
def best_keys(scores: np.ndarray, positions: np.ndarray, keys: np.ndarray) -> None:
    """The best candidates of every query.

    Args:
        scores: float32, shape (queries, candidates); -inf for none.
        positions: int64, shape (queries, candidates).
        keys: zeros, uint64, shape (queries, top_k); receives the keys, best first.
    """
    for q in range(scores.shape[0]):
        size = 0
        for i in range(scores.shape[1]):
            if scores[q, i] > -np.inf:
                size = offer(keys[q], size, make_key(scores[q, i], positions[q, i]))
        sort_heap(keys[q], size)
