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
from csr_hf.search.kernels.simd import BLOCK, ROOM, add_entries, reaching
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


@jit(fastmath={"contract"})
def _estimate(
    sums: np.ndarray,
    factors: np.ndarray,
    shifts: np.ndarray,
    rows: tuple[int, int],
    query: tuple[np.float32, np.float32, np.float32],
    scores: np.ndarray,
) -> None:
    """Estimate the scores of a partition's documents.

    Args:
        sums: of table entries, uint16.
        factors: of `Signs`.
        shifts: of `Signs`.
        rows: the first, and how many.
        query: product with the center, what an entry is worth, sum of absolute values.
        scores: receives them, float32.
    """
    (first, length), (base, step, total) = rows, query
    own, added = factors[first : first + length], shifts[first : first + length]
    for at in range(length):
        scores[at] = base + widen(added[at]) + widen(own[at]) * (step * np.float32(sums[at]) - total)


@jit()
def _keep(
    estimates: np.ndarray,
    span: tuple[int, int],
    order: np.ndarray,
    allowed: np.ndarray,
    pending: tuple[np.ndarray, np.ndarray],
    state: tuple[int, np.float32],
    depth: int,
) -> tuple[int, np.float32]:
    """Move documents of a partition that may be among the best into the pending list of a query.

    Args:
        estimates: of the partition's documents, float32, with room for `BLOCK` more.
        span: row of the first, and how many there are.
        order: positions of rows.
        allowed: as for `scan`.
        pending: rows, int32, and scores, float32, of the query.
        state: how many are pending, and the smallest score still of interest.
        depth: documents that the query asks for.

    Returns:
        the new state.
    """
    (first, length), (rows, scores), (count, bound) = span, pending, state
    filtered = allowed.shape[0] > 0
    for begin in range(0, length, BLOCK):
        found = reaching(estimates, begin, bound)
        if length - begin < BLOCK:
            found &= (np.uint64(1) << np.uint64(length - begin)) - np.uint64(1)
        while found:
            at = begin + np.int64(lowest(found))
            found &= found - np.uint64(1)
            if not filtered or allowed[order[first + at]] > 0:
                rows[count], scores[count] = first + at, estimates[at]
                count += 1
        if count > rows.shape[0] - BLOCK:
            count, bound = keep_best(rows, scores, count, order, depth, bound)
    return count, bound


@jit()
def _ask(signs: Signs, number: int) -> None:
    """Ask for the numbers of a partition's documents."""
    for at in range(signs.begins[number], signs.begins[number + 1], LINE // 2):
        prefetch(signs.factors, at)
        prefetch(signs.shifts, at)


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
    group, nprobe, partitions = asked.chosen.shape[0], asked.chosen.shape[1], signs.begins.shape[0] - 1
    places, widest = asked.tables.shape[1] // 32, 0
    for number in range(partitions):
        widest = max(widest, signs.begins[number + 1] - signs.begins[number])
    sums, estimates = np.empty(widest + ROOM, np.uint16), np.empty(widest + ROOM, np.float32)
    bounds = np.full(group, -np.inf, np.float32)
    counts[:] = 0
    part, parts = share
    for turn in range(2):
        first_visit, last_visit = (0, min(FRONT, nprobe)) if turn == 0 else (min(FRONT, nprobe), nprobe)
        visited, visitors, ends = list_visitors(asked.chosen, first_visit, last_visit, partitions)
        for place in range(visited.shape[0]):
            number = visited[place]
            if number % parts != part:
                continue
            first, length = signs.begins[number], signs.begins[number + 1] - signs.begins[number]
            ahead = visited[min(place + 1, visited.shape[0] - 1)]
            _ask(signs, ahead)
            for visit in range(ends[number], ends[number + 1]):
                i = visitors[visit]
                add_entries(signs.planes, places * first, length, asked.tables, i, sums, places * signs.begins[ahead])
                query = asked.centers[i, number], asked.steps[i], asked.lengths[i]
                _estimate(sums, signs.factors, signs.shifts, (first, length), query, estimates)
                state = counts[i], bounds[i]
                counts[i], bounds[i] = _keep(
                    estimates, (first, length), signs.order, allowed, (rows[i], scores[i]), state, depth
                )
        for i in range(group):
            if counts[i] > depth:
                counts[i], bounds[i] = keep_best(rows[i], scores[i], counts[i], signs.order, depth, bounds[i])
