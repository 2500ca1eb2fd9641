"""Choose the partitions that a query visits, and list who visits each."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.kernels.topk import keep_best, key_position, key_score, make_key, offer, sort_heap


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
    best, size = np.empty(min(front, wanted), np.uint64), 0
    numbers, every, own = np.arange(count).astype(np.int32), np.arange(count).astype(np.int32), scores.copy()
    kept, _ = keep_best(numbers, own, count, every, wanted, np.float32(0))
    for at in range(kept):
        size = offer(best, size, make_key(own[at], at))
    sort_heap(best, size)
    for at in range(size):
        place = key_position(best[at])
        chosen[at] = numbers[place]
        numbers[place] = -1
    at, least = size, key_score(best[size - 1]) - margin
    chosen[size:] = -1
    for place in range(kept):
        if numbers[place] >= 0 and own[place] >= least:
            chosen[at] = numbers[place]
            at += 1


@jit()
def list_visitors(
    chosen: np.ndarray, first: int, stop: int, partitions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List for every partition the queries that visit it.

    Args:
        chosen: partitions of every query, int32, shape (n, nprobe); -1 behind the last.
        first: the first column that counts.
        stop: the first that counts no more.
        partitions: how many there are.

    Returns:
        partitions that somebody visits, int32, in order; queries, int32; and where those of each partition begin and
        the last end, shape (partitions + 1,).
    """
    ends = np.zeros(partitions + 2, np.int64)
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
        if ends[number] < ends[number + 1]:
            visited[count] = number
            count += 1
    return visited[:count], visitors, ends
