"""Numba kernels of the first stage: choose blocks by their summaries, add up posting lists, keep the best.

Queries and documents are integers here, so sums are exact whatever their order, and the score of a document does not
depend on which documents share its block.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import jit, popcount, prefetch
from csr_hf.search.building import BLOCK, HALF
from csr_hf.search.ranking import cut, make_key, offer, settle, smallest_score, sort_heap

GROUP = 1024
"""Queries, at most, that pass over the blocks together: a block is read once for all of them that visit it."""
_ROOM = 2**23
"""Numbers of a kind that a group may keep: fewer queries pass together where each needs more."""
_PENDING = 2048
_EARLY = 8
"""Blocks, at most, that a query visits before all others."""
_LINE = 32
"""Entries of a posting list in a cache line."""
COARSE_SHIFT = 3
"""Bits of a product of query and summary that do not count."""
_COARSE = 6
"""Bits of a block's sum that do not count when blocks are chosen."""


def group_size(top_k: int, blocks: int, probes: int) -> int:
    """Queries that pass over the blocks together in a search of this size."""
    return max(min(GROUP, _ROOM // max(_PENDING, 4 * top_k, blocks, probes)), 1)


@jit()
def _add_summaries(summary: np.ndarray, latents: np.ndarray, steps: np.ndarray, sums: np.ndarray) -> None:
    """What a query can expect of every block: products of its largest values and the summaries, in 16 bits.

    Args:
        summary: of a tile, uint8, shape (dim, width).
        latents: of the query.
        steps: its values, uint8, such that the sums fit in 16 bits; may be of fewer latents.
        sums: receives the expectation, uint16, shape (width,).
    """
    sums[:] = 0
    for j in range(steps.shape[0]):
        step = np.uint16(steps[j])
        if step:
            shares = summary[np.int64(latents[j])]
            for block in range(sums.shape[0]):
                sums[block] += np.uint16(step * np.uint16(shares[block])) >> np.uint16(COARSE_SHIFT)


@jit()
def _choose(sums: np.ndarray, wanted: int, chosen: np.ndarray) -> tuple[int, int]:
    """The `wanted` blocks of the largest sums; returns how many there are, and how many in front beat all others."""
    bins = np.zeros((1 << (16 - _COARSE)) + 1, np.int32)
    for block in range(sums.shape[0]):
        bins[sums[block] >> _COARSE] += 1
    top, level, seen = bins.shape[0], bins.shape[0] - 1, 0
    while level > 0 and seen + bins[level] <= wanted:
        seen += bins[level]
        if seen <= _EARLY:
            top = level
        level -= 1
    # Of the bin that does not fit as a whole, the first few.
    spare, count, front = wanted - seen, 0, 0
    for block in range(sums.shape[0]):
        place = sums[block] >> _COARSE
        if place > level or (place == level and spare > 0):
            spare -= place == level
            chosen[count] = block
            if place >= top:
                chosen[count], chosen[front] = chosen[front], chosen[count]
                front += 1
            count += 1
    return count, front


@jit()
def _best_first(sums: np.ndarray, chosen: np.ndarray, count: int) -> None:
    """Sort chosen blocks by their sums, descending."""
    keys = np.zeros(count, np.uint64)
    size = 0
    for i in range(count):
        size = offer(keys, size, make_key(np.float32(sums[chosen[i]]), chosen[i]))
    sort_heap(keys, size)
    for i in range(count):
        chosen[i] = np.int32(np.uint64(0xFFFFFFFF) - (keys[i] & np.uint64(0xFFFFFFFF)))


@jit()
def _find_lists(
    bits: np.ndarray,
    ranks: np.ndarray,
    offsets: np.ndarray,
    postings: np.ndarray,
    latents: np.ndarray,
    steps: np.ndarray,
    found: np.ndarray,
    ahead: bool,
) -> int:
    """Where the lists of a query's latents are in a block.

    Args:
        bits: of the block, uint64, shape (words,).
        ranks: of the block, uint16, shape (words,).
        offsets: of the block's lists.
        postings: of the block.
        latents: of the query.
        steps: its values, int32.
        found: receives begin, end and step of each list, int32, shape (query_k, 3).
        ahead: whether to ask for their memory already.

    Returns:
        how many there are.
    """
    count = 0
    for j in range(latents.shape[0]):
        latent = np.int64(latents[j])
        word, bit = bits[latent >> 6], np.uint64(latent & 63)
        if (word >> bit) & np.uint64(1) and steps[j]:
            below = popcount(word & ((np.uint64(1) << bit) - np.uint64(1)))
            number = np.int64(ranks[latent >> 6]) + np.int64(below)
            begin, end = np.int64(offsets[number]), np.int64(offsets[number + 1])
            found[count, 0], found[count, 1], found[count, 2] = begin, end, steps[j]
            count += 1
            if ahead:
                for at in range(begin, end, _LINE):
                    prefetch(postings, at)
    return count


@jit()
def _add_lists(postings: np.ndarray, found: np.ndarray, count: int, sums: np.ndarray) -> None:
    """Add a query's posting lists of one block to its sums, int32, shape (BLOCK,)."""
    for i in range(count):
        begin, end, step = found[i, 0], found[i, 1], found[i, 2]
        if end - begin == HALF:
            entries, lower, upper = postings[begin:end], sums[:HALF], sums[HALF:]
            for place in range(HALF):
                entry = np.int32(entries[place])
                lower[place] = np.int32(lower[place] + step * np.int32(entry & 0xFF))
                upper[place] = np.int32(upper[place] + step * np.int32(entry >> 8))
        else:
            # Unsigned counters spare the test for indices from the end.
            at, stop = np.uint64(begin), np.uint64(end)
            while at < stop:
                entry = postings[at]
                sums[np.uint8(entry)] += np.int32(step * np.int32(entry >> np.uint16(8)))
                at += np.uint64(1)


@jit()
def _collect(
    sums: np.ndarray,
    first: int,
    length: int,
    scale: np.ndarray,
    allowed: np.ndarray,
    order: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    heap: np.ndarray,
    state: tuple[int, int, np.float32],
) -> tuple[int, int, np.float32]:
    """Move documents of a block that may be among the best into the pending list of a query.

    Args:
        sums: of the block; zero again afterwards.
        first: row of its first document.
        length: documents of the block.
        scale: what scores are multiplied by, float32, shape (n,).
        allowed: 1 for rows that may be found, uint8; empty if all may.
        order: positions of rows.
        rows: pending documents, int32.
        scores: theirs, float32.
        heap: exact keys of the query, shape (top_k,).
        state: pending documents, keys in the heap, smallest score still of interest.

    Returns:
        the new state.
    """
    count, size, bound = state
    # Slices free the loops of index arithmetic, and make vector instructions of the first.
    own, near = scale[first : first + length], np.int32(0)
    for place in range(own.shape[0]):
        if np.float32(sums[place]) * own[place] >= bound:
            near += np.int32(1)
    if near:
        filtered = allowed.shape[0] > 0
        for place in range(own.shape[0]):
            score = np.float32(sums[place]) * own[place]
            # Written whether it stays or not: a branch that nobody can predict costs more.
            rows[count], scores[count] = first + place, score
            count += int(score >= bound and (not filtered or allowed[first + place] > 0))
        if count >= rows.shape[0] - BLOCK:
            count, bound = cut(rows, scores, count, heap.shape[0], bound)
            # Too many near the bound, as with copies of one document: only their positions can tell them apart.
            if count > rows.shape[0] // 2:
                size = settle(rows, scores, count, order, heap, size)
                count, bound = 0, smallest_score(heap, size, bound)
    sums[:] = 0
    return count, size, bound


@jit()
def search_query(
    lists: tuple[np.ndarray, ...],
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    summary: np.ndarray,
    latents: np.ndarray,
    steps: np.ndarray,
    coarse: np.ndarray,
    probes: int,
    part: int,
    parts: int,
    heap: np.ndarray,
) -> None:
    """Best documents of a query, block after block, the most promising first.

    Args:
        lists: bits, ranks, firsts, offsets, starts, postings; see `csr_hf.search.segment.Segment`.
        documents: rows where blocks begin and the last ends; scale, allowed and order, see `_collect`.
        summary: uint8, shape (tiles, dim, width).
        latents: of the query.
        steps: its values, int32.
        coarse: its largest values for summaries, uint8.
        probes: blocks to visit.
        part: which share of them is visited here.
        parts: how many shares there are.
        heap: zeros, uint64, shape (top_k,); receives the keys, best first.
    """
    bits, ranks, firsts, offsets, starts, postings = lists
    begins, scale, allowed, order = documents
    blocks = bits.shape[0]
    tiles, _, width = summary.shape
    expected, chosen = np.empty(tiles * width, np.uint16), np.empty(blocks, np.int32)
    for tile in range(tiles):
        _add_summaries(summary[tile], latents, coarse, expected[tile * width : (tile + 1) * width])
    visits, _ = _choose(expected[:blocks], probes, chosen)
    _best_first(expected, chosen, visits)
    capacity = max(_PENDING, 4 * heap.shape[0])
    rows, scores = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
    sums = np.zeros(BLOCK, np.int32)
    # Lists of the next block are looked up, and asked for, while those of this one are added.
    found, following = np.empty((latents.shape[0], 3), np.int32), np.empty((latents.shape[0], 3), np.int32)
    state = (0, 0, np.float32(1e-30))
    count, before = 0, -1
    for visit in range(part, visits + parts, parts):
        block, more = -1, 0
        if visit < visits:
            block = int(chosen[visit])
            if visit + parts < visits:
                _ask(chosen[visit + parts], bits, ranks, firsts, offsets)
            own = postings[starts[block] : starts[block + 1]]
            more = _find_lists(
                bits[block], ranks[block], offsets[firsts[block] :], own, latents, steps, following, True
            )
        if before >= 0:
            _add_lists(postings[starts[before] : starts[before + 1]], found, count, sums)
            length = begins[before + 1] - begins[before]
            state = _collect(sums, begins[before], length, scale, allowed, order, rows, scores, heap, state)
        if block < 0:
            break
        found, following = following, found
        count, before = more, block
    sort_heap(heap, settle(rows, scores, state[0], order, heap, state[1]))


@jit()
def _ask(block: int, bits: np.ndarray, ranks: np.ndarray, firsts: np.ndarray, offsets: np.ndarray) -> None:
    """Prefetch what `_find_lists` reads."""
    for word in range(0, bits.shape[1], 8):
        prefetch(bits[block], word)
    for word in range(0, bits.shape[1], _LINE):
        prefetch(ranks[block], word)
    for at in range(firsts[block], firsts[block + 1], _LINE):
        prefetch(offsets, at)


@jit()
def search_group(
    lists: tuple[np.ndarray, ...],
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    summary: np.ndarray,
    latents: np.ndarray,
    steps: np.ndarray,
    coarse: np.ndarray,
    probes: int,
    heaps: np.ndarray,
) -> None:
    """Best documents of a group of queries, block after block as they lie in memory.

    Arguments as for `search_query`, with one more axis for the queries in front of `latents`, `steps`, `coarse` and
    `heaps`.
    """
    bits, ranks, firsts, offsets, starts, postings = lists
    begins, scale, allowed, order = documents
    group, blocks = heaps.shape[0], bits.shape[0]
    chosen, visits, fronts = _visits(summary, latents, coarse, blocks, probes)
    capacity = max(_PENDING, 4 * heaps.shape[1])
    rows, scores = np.empty((group, capacity), np.int32), np.empty((group, capacity), np.float32)
    counts, sizes = np.zeros(group, np.int64), np.zeros(group, np.int64)
    bounds = np.full(group, np.float32(1e-30))
    sums, found = np.zeros(BLOCK, np.int32), np.empty((latents.shape[1], 3), np.int32)
    # Every query's best blocks come first: what they hold spares it most of what the others hold.
    for turn in range(2):
        visitors, ends = _by_block(chosen, visits, fronts, turn, blocks)
        for block in range(blocks):
            own, first = postings[starts[block] : starts[block + 1]], begins[block]
            for at in range(ends[block], ends[block + 1]):
                i = visitors[at]
                count = _find_lists(
                    bits[block], ranks[block], offsets[firsts[block] :], own, latents[i], steps[i], found, False
                )
                _add_lists(own, found, count, sums)
                state = (counts[i], sizes[i], bounds[i])
                counts[i], sizes[i], bounds[i] = _collect(
                    sums, first, begins[block + 1] - first, scale, allowed, order, rows[i], scores[i], heaps[i], state
                )
        for i in range(group):
            if turn == 0 and counts[i] > heaps.shape[1]:
                counts[i], bounds[i] = cut(rows[i], scores[i], counts[i], heaps.shape[1], bounds[i])
    for i in range(group):
        sort_heap(heaps[i], settle(rows[i], scores[i], counts[i], order, heaps[i], sizes[i]))


@jit()
def _visits(
    summary: np.ndarray, latents: np.ndarray, coarse: np.ndarray, blocks: int, probes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks that every query visits, (queries, probes); how many they are, and how many in front beat all others."""
    group = latents.shape[0]
    tiles, _, width = summary.shape
    expected = np.empty((group, tiles * width), np.uint16)
    # A tile of the summaries stays in the cache while all queries pass over it.
    for tile in range(tiles):
        for i in range(group):
            _add_summaries(summary[tile], latents[i], coarse[i], expected[i, tile * width : (tile + 1) * width])
    chosen, visits = np.empty((group, min(probes, blocks)), np.int32), np.empty(group, np.int64)
    fronts = np.empty(group, np.int64)
    for i in range(group):
        visits[i], fronts[i] = _choose(expected[i, :blocks], probes, chosen[i])
    return chosen, visits, fronts


@jit()
def _by_block(
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
