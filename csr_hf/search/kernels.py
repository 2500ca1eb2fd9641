"""Numba kernels of the first stage: add up the posting lists of blocks, keep the best documents.

Queries and documents are integers here, so sums are exact whatever their order, and the score of a document does not
depend on which documents share its block.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit, popcount, prefetch
from csr_hf.search.building import BLOCK, HALF
from csr_hf.search.ranking import cut, made_room, settle, sort_heap
from csr_hf.search.routing import EARLY, PENDING, Query, Stored, add_summaries, best_first, by_block, choose, visits_of

_LINE = 32
"""Entries of a posting list in a cache line."""


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
        count, size, bound = made_room(rows, scores, order, heap, (count, size, bound), BLOCK)
    sums[:] = 0
    return count, size, bound


@jit()
def search_query(stored: Stored, query: Query, probes: int, share: tuple[int, int], heap: np.ndarray) -> None:
    """Find the best documents of a query by inverted lists, block after block, the most promising first.

    Args:
        stored: of the segment, its lists.
        query: with values as integers.
        probes: blocks to visit.
        share: which share of them is visited here, and how many there are.
        heap: zeros, uint64, shape (top_k,); receives the keys, best first.
    """
    bits, ranks, firsts, offsets, starts, postings = stored.arrays
    begins, scale, allowed, order = stored.documents
    summary, (latents, coarse, steps), (part, parts) = stored.summary, query, share
    blocks = bits.shape[0]
    tiles, _, width = summary.shape
    expected, chosen = np.empty(tiles * width, np.uint16), np.empty(blocks, np.int32)
    for tile in range(tiles):
        add_summaries(summary[tile], latents, coarse, expected[tile * width : (tile + 1) * width])
    visits, _ = choose(expected[:blocks], probes, EARLY, chosen)
    best_first(expected, chosen, visits)
    capacity = max(PENDING, 4 * heap.shape[0])
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
def search_group(stored: Stored, queries: Query, probes: int, heaps: np.ndarray) -> None:
    """Find the best documents of a group of queries, block after block as they lie in memory.

    Arguments as for `search_query`, `heaps` with one more axis in front.
    """
    bits, ranks, firsts, offsets, starts, postings = stored.arrays
    begins, scale, allowed, order = stored.documents
    latents, coarse, steps = queries
    group, blocks = heaps.shape[0], bits.shape[0]
    chosen, visits, fronts = visits_of(stored.summary, latents, coarse, blocks, probes)
    capacity = max(PENDING, 4 * heaps.shape[1])
    rows, scores = np.empty((group, capacity), np.int32), np.empty((group, capacity), np.float32)
    counts, sizes = np.zeros(group, np.int64), np.zeros(group, np.int64)
    bounds = np.full(group, np.float32(1e-30))
    sums, found = np.zeros(BLOCK, np.int32), np.empty((latents.shape[1], 3), np.int32)
    # Every query's best blocks come first: what they hold spares it most of what the others hold.
    for turn in range(2):
        visitors, ends = by_block(chosen, visits, fronts, turn, blocks)
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
