"""Codes of dense queries without reading the whole dictionary.

One query against all atoms is bound by memory: the dictionary is read once, whatever is done with it. So eight-bit
atoms, a quarter of the bytes, tell which few may be among the largest projections, and those alone are computed.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import frozen, jit
from csr_hf.plumbing.threads import run
from csr_hf.search.byte_products import DOT, moved, multiply_bytes
from csr_hf.search.copies import make_copies
from csr_hf.search.params import count_threads
from csr_hf.search.queries import checked_dense
from csr_hf.search.ranking import key_position, key_score, make_key, offer, sort_heap
from csr_hf.sparse_codes import SparseCodes, index_dtype

_CHUNK = 16
_FOLDED = 8
"""Scores of which the largest alone counts where many are to be told apart from all others."""
_STRIP = 32
"""Atoms that are passed over at once where none of them is of interest."""
_FAST = {"reassoc", "contract", "nsz"}
_TOLERANCE = np.float32(1e-5)
"""Of a product of norms: what rounding of sums in float32 adds to an error, at most."""


class QueryEncoder:
    """The largest projections of dense queries: what `project_queries(head, embeddings).codes(k)` gives, sooner.

    Args:
        dictionary: of the head, `head.dictionary.numpy(force=True)`; shape (hidden_dim, input_dim). It is copied.
        head: fingerprint of the head, `csr_hf.codes.head_fingerprint(head)`, which the codes carry.
    """

    def __init__(self, dictionary: np.ndarray, head: str | None = None) -> None:
        self.head = head
        self._atoms = np.array(dictionary, np.float32, order="C")
        rounded = make_copies(["int8"], self._atoms)
        self._norms = np.linalg.norm(self._atoms, axis=1)
        self._steps = rounded["int8_scale"] * self._norms
        self._errors = np.linalg.norm(self._atoms - self._steps[:, None] * rounded["int8"], axis=1)
        self._rounded = frozen(moved(rounded["int8"]) if DOT else rounded["int8"])

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
        rounded = self._rounded, self._steps, self._errors, self._norms

        def encode(start: int) -> None:
            part = slice(start, start + _CHUNK)
            _largest(self._atoms, rounded, rows[part], indices[part], values[part])

        run(encode, [(start,) for start in range(0, len(rows), _CHUNK)], count_threads(threads))
        return SparseCodes(indices, values, hidden_dim, self.head, check=False)


@jit(fastmath=_FAST)
def _product(row: np.ndarray, query: np.ndarray) -> np.float32:
    total = np.float32(0)
    for axis in range(query.shape[0]):
        total += query[axis] * np.float32(row[axis])
    return total


@jit(fastmath=_FAST)
def multiply_plainly(rows: np.ndarray, queries: np.ndarray, products: np.ndarray, rounding: np.ndarray) -> None:
    """`multiply_bytes` for processors without such instructions; rows of int8, and queries are not rounded."""
    n, zero = queries.shape[0], np.float32(0)
    rounding[:] = 0
    # Four queries at a time: an atom is read and widened once for all of them.
    for i in range(0, n - 3, 4):
        q0, q1, q2, q3 = queries[i], queries[i + 1], queries[i + 2], queries[i + 3]
        for j in range(rows.shape[0]):
            row, t0, t1, t2, t3 = rows[j], zero, zero, zero, zero
            for axis in range(q0.shape[0]):
                value = np.float32(row[axis])
                t0 += q0[axis] * value
                t1 += q1[axis] * value
                t2 += q2[axis] * value
                t3 += q3[axis] * value
            products[i, j], products[i + 1, j], products[i + 2, j], products[i + 3, j] = t0, t1, t2, t3
    for i in range(n - n % 4, n):
        for j in range(rows.shape[0]):
            products[i, j] = _product(rows[j], queries[i])


_multiply = multiply_bytes if DOT else multiply_plainly


@jit()
def _largest(
    atoms: np.ndarray,
    rounded: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    queries: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
) -> None:
    """The largest projections of each query, best first.

    What rounding moves a projection by is at most the norm of what it takes from one side times the norm of the other
    side. Whatever cannot reach the k-th largest lower bound is none of the k largest.

    Args:
        atoms: float32, shape (hidden_dim, dim).
        rounded: the same in steps, as `_multiply` takes them; and of each atom, float32, shape (hidden_dim,), what a
            step is, the norm of what rounding took from it, and its own norm.
        queries: float32, shape (n, dim).
        indices: receives the latents, shape (n, k).
        values: receives the projections, float32, shape (n, k); 0 for negative ones.
    """
    rows, steps, errors, norms = rounded
    n, k, count = queries.shape[0], indices.shape[1], atoms.shape[0]
    products, rounding, heap = np.empty((n, count), np.float32), np.empty(n, np.float32), np.empty(k, np.uint64)
    lowest, highest = np.empty(count, np.float32), np.empty(count, np.float32)
    _multiply(rows, queries, products, rounding)
    for i in range(n):
        length = np.sqrt(_product(queries[i], queries[i]))
        own, missing = products[i], rounding[i] + _TOLERANCE * length
        for j in range(count):
            slack = errors[j] * length + norms[j] * missing
            lowest[j], highest[j] = own[j] * steps[j] - slack, own[j] * steps[j] + slack
        bound, size = _reached_by_many(lowest, heap), 0
        for begin in range(0, count, _STRIP):
            if _reached(highest, begin, bound):
                for j in range(begin, min(begin + _STRIP, count)):
                    if highest[j] >= bound:
                        size = offer(heap, size, make_key(_product(atoms[j], queries[i]), j))
        sort_heap(heap, size)
        for rank in range(k):
            indices[i, rank] = key_position(heap[rank])
            values[i, rank] = max(key_score(heap[rank]), np.float32(0))


@jit()
def _reached_by_many(scores: np.ndarray, heap: np.ndarray) -> np.float32:
    """What as many scores as fit into a heap reach at least, nearly the smallest of so many largest ones.

    It is so of the largest of every few scores, and these are found by vectors. The heap is written over.
    """
    count, wanted = scores.shape[0], heap.shape[0]
    groups = max(wanted, count // _FOLDED)
    largest = scores[:groups].copy()
    for begin in range(groups, count, groups):
        own = scores[begin : begin + groups]
        for at in range(own.shape[0]):
            largest[at] = own[at] if own[at] > largest[at] else largest[at]
    size = 0
    for at in range(groups):
        size = offer(heap, size, make_key(largest[at], 0))
    return key_score(heap[0])


@jit()
def _reached(scores: np.ndarray, begin: int, bound: np.float32) -> bool:
    """Whether any of a strip of scores reaches a bound."""
    reached = 0
    own = scores[begin : begin + _STRIP]
    for at in range(own.shape[0]):
        reached += own[at] >= bound
    return reached > 0
