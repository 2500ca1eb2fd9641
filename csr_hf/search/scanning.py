"""Numba kernels of the other first stage: the signs of every document in the blocks that a query visits.

A sign is a bit, and eight bits are a byte of which both halves are looked up in tables of the query, see `lookup`. The
sum ranks documents by <q, sign(x)>, up to rounding. `rounding` makes the tables, `copies` keeps the signs.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import LANES, at_least, jit, lowest, prefetch
from csr_hf.search.building import BLOCK
from csr_hf.search.lookup import ROOM, add_entries
from csr_hf.search.ranking import cut, made_room, settle
from csr_hf.search.routing import by_block, visits_of

_LINE = 64
_PENDING = 2 * BLOCK
"""Documents that a query keeps beside those it asks for before the worst are dropped: few, so that its bound rises."""


@jit()
def _keep(
    sums: np.ndarray,
    first: int,
    length: int,
    allowed: np.ndarray,
    order: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    heap: np.ndarray,
    state: tuple[int, int, np.float32],
) -> tuple[int, int, np.float32]:
    """Move documents of a block that may be among the best into the pending list of a query.

    Args:
        sums: of the block, uint16, with `ROOM` to read beyond.
        first: row of its first document.
        length: documents of the block.
        allowed: 1 for rows that may be found, uint8; empty if all may.
        order: positions of rows.
        rows: pending documents, int32.
        scores: theirs, float32.
        heap: exact keys of the query, shape (top_k,).
        state: pending documents, keys in the heap, smallest sum still of interest.

    Returns:
        the new state.
    """
    count, size, bound = state
    least, filtered = np.uint16(bound), allowed.shape[0] > 0
    for begin in range(0, length, LANES):
        near = at_least(sums, begin, least)
        if length - begin < LANES:
            near &= (np.uint64(1) << np.uint64(length - begin)) - np.uint64(1)
        while near:
            place = begin + np.int64(lowest(near))
            near &= near - np.uint64(1)
            if not filtered or allowed[first + place] > 0:
                rows[count], scores[count] = first + place, np.float32(sums[place])
                count += 1
    return made_room(rows, scores, order, heap, (count, size, bound), BLOCK)


@jit()
def _finish(
    rows: np.ndarray, scores: np.ndarray, order: np.ndarray, heap: np.ndarray, state: tuple[int, int, np.float32]
) -> None:
    """Turn what is pending and in the heap into the keys of the best, in any order: a second stage finds another."""
    count, size, bound = state
    if count > heap.shape[0]:
        count, bound = cut(rows, scores, count, heap.shape[0], bound)
    settle(rows, scores, count, order, heap, size)


@jit()
def scan_query(
    planes: np.ndarray,
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    summary: np.ndarray,
    latents: np.ndarray,
    coarse: np.ndarray,
    tables: np.ndarray,
    probes: int,
    part: int,
    parts: int,
    heap: np.ndarray,
) -> None:
    """Documents of a query whose signs agree with it best, block after block.

    Args:
        planes: signs by place, see `copies.by_place`.
        documents: rows where blocks begin and the last ends; scale (not used), allowed and order, see `_keep`.
        summary: uint8, shape (tiles, dim, width).
        latents: of the query.
        coarse: its largest values for summaries, uint8.
        tables: of the query, see `rounding.fill_tables`.
        probes: blocks to visit.
        part: which share of them is visited here.
        parts: how many shares there are.
        heap: zeros, uint64, shape (top_k,); receives the keys, in any order.
    """
    begins, _, allowed, order = documents
    blocks, places = begins.shape[0] - 1, tables.shape[0] // 32
    every, counts, _ = visits_of(summary, latents.reshape(1, -1), coarse.reshape(1, -1), blocks, probes)
    chosen, visits = every[0], counts[0]
    capacity = 2 * heap.shape[0] + _PENDING
    rows, scores = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
    sums = np.empty(BLOCK + ROOM, np.uint16)
    state = (0, 0, np.float32(0))
    for visit in range(part, visits, parts):
        block = chosen[visit]
        if visit + parts < visits:
            following = chosen[visit + parts]
            for at in range(places * begins[following], places * begins[following + 1], _LINE):
                prefetch(planes, at)
        first, length = begins[block], begins[block + 1] - begins[block]
        add_entries(planes, places * first, length, tables, sums)
        state = _keep(sums, first, length, allowed, order, rows, scores, heap, state)
    _finish(rows, scores, order, heap, state)


@jit()
def scan_group(
    planes: np.ndarray,
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    summary: np.ndarray,
    latents: np.ndarray,
    coarse: np.ndarray,
    tables: np.ndarray,
    probes: int,
    heaps: np.ndarray,
) -> None:
    """The same of a group of queries, block after block as they lie in memory.

    Arguments as for `scan_query`, with one more axis for the queries in front of `latents`, `coarse`, `tables` and
    `heaps`.
    """
    begins, _, allowed, order = documents
    group, blocks, places = heaps.shape[0], begins.shape[0] - 1, tables.shape[1] // 32
    chosen, visits, fronts = visits_of(summary, latents, coarse, blocks, probes)
    capacity = 2 * heaps.shape[1] + _PENDING
    rows, scores = np.empty((group, capacity), np.int32), np.empty((group, capacity), np.float32)
    counts, sizes, bounds = np.zeros(group, np.int64), np.zeros(group, np.int64), np.zeros(group, np.float32)
    sums = np.empty(BLOCK + ROOM, np.uint16)
    # Every query's best blocks come first: what they hold spares it most of what the others hold.
    for turn in range(2):
        visitors, ends = by_block(chosen, visits, fronts, turn, blocks)
        for block in range(blocks):
            first, length = begins[block], begins[block + 1] - begins[block]
            for at in range(ends[block], ends[block + 1]):
                i = visitors[at]
                add_entries(planes, places * first, length, tables[i], sums)
                state = (counts[i], sizes[i], bounds[i])
                counts[i], sizes[i], bounds[i] = _keep(
                    sums, first, length, allowed, order, rows[i], scores[i], heaps[i], state
                )
        for i in range(group):
            if turn == 0 and counts[i] > heaps.shape[1]:
                counts[i], bounds[i] = cut(rows[i], scores[i], counts[i], heaps.shape[1], bounds[i])
    for i in range(group):
        _finish(rows[i], scores[i], order, heaps[i], (counts[i], sizes[i], bounds[i]))
