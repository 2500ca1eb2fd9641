"""Numba kernels that choose the blocks a query visits, by their summaries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import LINE, jit, prefetch
from csr_hf.search.ranking import key_position, make_key, offer, sort_heap

GROUP = 1024
"""Queries, at most, that pass over the blocks together: a block is read once for all of them that visit it."""
PENDING = 2048
"""Documents, at least, that a query may keep before the worst of them are dropped."""
COARSE_SHIFT = 3
"""Bits of a product of query and summary that do not count."""
_ROOM = 2**23
"""Numbers of a kind that a group may keep: fewer queries pass together where each needs more."""
EARLY = 8
"""Blocks, at most, that a query visits before all others."""
_LEVELS = 10
"""Bits of a sum that count when blocks are chosen."""
_TOGETHER, _COUNTERS = 4, 4
_STRIP = 32
"""Blocks that are passed over at once where none of them is of interest."""


class Stored(NamedTuple):
    """What the first stage reads of the documents of a segment."""

    arrays: tuple[np.ndarray, ...]
    """Those of `csr_hf.search.segment.LISTS` or `SIGNS`."""
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """Rows where blocks begin and the last ends; scale, float32; allowed, 1 for rows that may be found, uint8, empty
    if all may; and order, positions of rows."""
    summary: np.ndarray
    """uint8, shape (tiles, dim, width)."""


class Query(NamedTuple):
    """What the first stage takes of a query, or of a group of them, with one more axis in front."""

    latents: np.ndarray
    """uint16 or int32, shape (query_k,)."""
    coarse: np.ndarray
    """Its largest values for summaries, uint8."""
    values: np.ndarray
    """For lists the values of the latents, int32; for signs tables, see `rounding.fill_tables`."""


class SecondStage(NamedTuple):
    """What ranks the candidates of a scan; nothing where the copies are empty."""

    copies: tuple[np.ndarray, np.ndarray, np.ndarray]
    """int8, its scale, and float16; see `rescoring.rank_rows`."""
    queries: np.ndarray
    """float32, shape (queries, input_dim)."""


def group_size(top_k: int, blocks: int, probes: int) -> int:
    """Queries that pass over the blocks together in a search of this size."""
    return max(min(GROUP, _ROOM // max(PENDING, 4 * top_k, blocks, probes)), 1)


@jit()
def add_summaries(summary: np.ndarray, latents: np.ndarray, steps: np.ndarray, sums: np.ndarray) -> None:
    """What a query can expect of every block: products of its largest values and the summaries, in 16 bits.

    Args:
        summary: of a tile, uint8, shape (dim, width).
        latents: of the query.
        steps: its values, uint8, such that the sums fit in 16 bits; may be of fewer latents.
        sums: receives the expectation, uint16, shape (width,).
    """
    sums[:] = 0
    # Four latents at a time: sums are loaded and stored a fourth as often.
    whole = steps.shape[0] - steps.shape[0] % _TOGETHER
    for j in range(0, whole, _TOGETHER):
        first, second = summary[np.int64(latents[j])], summary[np.int64(latents[j + 1])]
        third, fourth = summary[np.int64(latents[j + 2])], summary[np.int64(latents[j + 3])]
        by_first, by_second = np.uint16(steps[j]), np.uint16(steps[j + 1])
        by_third, by_fourth = np.uint16(steps[j + 2]), np.uint16(steps[j + 3])
        for block in range(sums.shape[0]):
            one = np.uint16(np.uint16(first[block]) * by_first) >> np.uint16(COARSE_SHIFT)
            two = np.uint16(np.uint16(second[block]) * by_second) >> np.uint16(COARSE_SHIFT)
            three = np.uint16(np.uint16(third[block]) * by_third) >> np.uint16(COARSE_SHIFT)
            four = np.uint16(np.uint16(fourth[block]) * by_fourth) >> np.uint16(COARSE_SHIFT)
            sums[block] += np.uint16(np.uint16(one + two) + np.uint16(three + four))
    for j in range(whole, steps.shape[0]):
        shares, step = summary[np.int64(latents[j])], np.uint16(steps[j])
        for block in range(sums.shape[0]):
            sums[block] += np.uint16(np.uint16(shares[block]) * step) >> np.uint16(COARSE_SHIFT)


@jit()
def _shift_of(sums: np.ndarray) -> int:
    """Bits of a sum that do not count, so that the largest of all is within `_LEVELS` bits."""
    largest, shift = np.uint16(0), 0
    for block in range(sums.shape[0]):
        if sums[block] > largest:
            largest = sums[block]
    while largest >> shift >= 1 << _LEVELS:
        shift += 1
    return shift


@jit()
def _find_level(bins: np.ndarray, wanted: int, early: int) -> tuple[int, int, int]:
    """The highest level whose blocks, with all above it, are more than wanted, or 0.

    Args:
        bins: blocks by counter and level.
        wanted: blocks to choose.
        early: blocks, at most, of the levels that come first.

    Returns:
        this level, the lowest of those that come first, and how many blocks are above this level.
    """
    level, seen = bins.shape[1] - 1, 0
    top = bins.shape[1]
    while level > 0:
        here = 0
        for counter in range(_COUNTERS):
            here += bins[counter, level]
        if seen + here > wanted:
            break
        seen += here
        if seen <= early:
            top = level
        level -= 1
    return level, top, seen


@jit()
def choose(sums: np.ndarray, wanted: int, early: int, chosen: np.ndarray) -> tuple[int, int]:
    """The `wanted` blocks of the largest sums.

    Args:
        sums: of all blocks, uint16.
        wanted: blocks to choose.
        early: blocks, at most, that come in front of all others.
        chosen: receives them.

    Returns:
        how many there are, and how many in front beat all others.
    """
    shift, blocks = _shift_of(sums), sums.shape[0]
    # Several counters: the next count need not wait for the last one to be stored.
    bins = np.zeros((_COUNTERS, 1 << _LEVELS), np.int32)
    for block in range(blocks):
        bins[block % _COUNTERS, sums[block] >> shift] += 1
    level, top, seen = _find_level(bins, wanted, early)
    # Of the bin that does not fit as a whole, the first few.
    spare, count, front, least = wanted - seen, 0, 0, np.uint16(level << shift)
    for begin in range(0, blocks, _STRIP):
        own, near = sums[begin : begin + _STRIP], np.uint16(0)
        for at in range(own.shape[0]):
            near += np.uint16(own[at] >= least)
        for at in range(own.shape[0] if near else 0):
            place = own[at] >> shift
            if place > level or (place == level and spare > 0):
                spare -= place == level
                chosen[count] = begin + at
                if place >= top:
                    chosen[count], chosen[front] = chosen[front], chosen[count]
                    front += 1
                count += 1
    return count, front


@jit()
def best_first(sums: np.ndarray, chosen: np.ndarray, count: int) -> None:
    """Sort chosen blocks by their sums, descending."""
    keys = np.zeros(count, np.uint64)
    size = 0
    for i in range(count):
        size = offer(keys, size, make_key(np.float32(sums[chosen[i]]), chosen[i]))
    sort_heap(keys, size)
    for i in range(count):
        chosen[i] = key_position(keys[i])


@jit()
def visits_of(
    summary: np.ndarray, latents: np.ndarray, coarse: np.ndarray, blocks: int, probes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks that every query visits, (queries, probes); how many they are, and how many in front beat all others."""
    group = latents.shape[0]
    tiles, _, width = summary.shape
    expected = np.empty((group, tiles * width), np.uint16)
    # A tile of the summaries stays in the cache while all queries pass over it.
    for tile in range(tiles):
        if tile + 1 < tiles:
            for j in range(coarse.shape[1]):
                for at in range(0, width, LINE):
                    prefetch(summary[tile + 1, np.int64(latents[0, j])], at)
        for i in range(group):
            add_summaries(summary[tile], latents[i], coarse[i], expected[i, tile * width : (tile + 1) * width])
    chosen, visits = np.empty((group, min(probes, blocks)), np.int32), np.empty(group, np.int64)
    fronts = np.empty(group, np.int64)
    for i in range(group):
        visits[i], fronts[i] = choose(expected[i, :blocks], probes, EARLY, chosen[i])
    return chosen, visits, fronts


@jit()
def by_block(
    chosen: np.ndarray, visits: np.ndarray, fronts: np.ndarray, turn: int, blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Queries by the block that they visit: the queries, int32, and where those of every block begin and end.

    Args:
        chosen: blocks of every query, shape (queries, probes).
        visits: how many of them count, shape (queries,).
        fronts: how many of these come early, shape (queries,).
        turn: 0 for the early ones of every query, 1 for the others.
        blocks: how many there are.
    """
    ends = np.zeros(blocks + 2, np.int64)
    for i in range(chosen.shape[0]):
        for at in range(fronts[i] if turn else 0, visits[i] if turn else fronts[i]):
            ends[chosen[i, at] + 2] += 1
    ends = np.cumsum(ends)
    visitors = np.empty(ends[-1], np.int32)
    for i in range(chosen.shape[0]):
        for at in range(fronts[i] if turn else 0, visits[i] if turn else fronts[i]):
            block = chosen[i, at]
            visitors[ends[block + 1]] = i
            ends[block + 1] += 1
    return visitors, ends
