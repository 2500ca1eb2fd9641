"""Numba kernels of the other first stage: the signs of documents in the blocks that a query visits.

A sign is a bit, and eight bits are a byte of which both halves are looked up in tables of the query, see `lookup`. The
sum ranks documents by <q, sign(x)>, up to rounding. `rounding` makes the tables, `sub_blocks` keeps the signs. A query
that visits some blocks looks at the centres of their sub-blocks first, and scans as many sub-blocks, the best, as it
visits blocks.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import LANES, LINE, at_least, jit, lowest, prefetch
from csr_hf.search.building import BLOCK
from csr_hf.search.lookup import ROOM, add_entries
from csr_hf.search.ranking import cut, keep_best, make_key
from csr_hf.search.rescoring import rank_rows
from csr_hf.search.routing import Query, SecondStage, Stored, by_block, choose, visits_of

_AHEAD, _FAR = 2, 8
"""Visits in advance of which memory is asked for: all centres of a block, or the first line of a sub-block."""
_EARLY = 32
"""Sub-blocks, at most, that a query scans before all others."""
_PENDING = 2 * BLOCK
"""Documents that a query keeps beside those it asks for before the worst are dropped: few, so that its bound rises."""


@jit()
def _keep(
    sums: np.ndarray,
    first: int,
    length: int,
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    pending: tuple[np.ndarray, np.ndarray],
    states: tuple[np.ndarray, np.ndarray],
    i: int,
    depth: int,
) -> None:
    """Move documents of a sub-block that may be among the best into the pending list of a query.

    Args:
        sums: of the sub-block, uint16, with `ROOM` to read beyond.
        first: row of its first document.
        length: documents of the sub-block.
        documents: rows where blocks begin and scale, neither used; allowed, 1 for rows that may be found, uint8, empty
            if all may; and order, positions of rows.
        pending: of every query rows, int32, and their scores, float32.
        states: of every query how many are pending, smallest sum still of interest.
        i: the query.
        depth: documents that it asks for.
    """
    _, _, allowed, order = documents
    counts, bounds = states
    rows, scores = pending[0][i], pending[1][i]
    count, filtered, least = counts[i], allowed.shape[0] > 0, np.uint16(bounds[i])
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
    counts[i] = count
    if count > rows.shape[0] - BLOCK:
        counts[i], bounds[i] = keep_best(rows, scores, count, order, depth, bounds[i])


@jit()
def _start(group: int, depth: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Empty lists of pending documents, and their states, of so many queries; see `_keep`."""
    shape = group, 2 * depth + _PENDING
    pending = np.empty(shape, np.int32), np.empty(shape, np.float32)
    return pending, (np.zeros(group, np.int64), np.zeros(group, np.float32))


@jit()
def _finish(
    pending: tuple[np.ndarray, np.ndarray],
    states: tuple[np.ndarray, np.ndarray],
    i: int,
    depth: int,
    order: np.ndarray,
    second: SecondStage,
    heap: np.ndarray,
) -> None:
    """Fill a query's keys: those of the `depth` best, or what a copy finds the best of these."""
    rows, scores = pending[0][i], pending[1][i]
    count, _ = keep_best(rows, scores, states[0][i], order, depth, states[1][i])
    if second.copies[0].shape[0] or second.copies[2].shape[0]:
        rank_rows(second.copies, second.queries, i, rows[:count], order, heap)
        return
    for at in range(count):
        prefetch(order, rows[at])
    for at in range(count):
        heap[at] = make_key(scores[at], order[rows[at]])


@jit()
def _choose_sub_blocks(
    signs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    blocks: np.ndarray,
    tables: np.ndarray,
    row: int,
    wanted: int,
    chosen: np.ndarray,
) -> tuple[int, int]:
    """The sub-blocks of some blocks whose centres agree with a query best.

    Args:
        signs: planes, rows, firsts and centers of `SubBlocks`.
        blocks: that the query visits.
        tables: of all queries.
        row: which of them asks.
        wanted: sub-blocks to choose.
        chosen: receives them, int32.

    Returns:
        how many there are, and how many in front beat all others.
    """
    _, _, firsts, centers = signs
    places, total = tables.shape[1] // 32, 0
    for block in blocks:
        total += firsts[block + 1] - firsts[block]
    sums, numbers = np.empty(total + ROOM, np.uint16), np.empty(total, np.int32)
    at = 0
    for visit in range(blocks.shape[0]):
        block = blocks[visit]
        if visit + _AHEAD < blocks.shape[0]:
            following = blocks[visit + _AHEAD]
            for place in range(places * firsts[following], places * firsts[following + 1], LINE):
                prefetch(centers, place)
        first, count = firsts[block], firsts[block + 1] - firsts[block]
        add_entries(centers, places * first, count, tables, row, sums, at, np.uint16(0))
        for i in range(count):
            numbers[at + i] = first + i
        at += count
    count, front = choose(sums[:total], wanted, _EARLY, chosen)
    for i in range(count):
        chosen[i] = numbers[chosen[i]]
    return count, front


@jit()
def scan_query(
    stored: Stored,
    query: Query,
    probes: int,
    share: tuple[int, int],
    depth: int,
    second: SecondStage,
    heap: np.ndarray,
) -> None:
    """Find the documents of a query whose signs agree with it best, sub-block after sub-block.

    Args:
        stored: of the segment, its signs: planes, rows, firsts and centers of `SubBlocks`.
        query: with its tables.
        probes: blocks to visit; if it is all of them, all sub-blocks are scanned.
        share: which share of the sub-blocks is scanned here, and how many there are.
        depth: candidates, the documents of the best sums.
        second: what ranks them, of one query.
        heap: zeros, uint64; receives the keys of the best, in order, shape (top_k,), or of all candidates, in any.
    """
    planes, begins, firsts, centers = stored.arrays
    signs, (latents, coarse, tables), (part, parts) = (planes, begins, firsts, centers), query, share
    own = tables.reshape(1, -1)
    blocks, places = firsts.shape[0] - 1, own.shape[1] // 32
    every, counts, _ = visits_of(stored.summary, latents.reshape(1, -1), coarse.reshape(1, -1), blocks, probes)
    wanted = probes if probes < blocks else firsts[blocks]
    chosen = np.empty(wanted, np.int32)
    visits, _ = _choose_sub_blocks(signs, every[0, : counts[0]], own, 0, wanted, chosen)
    pending, states = _start(1, depth)
    sums = np.empty(BLOCK + ROOM, np.uint16)
    for visit in range(part, visits, parts):
        # Finding a page takes longer than reading it: that is asked for sooner.
        if visit + _FAR * parts < visits:
            prefetch(planes, places * begins[chosen[visit + _FAR * parts]])
        if visit + parts < visits:
            following = chosen[visit + parts]
            for at in range(places * begins[following], places * begins[following + 1], LINE):
                prefetch(planes, at)
        first = begins[chosen[visit]]
        length = begins[chosen[visit] + 1] - first
        if add_entries(planes, places * first, length, own, 0, sums, 0, np.uint16(states[1][0])):
            _keep(sums, first, length, stored.documents, pending, states, 0, depth)
    _finish(pending, states, 0, depth, stored.documents[3], second, heap)


@jit()
def scan_group(
    stored: Stored, queries: Query, probes: int, depth: int, second: SecondStage, heaps: np.ndarray
) -> None:
    """Find the documents of a group of queries by signs, sub-block after sub-block as they lie in memory.

    Arguments as for `scan_query`, `heaps` with one more axis in front.
    """
    planes, begins, firsts, centers = stored.arrays
    signs, (latents, coarse, tables) = (planes, begins, firsts, centers), queries
    group, blocks, places = heaps.shape[0], firsts.shape[0] - 1, tables.shape[1] // 32
    every, visits, fronts = visits_of(stored.summary, latents, coarse, blocks, probes)
    wanted = probes if probes < blocks else firsts[blocks]
    chosen = np.empty((group, wanted), np.int32)
    for i in range(group):
        visited = every[i, : visits[i]]
        visits[i], fronts[i] = _choose_sub_blocks(signs, visited, tables, i, wanted, chosen[i])
    pending, states = _start(group, depth)
    counts, bounds = states
    sums = np.empty(BLOCK + ROOM, np.uint16)
    # Every query's best sub-blocks come first: what they hold spares it most of what the others hold.
    for turn in range(2):
        visitors, ends = by_block(chosen, visits, fronts, turn, begins.shape[0] - 1)
        for number in range(begins.shape[0] - 1):
            first, length = begins[number], begins[number + 1] - begins[number]
            for at in range(ends[number], ends[number + 1]):
                i = visitors[at]
                if add_entries(planes, places * first, length, tables, i, sums, 0, np.uint16(bounds[i])):
                    _keep(sums, first, length, stored.documents, pending, states, i, depth)
        for i in range(group):
            if turn == 0 and counts[i] > depth:
                counts[i], bounds[i] = cut(pending[0][i], pending[1][i], counts[i], depth, bounds[i])
    for i in range(group):
        _finish(pending, states, i, depth, stored.documents[3], second, heaps[i])
