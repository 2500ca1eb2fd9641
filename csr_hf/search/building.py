"""Numba kernels that turn documents into what a search reads: eight-bit values, posting lists of blocks, summaries."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import LINE, jit, largest_size

LEVELS = 255
"""Steps of an eight-bit value: the largest of a document's."""
BLOCK = 256
"""Documents of a block: one byte names a place in it."""
TILE = 512
"""Blocks, at most, whose summaries lie together."""
HALF = BLOCK // 2
"""A list of so many postings or more is kept as one byte for every place of the block: no longer, and added by vector
instructions."""


@jit()
def quantise(values: np.ndarray, bytes_of: np.ndarray, steps: np.ndarray) -> int:
    """Round values to multiples of 1/255 of the largest of their row; none that is active becomes 0.

    Args:
        values: float32, shape (n, k).
        bytes_of: receives the multiples, uint8, shape (n, k).
        steps: receives what a multiple is, float32, shape (n,).

    Returns:
        a row with a value that is negative or not finite, or -1.
    """
    for row in range(values.shape[0]):
        largest, negative = largest_size(values[row]), 0
        for j in range(values.shape[1]):
            negative += values[row, j] < 0
        if negative or not largest < np.inf:
            return row
        step = largest / np.float32(LEVELS)
        steps[row] = step
        for j in range(values.shape[1]):
            value = values[row, j]
            level = np.float32(0)
            if value > 0:
                level = min(max(np.rint(value / step), np.float32(1)), np.float32(LEVELS))
            bytes_of[row, j] = np.uint8(level)
    return -1


@jit()
def measure_norms(values: np.ndarray, steps: np.ndarray, norms: np.ndarray) -> None:
    """Norms of rows of multiples (uint8), given what a multiple of each row is."""
    for row in range(values.shape[0]):
        squares = np.int64(0)
        for j in range(values.shape[1]):
            squares += np.int64(values[row, j]) * np.int64(values[row, j])
        norms[row] = np.float32(np.sqrt(np.float64(squares)) * np.float64(steps[row]))


@jit()
def count_postings(indices: np.ndarray, values: np.ndarray, counts: np.ndarray) -> int:
    """Count the postings of one block by latent.

    Args:
        indices: latents of the block's documents, shape (length, k).
        values: their values, uint8, shape (length, k).
        counts: zeros, receives the counts, int64, shape (dim,).

    Returns:
        how many latents have any.
    """
    lists = 0
    for row in range(indices.shape[0]):
        for j in range(indices.shape[1]):
            if values[row, j]:
                latent = np.int64(indices[row, j])
                lists += counts[latent] == 0
                counts[latent] += 1
    return lists


@jit()
def measure_block(indices: np.ndarray, values: np.ndarray, dim: int) -> tuple[int, int]:
    """Lists of a block, and the uint16 places that they take together; arguments as for `fill_block`."""
    counts = np.zeros(dim, np.int64)
    lists = count_postings(indices, values, counts)
    total = 0
    for latent in range(dim):
        total += min(counts[latent], HALF)
    return lists, total


@jit()
def fill_block(
    indices: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    bits: np.ndarray,
    ranks: np.ndarray,
    offsets: np.ndarray,
    postings: np.ndarray,
    summary: np.ndarray,
) -> int:
    """Write the lists of one block.

    A list of few documents holds an entry for each: its place in the block, and its value times 256. One of many holds
    an entry for places i and 128 + i together: value of the first, and value of the second times 256.

    Args:
        indices: latents of the block's documents, shape (length, k).
        values: their values, uint8, shape (length, k).
        scale: what scores of each document are multiplied by, float32, shape (length,).
        bits: zeros, receives a bit for every latent that has a list, uint64, shape (words,).
        ranks: receives the lists before every word, uint16, shape (words,).
        offsets: receives where every list begins and the last ends, uint16 or uint32, shape (lists + 1,).
        postings: zeros, receives the entries, uint16.
        summary: zeros, receives the fourth-power mean of every latent's scaled values, float32, shape (dim,).

    Returns:
        a row that names a latent twice, or -1.
    """
    dim = summary.shape[0]
    counts = np.zeros(dim, np.int64)
    count_postings(indices, values, counts)
    cursor = np.zeros(dim, np.int64)
    at, lists = 0, 0
    for latent in range(dim):
        if latent & 63 == 0:
            ranks[latent >> 6] = lists
        if counts[latent]:
            bits[latent >> 6] |= np.uint64(1) << np.uint64(latent & 63)
            offsets[lists] = at
            cursor[latent] = at
            at += min(counts[latent], HALF)
            lists += 1
    offsets[lists] = at
    return _fill_lists(indices, values, scale, counts, cursor, postings, summary)


@jit()
def _fill_lists(
    indices: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    counts: np.ndarray,
    cursor: np.ndarray,
    postings: np.ndarray,
    summary: np.ndarray,
) -> int:
    """The entries themselves, where `cursor` says; it moves on in lists of few documents."""
    last = np.full(counts.shape[0], -1, np.int64)
    repeated = -1
    for row in range(indices.shape[0]):
        for j in range(indices.shape[1]):
            value = np.uint16(values[row, j])
            if value:
                latent = np.int64(indices[row, j])
                if last[latent] == row:
                    repeated = row
                last[latent] = row
                weight = np.float32(value) * scale[row]
                summary[latent] += weight * weight * weight * weight
                if counts[latent] >= HALF:
                    shift = np.uint16(8 * (row // HALF))
                    postings[cursor[latent] + row % HALF] |= np.uint16(value << shift)
                else:
                    postings[cursor[latent]] = np.uint16(row) | np.uint16(value << np.uint16(8))
                    cursor[latent] += 1
    for at in range(summary.shape[0]):
        summary[at] = np.sqrt(np.sqrt(summary[at] / np.float32(indices.shape[0])))
    return repeated


@jit()
def measure_blocks(
    indices: np.ndarray, values: np.ndarray, dim: int, rows: np.ndarray, first: int, sizes: np.ndarray
) -> None:
    """What `measure_block` says of blocks from `first` on, and one list more; int64, shape (blocks, 2).

    `rows` says where all blocks begin and the last ends.
    """
    for i in range(sizes.shape[0]):
        begin, end = rows[first + i], rows[first + i + 1]
        lists, total = measure_block(indices[begin:end], values[begin:end], dim)
        sizes[i, 0], sizes[i, 1] = lists + 1, total


@jit()
def fill_blocks(
    documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    first: int,
    firsts: np.ndarray,
    starts: np.ndarray,
    bits: np.ndarray,
    ranks: np.ndarray,
    offsets: np.ndarray,
    postings: np.ndarray,
    means: np.ndarray,
) -> int:
    """Write the lists of blocks from `first` on, as `fill_block` does.

    Args:
        documents: indices, values and scale of all, and rows where blocks begin and the last ends.
        first: number of the first block.
        firsts: where the offsets of all blocks begin and the last end.
        starts: where their postings do.
        bits: of these blocks.
        ranks: of these blocks.
        offsets: of all blocks.
        postings: of all blocks.
        means: summaries of these blocks, zeros.

    Returns:
        a row that names a latent twice, or -1.
    """
    indices, values, scale, rows = documents
    for i in range(means.shape[0]):
        block = first + i
        begin, end = rows[block], rows[block + 1]
        own = offsets[firsts[block] : firsts[block + 1]]
        lists = postings[starts[block] : starts[block + 1]]
        repeated = fill_block(
            indices[begin:end], values[begin:end], scale[begin:end], bits[i], ranks[i], own, lists, means[i]
        )
        if repeated >= 0:
            return begin + repeated
    return -1


@jit()
def round_summaries(means: np.ndarray, factor: np.float32, summary: np.ndarray) -> None:
    """Means of a tile's blocks, float32, shape (blocks, dim), as multiples of 1 / factor, rounded up."""
    # So many latents at a time as lie in a cache line of the means.
    together = LINE // means.itemsize
    for first in range(0, means.shape[1], together):
        for block in range(means.shape[0]):
            own = means[block, first : first + together]
            for at in range(own.shape[0]):
                summary[first + at, block] = np.uint8(np.ceil(own[at] * factor))
