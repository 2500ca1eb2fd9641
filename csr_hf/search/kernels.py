"""Numba kernels of the first stage: scan posting lists, settle the order exactly.

The scan is approximate only in its bookkeeping. Posting values are rounded *up* to eight bits and accumulated in
sixteen, so an accumulator is never below the true score, and above it by at most the query's `slack`. Whatever could
still belong to the best `top_k` is scored again from the stored codes, in float32, and that score alone decides.

Positions and scores travel as one uint64 key (score bits above, inverted position below): comparing keys orders by
score descending, then by position ascending.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import from_half, jit

ACCUMULATORS = 65_536
"""Accumulators of one block. Any uint16 is a valid place, so a damaged file cannot make the scan write elsewhere."""
GROUP = 32
"""Queries that pass over a block of postings together, while it is in cache."""
_STRIP = 256
_BIN_SHIFT = 6
_PENDING = 4096
_POSITION_MASK = np.uint64(0xFFFFFFFF)


@jit()
def make_key(score: np.float32, position: int) -> np.uint64:
    """Key of any finite score: flipping the bits of negative floats makes their order that of integers."""
    bits = np.float32(score).view(np.uint32)
    ordered = np.uint32(~bits) if bits >> np.uint32(31) else np.uint32(bits | np.uint32(0x80000000))
    return (np.uint64(ordered) << np.uint64(32)) | (_POSITION_MASK - np.uint64(position))


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32) and positions (int64) of keys; the key 0 means nothing there: -inf and -1."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    negative = ordered >> 31 == 0
    scores = np.where(negative, ~ordered, ordered & np.uint32(0x7FFFFFFF)).view(np.float32)
    positions = (_POSITION_MASK - (keys & _POSITION_MASK)).astype(np.int64)
    empty = keys == 0
    return np.where(empty, np.float32(-np.inf), scores), np.where(empty, -1, positions)


@jit()
def _sift(heap: np.ndarray, size: int, key: np.uint64) -> None:
    """Replace the smallest key, on top of the heap, by another."""
    at = 0
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
            _sift(heap, size, key)
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
        _sift(heap, end, last)


@jit()
def _accumulate(
    starts: np.ndarray,
    documents: np.ndarray,
    weights: np.ndarray,
    latents: np.ndarray,
    steps: np.ndarray,
    accumulators: np.ndarray,
) -> None:
    """Add a query's posting lists of one block. Every posting adds at least 1, so 0 means no latent is shared."""
    for j in range(latents.shape[0]):
        step = np.uint32(steps[j])
        if step:
            latent = np.int64(latents[j])
            # Slices free the loop of index arithmetic: it is a third of its time.
            places = documents[starts[latent] : starts[latent + 1]]
            shares = weights[starts[latent] : starts[latent + 1]]
            for at in range(places.shape[0]):
                gain = (np.uint32(step * np.uint32(shares[at])) >> np.uint32(8)) + np.uint32(1)
                accumulators[places[at]] += np.uint16(gain)


@jit()
def _prune(positions: np.ndarray, sums: np.ndarray, count: int, top_k: int, slack: int, bound: int) -> tuple[int, int]:
    """Drop pending documents that `top_k` others surely beat; returns how many stay and the new bound."""
    bins = np.zeros((ACCUMULATORS >> _BIN_SHIFT) + 1, np.int32)
    for i in range(count):
        bins[sums[i] >> _BIN_SHIFT] += 1
    seen = 0
    level = bins.shape[0]
    while seen < top_k and level > 0:
        level -= 1
        seen += bins[level]
    if seen >= top_k:
        bound = max(bound, (level << _BIN_SHIFT) - slack)
    kept = 0
    for i in range(count):
        if sums[i] >= bound:
            positions[kept] = positions[i]
            sums[kept] = sums[i]
            kept += 1
    return kept, bound


@jit()
def _settle(
    positions: np.ndarray,
    count: int,
    latents: np.ndarray,
    query: np.ndarray,
    dense: np.ndarray,
    codes: tuple[np.ndarray, np.ndarray, np.ndarray],
    heap: np.ndarray,
    size: int,
) -> int:
    """Score pending documents exactly and offer them to the heap; `dense` is all zeros before and after."""
    indices, values, scale = codes
    for j in range(latents.shape[0]):
        if query[j] > 0:
            dense[latents[j]] = query[j]
    for i in range(count):
        row = positions[i]
        score = np.float32(0)
        for j in range(indices.shape[1]):
            score += dense[indices[row, j]] * from_half(values[row, j])
        score *= scale[row]
        if score > 0:
            size = offer(heap, size, make_key(score, row))
    for j in range(latents.shape[0]):
        dense[latents[j]] = 0
    return size


@jit()
def _key_score(key: np.uint64) -> np.float32:
    """Score of the key of a positive score."""
    return np.uint32((key >> np.uint64(32)) & np.uint64(0x7FFFFFFF)).view(np.float32)


@jit()
def _largest(sums: np.ndarray) -> np.uint16:
    """Maximum of uint16, spelled so that it becomes vector instructions: `max` would widen to 64 bits."""
    largest = np.uint16(0)
    for i in range(sums.shape[0]):
        value = sums[i]
        if value > largest:
            largest = value
    return largest


@jit()
def _scan(
    accumulators: np.ndarray,
    allowed: np.ndarray,
    length: int,
    first: int,
    positions: np.ndarray,
    sums: np.ndarray,
    state: np.ndarray,
    limits: tuple[int, int, float],
    latents: np.ndarray,
    query: np.ndarray,
    dense: np.ndarray,
    codes: tuple[np.ndarray, np.ndarray, np.ndarray],
    heap: np.ndarray,
) -> None:
    """Move documents of a block that may be among the best into the pending list of a query.

    Args:
        accumulators: sums of the block, uint16; those of its `length` documents are zero again afterwards.
        allowed: 1 for documents that may be found, uint8, by position; empty if all may.
        length: documents of the block.
        first: position of its first document.
        positions: pending documents of the query, int32.
        sums: their accumulators, uint16.
        state: of the query: pending documents, smallest sum still of interest, keys in the heap.
        limits: of the query: top_k, slack, accumulator units of a score of 1.
        latents: the query's latents.
        query: its unit-norm values.
        dense: zeros, float32, shape (dim,).
        codes: indices, values and scales of all documents.
        heap: exact keys of the query, shape (top_k,).
    """
    top_k, slack, units = limits
    capacity, filtered = positions.shape[0], allowed.shape[0] > 0
    count, bound, size = state[0], state[1], state[2]
    for strip in range(0, length, _STRIP):
        stop = min(length, strip + _STRIP)
        if _largest(accumulators[strip:stop]) < bound:
            continue
        for place in range(strip, stop):
            if accumulators[place] >= bound and (not filtered or allowed[first + place]):
                positions[count] = first + place
                sums[count] = accumulators[place]
                count += 1
        if count > capacity - _STRIP:
            count, bound = _prune(positions, sums, count, top_k, slack, bound)
            # Too many near the bound, as with copies of one document: only exact scores can tell them apart.
            if count > capacity // 2:
                size = _settle(positions, count, latents, query, dense, codes, heap, size)
                count = 0
                if size == top_k:
                    bound = max(bound, np.int64(_key_score(heap[0]) * units) - 1)
    accumulators[:length] = 0
    state[0], state[1], state[2] = count, bound, size


@jit()
def search_blocks(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    codes: tuple[np.ndarray, np.ndarray, np.ndarray],
    queries: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    allowed: np.ndarray,
    block_size: int,
    first_block: int,
    stop_block: int,
    keys: np.ndarray,
) -> None:
    """Best documents of a range of blocks for a group of queries.

    Args:
        lists: starts (blocks, dim + 1), documents and weights (postings,), see `fill_postings`.
        codes: indices and values (bits of float16) of shape (n, k), scales of shape (n,).
        queries: of the group, see `csr_hf.search.queries.PreparedQueries`.
        allowed: see `_scan`.
        block_size: documents of a block.
        first_block: where the range begins.
        stop_block: where it ends.
        keys: zeros, uint64, shape (queries, top_k); receives the keys, best first.
    """
    starts, documents, weights = lists
    latents, values, steps, units, slack = queries
    group, top_k = keys.shape
    n = codes[0].shape[0]
    capacity = max(_PENDING, 4 * top_k)
    positions = np.empty((group, capacity), np.int32)
    sums = np.empty((group, capacity), np.uint16)
    state = np.zeros((group, 3), np.int64)
    state[:, 1] = 1
    accumulators = np.zeros(ACCUMULATORS, np.uint16)
    dense = np.zeros(starts.shape[1] - 1, np.float32)
    for block in range(first_block, stop_block):
        first = block * block_size
        length = min(block_size, n - first)
        for i in range(group):
            _accumulate(starts[block], documents, weights, latents[i], steps[i], accumulators)
            limits = (top_k, slack[i], units[i])
            _scan(
                accumulators, allowed, length, first, positions[i], sums[i], state[i], limits,
                latents[i], values[i], dense, codes, keys[i],
            )  # fmt: skip
    for i in range(group):
        count, _ = _prune(positions[i], sums[i], state[i, 0], top_k, slack[i], state[i, 1])
        size = _settle(positions[i], count, latents[i], values[i], dense, codes, keys[i], state[i, 2])
        sort_heap(keys[i], size)
