"""Codes of dense queries without reading the whole dictionary.

One query against all atoms is bound by memory: the dictionary is read once, whatever is done with it. So eight-bit
atoms, a quarter of the bytes, tell which few may be among the largest projections, and those alone are computed.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import jit
from csr_hf.search.copies import make_copies
from csr_hf.search.queries import checked_dense, checked_threads
from csr_hf.search.ranking import key_score, make_key, offer, smallest_score, sort_heap
from csr_hf.sparse_codes import SparseCodes, index_dtype
from csr_hf.threads import run

_CHUNK = 16
_STRIP = 32
"""Atoms that are passed over at once where none of them is of interest."""
_FAST = {"reassoc", "contract", "nsz"}
_HALF = np.float32(0.501)
"""Of a step: as far as rounding moves a component, and what rounding of sums in float32 adds."""


class QueryEncoder:
    """The largest projections of dense queries: what `project_queries(head, embeddings).codes(k)` gives, sooner.

    Args:
        dictionary: of the head, `head.dictionary.numpy(force=True)`; shape (hidden_dim, input_dim). It is copied.
        head: fingerprint of the head, `csr_hf.encoder.head_fingerprint(head)`, which the codes carry.
    """

    def __init__(self, dictionary: np.ndarray, head: str | None = None) -> None:
        self.head = head
        self._atoms = np.array(dictionary, np.float32, order="C")
        rounded = make_copies(["int8"], self._atoms)
        self._rounded, self._steps = rounded["int8"], rounded["int8_scale"] * np.linalg.norm(self._atoms, axis=1)

    def codes(self, embeddings: np.ndarray, k: int, *, threads: int | None = None) -> SparseCodes:
        """The k largest projections as sparse queries, for an index built with decoded norms; negative ones are 0.

        Args:
            embeddings: of the queries, shape (n, input_dim), as the head takes them.
            k: latents to keep.
            threads: default as many as there are cores.

        Raises:
            ValueError: for embeddings of another width or not finite, or numbers out of range.
        """
        hidden_dim, width = self._atoms.shape
        if not 1 <= k <= hidden_dim:
            raise ValueError(f"`k` ({k}) must be between 1 and the hidden_dim ({hidden_dim}).")
        rows = checked_dense(embeddings, len(embeddings), width)
        indices, values = np.empty((len(rows), k), index_dtype(hidden_dim)), np.empty((len(rows), k), np.float32)

        def encode(start: int) -> None:
            part = slice(start, start + _CHUNK)
            _largest(self._atoms, self._rounded, self._steps, rows[part], indices[part], values[part])

        run(encode, [(start,) for start in range(0, len(rows), _CHUNK)], checked_threads(threads))
        return SparseCodes(indices, values, hidden_dim, self.head, check=False)


@jit(fastmath=_FAST)
def _product(row: np.ndarray, query: np.ndarray) -> np.float32:
    total = np.float32(0)
    for axis in range(query.shape[0]):
        total += query[axis] * np.float32(row[axis])
    return total


@jit(fastmath=_FAST)
def _multiply(rounded: np.ndarray, queries: np.ndarray, products: np.ndarray) -> None:
    """Products of all queries and all rounded atoms, float32, shape (n, hidden_dim)."""
    n, zero = queries.shape[0], np.float32(0)
    # Four queries at a time: an atom is read and widened once for all of them.
    for i in range(0, n - 3, 4):
        q0, q1, q2, q3 = queries[i], queries[i + 1], queries[i + 2], queries[i + 3]
        for j in range(rounded.shape[0]):
            row, t0, t1, t2, t3 = rounded[j], zero, zero, zero, zero
            for axis in range(q0.shape[0]):
                value = np.float32(row[axis])
                t0 += q0[axis] * value
                t1 += q1[axis] * value
                t2 += q2[axis] * value
                t3 += q3[axis] * value
            products[i, j], products[i + 1, j], products[i + 2, j], products[i + 3, j] = t0, t1, t2, t3
    for i in range(n - n % 4, n):
        for j in range(rounded.shape[0]):
            products[i, j] = _product(rounded[j], queries[i])


@jit()
def _largest(
    atoms: np.ndarray,
    rounded: np.ndarray,
    steps: np.ndarray,
    queries: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
) -> None:
    """The largest projections of each query, best first.

    Rounding moves a component by half a step at most, so a projection by half a step times the sum of the query's
    absolute values. Whatever cannot reach the k-th largest lower bound is none of the k largest.

    Args:
        atoms: float32, shape (hidden_dim, dim).
        rounded: the same in steps, int8.
        steps: what a step of each atom is, float32, shape (hidden_dim,).
        queries: float32, shape (n, dim).
        indices: receives the latents, shape (n, k).
        values: receives the projections, float32, shape (n, k); 0 for negative ones.
    """
    n, k, count = queries.shape[0], indices.shape[1], atoms.shape[0]
    products, heap = np.empty((n, count), np.float32), np.empty(k, np.uint64)
    lowest, highest = np.empty(count, np.float32), np.empty(count, np.float32)
    _multiply(rounded, queries, products)
    for i in range(n):
        spread = np.float32(0)
        for axis in range(queries.shape[1]):
            spread += abs(queries[i, axis])
        own, slack = products[i], _HALF * spread
        for j in range(count):
            lowest[j], highest[j] = (own[j] - slack) * steps[j], (own[j] + slack) * steps[j]
        bound, size = _smallest_of_largest(lowest, heap), 0
        for begin in range(0, count, _STRIP):
            if _reached(highest, begin, bound):
                for j in range(begin, min(begin + _STRIP, count)):
                    if highest[j] >= bound:
                        size = offer(heap, size, make_key(_product(atoms[j], queries[i]), j))
        sort_heap(heap, size)
        for rank in range(k):
            indices[i, rank] = np.uint64(0xFFFFFFFF) - (heap[rank] & np.uint64(0xFFFFFFFF))
            values[i, rank] = max(key_score(heap[rank]), np.float32(0))


@jit()
def _smallest_of_largest(scores: np.ndarray, heap: np.ndarray) -> np.float32:
    """The smallest of as many of the largest scores as fit into a heap, which is written over."""
    size, bound = 0, np.float32(-np.inf)
    for begin in range(0, scores.shape[0], _STRIP):
        if _reached(scores, begin, bound):
            for j in range(begin, min(begin + _STRIP, scores.shape[0])):
                size = offer(heap, size, make_key(scores[j], 0))
            bound = smallest_score(heap, size, bound)
    return bound


@jit()
def _reached(scores: np.ndarray, begin: int, bound: np.float32) -> bool:
    """Whether any of a strip of scores reaches a bound."""
    reached = 0
    own = scores[begin : begin + _STRIP]
    for at in range(own.shape[0]):
        reached += own[at] >= bound
    return reached > 0
