"""Keep the best of many scored documents: keys, a bounded heap, a list that is cut when it is full.

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
    """Make the key of any finite score: flipping the bits of negative floats makes their order that of integers."""
    bits = np.float32(score).view(np.uint32)
    ordered = np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))
    return (np.uint64(ordered) << np.uint64(32)) | (_POSITION_MASK - np.uint64(position))


@jit()
def key_score(key: np.uint64) -> np.float32:
    """Read the score of a key."""
    ordered = np.uint32(key >> np.uint64(32))
    if ordered >> np.uint32(31):
        return np.uint32(ordered & np.uint32(0x7FFFFFFF)).view(np.float32)
    return np.uint32(~ordered).view(np.float32)


@jit()
def key_position(key: np.uint64) -> np.int64:
    """Read the position of a key."""
    return np.int64(_POSITION_MASK - (key & _POSITION_MASK))


@jit()
def _split(keys: np.ndarray, scores: np.ndarray, positions: np.ndarray) -> None:
    for q in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            scores[q, i], positions[q, i] = np.float32(-np.inf), -1
            if keys[q, i] != 0:
                scores[q, i] = key_score(keys[q, i])
                positions[q, i] = key_position(keys[q, i])


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (float32) and positions (int64) of keys; the key 0 means nothing there: -inf, -1."""
    scores, positions = np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int64)
    _split(keys, scores, positions)
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
def _bin_of(score: np.float32, least: np.float32, width: np.float32) -> int:
    return np.minimum(np.int64((score - least) * width), _BINS - 1)


@jit()
def find_level(scores: np.ndarray, count: int, wanted: int) -> tuple[np.float32, np.float32, int, int]:
    """Find where the best of a list end, by a histogram of two passes.

    Args:
        scores: finite, float32.
        count: how many there are, more than `wanted`.
        wanted: how many are to stay.

    Returns:
        the smallest score, bins of a unit of score, the lowest bin needed, and how many lie above it.
    """
    least = largest = scores[0]
    for i in range(count):
        least, largest = min(least, scores[i]), max(largest, scores[i])
    width = np.float32(_BINS - 1) / np.maximum(largest - least, np.float32(1e-30))
    bins = np.zeros(_BINS, np.int32)
    for i in range(count):
        bins[_bin_of(scores[i], least, width)] += 1
    level, seen = _BINS, 0
    while seen < wanted and level > 0:
        level -= 1
        seen += bins[level]
    return least, width, level, seen - bins[level]


@jit()
def keep_best(
    rows: np.ndarray, scores: np.ndarray, count: int, order: np.ndarray, wanted: int, bound: np.float32
) -> tuple[int, np.float32]:
    """Drop all but the best of a list; of equal scores those of the first positions stay.

    Args:
        rows: documents, int32.
        scores: theirs, float32, finite.
        count: how many there are.
        order: positions of rows.
        wanted: how many may stay.
        bound: smallest score still of interest.

    Returns:
        how many stay, at the front of the list, and the new bound.
    """
    if count <= wanted:
        return count, bound
    least, width, level, above = find_level(scores, count, wanted)
    # Only of the lowest bin some may go.
    heap, size = np.empty(wanted - above, np.uint64), 0
    for i in range(count):
        if _bin_of(scores[i], least, width) == level:
            size = offer(heap, size, make_key(scores[i], order[rows[i]]))
    kept = 0
    for i in range(count):
        place = _bin_of(scores[i], least, width)
        if place > level or (place == level and make_key(scores[i], order[rows[i]]) >= heap[0]):
            rows[kept], scores[kept] = rows[i], scores[i]
            kept += 1
    return kept, key_score(heap[0])
