"""Choose the partitions that a query visits, and list who visits each."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.kernels.topk import keep_best, key_position, key_score, make_key, offer, sort_heap


@jit(inline="always")
def _is_among(number: int, chosen: np.ndarray, count: int) -> bool:
    """Tell whether a number is one of the first."""
    found = False
    for at in range(count):
        found |= chosen[at] == number
    return found


@jit()
def choose_partitions(scores: np.ndarray, margin: np.float32, front: int, chosen: np.ndarray) -> None:
    """Choose the partitions of the best scores.

    Args:
        scores: of all partitions, float32, shape (partitions,).
        margin: how far a score may lie below the last of those in front.
        front: how many come first, whatever they score, the best in order; the others follow by their numbers.
        chosen: receives their numbers, as many at most as it is long, and -1 behind them, int32, shape (at most
            partitions,).
    """
    count, wanted = scores.shape[0], chosen.shape[0]
    best, size, bound = np.empty(min(front, wanted), np.uint64), 0, np.float32(-np.inf)
    for at in range(count):
        if size < best.shape[0] or scores[at] > bound:
            size = offer(best, size, make_key(scores[at], at))
            bound = key_score(best[0])
    sort_heap(best, size)
    for at in range(size):
        chosen[at] = key_position(best[at])
    chosen[size:] = -1
    least, at = key_score(best[size - 1]) - margin, size
    if wanted < count:
        numbers, every, own = np.arange(count).astype(np.int32), np.arange(count).astype(np.int32), scores.copy()
        kept, _ = keep_best(numbers, own, count, every, wanted, np.float32(0))
        for place in range(kept):
            if own[place] >= least and not _is_among(numbers[place], chosen, size):
                chosen[at] = numbers[place]
                at += 1
    else:
        for number in range(count):
            if scores[number] >= least and not _is_among(number, chosen, size):
                chosen[at] = number
                at += 1


@jit()
def list_visitors(
    chosen: np.ndarray, columns: tuple[int, int], share: tuple[int, int], partitions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List for every partition the queries that visit it.

    Args:
        chosen: partitions of every query, int32, shape (n, nprobe); -1 behind the last.
        columns: the first column that counts, and the first that counts no more.
        share: which share of the visits is made, and how many shares there are.
        partitions: how many there are.

    Returns:
        partitions of this share that somebody visits, int32, in order; queries, int32; and where those of each
        partition begin and the last end, shape (partitions + 1,).
    """
    (first, stop), (part, parts), ends = columns, share, np.zeros(partitions + 2, np.int64)
    for i in range(chosen.shape[0]):
        for at in range(first, stop):
            if chosen[i, at] < 0:
                break
            ends[chosen[i, at] + 2] += 1
    for number in range(2, partitions + 2):
        ends[number] += ends[number - 1]
    visitors = np.empty(ends[partitions + 1], np.int32)
    for i in range(chosen.shape[0]):
        for at in range(first, stop):
            if chosen[i, at] < 0:
                break
            place = chosen[i, at] + 1
            visitors[ends[place]] = i
            ends[place] += 1
    visited, count = np.empty(partitions, np.int32), 0
    for number in range(partitions):
        if ends[number] < ends[number + 1] and number % parts == part:
            visited[count] = number
            count += 1
    return visited[:count], visitors, ends
