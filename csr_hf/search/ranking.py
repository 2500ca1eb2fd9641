"""Numba kernels that keep the best of many scored documents: keys, a bounded heap, a list that is cut when full.

Positions and scores travel as one uint64 key (score bits above, inverted position below): comparing keys orders by
score descending, then by position ascending.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

_BINS = 1024
_POSITION_MASK = np.uint64(0xFFFFFFFF)


@jit()
def make_key(score: np.float32, position: int) -> np.uint64:
    """Key of any finite score: flipping the bits of negative floats makes their order that of integers."""
    bits = np.float32(score).view(np.uint32)
    ordered = np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))
    return (np.uint64(ordered) << np.uint64(32)) | (_POSITION_MASK - np.uint64(position))


@jit()
def key_score(key: np.uint64) -> np.float32:
    """Score of a key."""
    ordered = np.uint32(key >> np.uint64(32))
    if ordered >> np.uint32(31):
        return np.uint32(ordered & np.uint32(0x7FFFFFFF)).view(np.float32)
    return np.uint32(~ordered).view(np.float32)


@jit()
def key_position(key: np.uint64) -> np.int64:
    """Position of a key."""
    return np.int64(_POSITION_MASK - (key & _POSITION_MASK))


@jit()
def _split(keys: np.ndarray, factors: np.ndarray, scores: np.ndarray, positions: np.ndarray) -> None:
    for q in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            scores[q, i], positions[q, i] = np.float32(-np.inf), -1
            if keys[q, i] != 0:
                scores[q, i] = key_score(keys[q, i]) * factors[q]
                positions[q, i] = key_position(keys[q, i])


def split_keys(keys: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32), each row times its factor, and positions (int64); the key 0 means nothing there: -inf, -1."""
    scores, positions = np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int64)
    _split(keys, factors, scores, positions)
    return scores, positions


@jit()
def _sift(heap: np.ndarray, size: int, key: np.uint64, at: int) -> None:
    """Replace a key, of which all below are in order, by another."""
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@jit()
def offer(heap: np.ndarray, size: int, key: np.uint64) -> int:
    """Put a key into a bounded heap with the smallest key on top; returns the new size."""
    if size == heap.shape[0]:
        if key > heap[0]:
            _sift(heap, size, key, 0)
        return size
    at = size
    while at > 0 and heap[(at - 1) // 2] > key:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = key
    return size + 1


@jit()
def sort_heap(heap: np.ndarray, size: int) -> None:
    """Turn a heap into its keys in descending order (`np.sort` would cost seconds of compilation)."""
    for end in range(size - 1, 0, -1):
        last = heap[end]
        heap[end] = heap[0]
        _sift(heap, end, last, 0)


@jit()
def _bin_of(score: np.float32, bound: np.float32, width: np.float32) -> int:
    return np.minimum(np.int64((score - bound) * width), _BINS - 1)


@jit()
def _find_level(scores: np.ndarray, count: int, wanted: int, bound: np.float32) -> tuple[np.float32, int, int, int]:
    """Where the best of a list end: bins of a unit of score, the lowest bin needed, documents in it and above it.

    A histogram does it in two passes; a heap would sift for every document that comes while scores still rise.
    """
    largest = scores[0]
    for i in range(count):
        if scores[i] > largest:
            largest = scores[i]
    width = np.float32(_BINS - 1) / np.maximum(largest - bound, np.float32(1e-30))
    bins = np.zeros(_BINS, np.int32)
    for i in range(count):
        bins[_bin_of(scores[i], bound, width)] += 1
    level, seen = _BINS, 0
    while seen < wanted and level > 0:
        level -= 1
        seen += bins[level]
    return width, level, bins[level], seen - bins[level]


@jit()
def cut(rows: np.ndarray, scores: np.ndarray, count: int, top_k: int, bound: np.float32) -> tuple[int, np.float32]:
    """Drop documents that `top_k` others of a list surely beat.

    Args:
        rows: documents, int32.
        scores: theirs, float32, none below `bound`.
        count: how many there are.
        top_k: how many are wanted.
        bound: smallest score still of interest.

    Returns:
        how many stay, at the front of the list, and the new bound.
    """
    width, level, inside, above = _find_level(scores, count, top_k, bound)
    kept, smallest = 0, np.float32(np.inf)
    for i in range(count):
        if _bin_of(scores[i], bound, width) >= level:
            rows[kept], scores[kept] = rows[i], scores[i]
            if scores[i] < smallest:
                smallest = scores[i]
            kept += 1
    return kept, (smallest if inside + above >= top_k else bound)


@jit()
def keep_best(
    rows: np.ndarray, scores: np.ndarray, count: int, order: np.ndarray, wanted: int, bound: np.float32
) -> tuple[int, np.float32]:
    """As `cut`, but no more than `wanted` stay: of equal scores those of the first positions, which `order` gives."""
    if count <= wanted:
        return count, bound
    width, level, _, above = _find_level(scores, count, wanted, bound)
    # Only of the lowest bin some may go.
    spare = wanted - above
    heap, size = np.empty(spare, np.uint64), 0
    for i in range(count):
        if _bin_of(scores[i], bound, width) == level:
            size = offer(heap, size, make_key(scores[i], order[rows[i]]))
    kept = 0
    for i in range(count):
        place = _bin_of(scores[i], bound, width)
        if place > level or (place == level and make_key(scores[i], order[rows[i]]) >= heap[0]):
            rows[kept], scores[kept] = rows[i], scores[i]
            kept += 1
    return kept, key_score(heap[0])


@jit()
def settle(rows: np.ndarray, scores: np.ndarray, count: int, order: np.ndarray, heap: np.ndarray, size: int) -> int:
    """Offer all of a list to a heap; `order` gives the positions of rows. Returns the heap's new size."""
    for i in range(count):
        size = offer(heap, size, make_key(scores[i], order[rows[i]]))
    return size


@jit()
def made_room(
    rows: np.ndarray,
    scores: np.ndarray,
    order: np.ndarray,
    heap: np.ndarray,
    state: tuple[int, int, np.float32],
    room: int,
) -> tuple[int, int, np.float32]:
    """See to it that a list has room for so many documents more.

    Args:
        rows: pending documents, int32.
        scores: theirs, float32.
        order: positions of rows.
        heap: exact keys, shape (top_k,).
        state: pending documents, keys in the heap, smallest score still of interest.
        room: documents that may come.

    Returns:
        the new state.
    """
    count, size, bound = state
    if count >= rows.shape[0] - room:
        count, bound = cut(rows, scores, count, heap.shape[0], bound)
        # Too many near the bound, as with copies of one document: only their positions can tell them apart.
        if count > rows.shape[0] // 2:
            size = settle(rows, scores, count, order, heap, size)
            count, bound = 0, smallest_score(heap, size, bound)
    return count, size, bound


@jit()
def smallest_score(heap: np.ndarray, size: int, bound: np.float32) -> np.float32:
    """What a document must reach once the heap is full; until then the bound there was."""
    return max(bound, key_score(heap[0])) if size == heap.shape[0] else bound
