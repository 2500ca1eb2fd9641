"""Find candidates by the signs of documents in the partitions that queries visit.

A document x of a partition with center c is known by the signs s of its rotated rest R(x - c), and two numbers: with q
a query, <q, x> is about <q, c> + factor * <s, Rq> + shift (RaBitQ, Gao and Long 2024, with what does not depend on the
query taken together). <s, Rq> is looked up for many documents at once, see `simd`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import LINE, jit, lowest, prefetch
from csr_hf.search.kernels.probing import list_visitors
from csr_hf.search.kernels.simd import BLOCK, ROOM, add_entries, estimate
from csr_hf.search.kernels.topk import keep_best

FRONT = 4
"""Partitions that every query visits first: what they hold spares it most of what the others hold."""
PENDING = 512
"""Documents that a query keeps beside those it asks for before the worst are dropped: few, so that its bound rises."""


class Signs(NamedTuple):
    """What the scan reads of a segment; rows are documents by partition."""

    begins: np.ndarray
    """Rows where partitions begin and the last ends, int64, shape (partitions + 1,)."""
    order: np.ndarray
    """Positions of rows, int32, shape (n,)."""
    planes: np.ndarray
    """Of each partition by blocks of documents, of every eight dimensions a byte of each document, uint8, flat, with
    `ROOM` behind."""
    factors: np.ndarray
    """The upper halves of float32, uint16, shape (n,)."""
    shifts: np.ndarray
    """The upper halves of float32, uint16, shape (n,)."""


class Asked(NamedTuple):
    """A group of queries as the scan takes them."""

    tables: np.ndarray
    """uint8, shape (n, 32 * bytes of a document's signs); see `queries.fill_sign_tables`."""
    steps: np.ndarray
    """What an entry is worth, float32, shape (n,)."""
    lengths: np.ndarray
    """Sums of absolute values, float32, shape (n,)."""
    centers: np.ndarray
    """Inner products with the centers of all partitions, float32, shape (n, partitions)."""
    chosen: np.ndarray
    """Partitions to visit, the best first, int32, shape (n, nprobe); -1 behind the last."""


@jit(inline="always")
def widen(upper: np.uint16) -> np.float32:
    """Make a float32 of its upper half."""
    return np.uint32(np.uint32(upper) << np.uint32(16)).view(np.float32)


@jit()
def _estimate_last(
    numbers: tuple[np.ndarray, np.ndarray, np.ndarray],
    query: tuple[np.float32, np.float32, np.float32],
    bound: np.float32,
    estimates: np.ndarray,
) -> np.uint64:
    """Do what `estimate` does for the last rows of a segment, behind which nothing can be read."""
    (sums, factors, shifts), (base, step, total), found = numbers, query, np.uint64(0)
    for at in range(min(BLOCK, factors.shape[0])):
        score = (base + widen(shifts[at])) + widen(factors[at]) * (step * np.float32(sums[at]) - total)
        estimates[at] = score
        found |= np.uint64(score >= bound) << np.uint64(at)
    return found


@jit()
def _ask(factors: np.ndarray, shifts: np.ndarray, first: int, stop: int) -> None:
    """Ask for the numbers of a partition's documents."""
    for at in range(first, stop, LINE // 2):
        prefetch(factors, at)
        prefetch(shifts, at)


@jit()
def _visit_all(
    signs: Signs,
    asked: Asked,
    visits: tuple[np.ndarray, np.ndarray, np.ndarray],
    allowed: np.ndarray,
    depth: int,
    kept: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    room: tuple[np.ndarray, np.ndarray],
) -> None:
    """Visit partitions, and keep of each the documents that may be among the best of a query.

    Args:
        signs: of the segment.
        asked: the queries.
        visits: of `list_visitors`.
        allowed: as for `scan`.
        depth: candidates of a query, at most.
        kept: of all queries: rows, their estimates, how many they are, and the smallest estimate still of interest.
        room: for sums of the widest partition, uint16, and for estimates of a block, float32.
    """
    # Taken apart once: to read an array out of a tuple counts a reference, which takes as long as a block's sums.
    (begins, order, planes, factors, shifts), (tables, steps, lengths, centers, _) = signs, asked
    (visited, visitors, ends), (rows, scores, counts, bounds), (sums, estimates) = visits, kept, room
    places, n, filtered = tables.shape[1] // 32, order.shape[0], allowed.shape[0] > 0
    # Where few may be found, every document passes until there is a bound.
    full = depth + BLOCK if filtered else rows.shape[1] - BLOCK
    for place in range(visited.shape[0]):
        number, ahead = visited[place], visited[min(place + 1, visited.shape[0] - 1)]
        first, stop = begins[number], begins[number + 1]
        _ask(factors, shifts, begins[ahead], begins[ahead + 1])
        for at in range(begins[ahead], begins[ahead + 1] if filtered else 0, LINE // 4):
            prefetch(order, at)
        for visit in range(ends[number], ends[number + 1]):
            i = visitors[visit]
            add_entries(planes, places * first, stop - first, tables, i, sums, places * begins[ahead])
            base, step, total, count, bound = centers[i, number], steps[i], lengths[i], counts[i], bounds[i]
            for begin in range(first, stop, BLOCK):
                if begin + BLOCK <= n:
                    found = estimate(sums, begin - first, factors, shifts, begin, base, step, total, bound, estimates)
                else:
                    last = sums[begin - first :], factors[begin:], shifts[begin:]
                    found = _estimate_last(last, (base, step, total), bound, estimates)
                if stop - begin < BLOCK:
                    found &= (np.uint64(1) << np.uint64(stop - begin)) - np.uint64(1)
                while found:
                    own = np.int64(lowest(found))
                    found &= found - np.uint64(1)
                    if not filtered or allowed[order[begin + own]] > 0:
                        rows[i, count], scores[i, count] = begin + own, estimates[own]
                        count += 1
                if count > full:
                    count, bound = keep_best(rows[i], scores[i], count, order, depth, bound)
            counts[i], bounds[i] = count, bound


@jit()
def scan(
    signs: Signs,
    asked: Asked,
    share: tuple[int, int],
    allowed: np.ndarray,
    depth: int,
    rows: np.ndarray,
    scores: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Find the documents of the best estimates for a group of queries, one partition after the other.

    Args:
        signs: of the segment.
        asked: the queries.
        share: which share of the visits is made here, and how many there are.
        allowed: 1 for positions that may be found, uint8; empty if all may.
        depth: candidates of a query, at most.
        rows: receives them, int32, shape (n, depth + 512 or more).
        scores: receives their estimates, float32, of the same shape.
        counts: receives how many there are, int64, shape (n,).
    """
    partitions, widest, nprobe = signs.begins.shape[0] - 1, 0, asked.chosen.shape[1]
    for number in range(partitions):
        widest = max(widest, signs.begins[number + 1] - signs.begins[number])
    room = np.empty(widest + ROOM, np.uint16), np.empty(BLOCK, np.float32)
    bounds = np.full(counts.shape[0], -np.inf, np.float32)
    counts[:] = 0
    for turn in range(2):
        columns = (0, min(FRONT, nprobe)) if turn == 0 else (min(FRONT, nprobe), nprobe)
        visits = list_visitors(asked.chosen, columns, share, partitions)
        _visit_all(signs, asked, visits, allowed, depth, (rows, scores, counts, bounds), room)
        for i in range(counts.shape[0]):
            if counts[i] > depth:
                counts[i], bounds[i] = keep_best(rows[i], scores[i], counts[i], signs.order, depth, bounds[i])
