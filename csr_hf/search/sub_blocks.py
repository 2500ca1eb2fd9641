"""Sub-blocks: the few groups of still more similar documents within a block, found by k-means over their signs.

Signs compare in a few instructions, a centre is the majority of its documents, and it is looked up as documents are. A
block whose documents form no such groups is one sub-block: scanning it as a whole takes less time than scanning parts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import LANES, at_least, count_bits, jit, popcount
from csr_hf.plumbing.threads import available_threads, run
from csr_hf.search.building import BLOCK
from csr_hf.search.lookup import ROOM

_SIZE = 24
"""Documents of a sub-block on average."""
_MOST = round(BLOCK / _SIZE)
"""Sub-blocks of a block."""
_ROUNDS = 3
_CLOSER = 0.8
"""A block is divided if documents differ from the centres in at most so many of the bits in which they differ from the
majority of the block."""
_CHUNK = 64


class SubBlocks(NamedTuple):
    """Signs of documents by sub-block, and by block those of the centres of its sub-blocks."""

    order: np.ndarray
    """Rows as they were given, int32, shape (n,): every block by sub-block."""
    planes: np.ndarray
    """Of every sub-block first byte 0 of each document, then byte 1 of each, and so on; uint8, shape (n * bytes +
    ROOM,)."""
    rows: np.ndarray
    """Where sub-blocks begin and the last ends, int64, shape (sub-blocks + 1,)."""
    firsts: np.ndarray
    """The first sub-block of every block, and how many there are in all; int64, shape (blocks + 1,)."""
    centers: np.ndarray
    """As `planes`, with blocks for sub-blocks and sub-blocks for documents."""


def sub_blocks(signs: np.ndarray, begins: np.ndarray) -> SubBlocks:
    """Divide blocks into sub-blocks; the same for the same signs.

    Args:
        signs: of documents by row, uint8, shape (n, bytes).
        begins: rows where blocks begin and the last ends, int64, shape (blocks + 1,).
    """
    (n, width), blocks, threads = signs.shape, len(begins) - 1, available_threads()
    labels, counts = np.empty(n, np.uint8), np.zeros(blocks, np.int64)
    majorities = np.zeros((blocks, _MOST, -(-width // 8)), np.uint64)
    chunks = [(first, min(first + _CHUNK, blocks)) for first in range(0, blocks, _CHUNK)]

    def divide(first: int, stop: int) -> None:
        _divide(signs, begins[first : stop + 1], labels, counts[first:stop], majorities[first:stop])

    run(divide, chunks, threads)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    made = SubBlocks(
        np.empty(n, np.int32),
        np.zeros(n * width + ROOM, np.uint8),
        np.full(firsts[-1] + 1, n, np.int64),
        firsts,
        np.zeros(firsts[-1] * width + ROOM, np.uint8),
    )

    def arrange(first: int, stop: int) -> None:
        own = begins[first : stop + 1], firsts[first : stop + 1], majorities[first:stop].view(np.uint8)
        _arrange(signs, labels, *own, made.order, made.planes, made.rows, made.centers)

    run(arrange, chunks, threads)
    return made


@jit()
def _distance(one: np.ndarray, other: np.ndarray) -> np.int64:
    """Bits that differ."""
    bits = np.int64(0)
    for word in range(one.shape[0]):
        bits += np.int64(popcount(one[word] ^ other[word]))
    return bits


@jit()
def _begin(words: np.ndarray, wanted: int, centers: np.ndarray, labels: np.ndarray) -> int:
    """Centres far from each other: the first document, then ever the one that is farthest from all so far."""
    nearest, at, count = np.full(words.shape[0], np.int64(2**62)), 0, 0
    while count < wanted:
        centers[count] = words[at]
        at = 0
        for i in range(words.shape[0]):
            bits = _distance(words[i], centers[count])
            if bits < nearest[i]:
                nearest[i], labels[i] = bits, count
            if nearest[i] > nearest[at]:
                at = i
        count += 1
        if nearest[at] == 0:
            break
    return count


@jit()
def _majorities(words: np.ndarray, labels: np.ndarray, count: int, centers: np.ndarray) -> None:
    """Bits that more than half of a centre's documents have; a centre without documents stays."""
    size, ones = np.zeros(count, np.int32), np.zeros((count, LANES * words.shape[1]), np.uint16)
    for i in range(words.shape[0]):
        own = ones[labels[i]]
        size[labels[i]] += 1
        for word in range(words.shape[1]):
            count_bits(words[i, word], own, LANES * word)
    for c in range(count):
        for word in range(words.shape[1] if size[c] else 0):
            centers[c, word] = at_least(ones[c], LANES * word, np.uint16(size[c] // 2 + 1))


@jit()
def _assign(words: np.ndarray, centers: np.ndarray, count: int, labels: np.ndarray) -> np.int64:
    """Give every document the nearest centre; returns in how many bits documents and their centres differ."""
    total = np.int64(0)
    for i in range(words.shape[0]):
        least = np.int64(2**62)
        for c in range(count):
            bits = _distance(words[i], centers[c])
            if bits < least:
                least, labels[i] = bits, c
        total += least
    return total


@jit()
def _divide(
    signs: np.ndarray,
    begins: np.ndarray,
    labels: np.ndarray,
    counts: np.ndarray,
    majorities: np.ndarray,
) -> None:
    """Sub-blocks of some blocks.

    Args:
        signs: see `sub_blocks`.
        begins: where these blocks begin and the last ends.
        labels: receives the sub-block of every row, from 0 in every block, uint8, shape (n,).
        counts: receives how many sub-blocks each block has, shape (blocks,).
        majorities: zeros, receives their centres, uint64, shape (blocks, _MOST, words).
    """
    width = signs.shape[1]
    words = np.zeros((BLOCK, majorities.shape[2]), np.uint64)
    bytes_of, within = words.view(np.uint8), np.int64(0)
    whole, spare = np.zeros((1, majorities.shape[2]), np.uint64), np.zeros(BLOCK, np.uint8)
    for block in range(counts.shape[0]):
        first, length = begins[block], begins[block + 1] - begins[block]
        for i in range(length):
            bytes_of[i, :width] = signs[first + i]
        documents, own, centers = words[:length], labels[first : first + length], majorities[block]
        wanted = min(max(np.int64(np.rint(length / _SIZE)), 1), _MOST)
        own[:] = 0
        _majorities(documents, own, 1, whole)
        count = _begin(documents, wanted, centers, own)
        for _ in range(_ROUNDS):
            _majorities(documents, own, count, centers)
            within = _assign(documents, centers, count, own)
        if within > _CLOSER * _assign(documents, whole, 1, spare[:length]):
            own[:] = 0
            centers[0], count = whole[0], 1
        counts[block] = _without_empty(own, count, centers)


@jit()
def _without_empty(labels: np.ndarray, count: int, centers: np.ndarray) -> int:
    """Number sub-blocks anew without those that have no documents; returns how many stay."""
    number = np.zeros(count, np.int64)
    for i in range(labels.shape[0]):
        number[labels[i]] = 1
    kept = 0
    for c in range(count):
        if number[c]:
            centers[kept] = centers[c]
            number[c] = kept
            kept += 1
    for i in range(labels.shape[0]):
        labels[i] = number[labels[i]]
    return kept


@jit()
def _arrange(
    signs: np.ndarray,
    labels: np.ndarray,
    begins: np.ndarray,
    firsts: np.ndarray,
    majorities: np.ndarray,
    arranged: np.ndarray,
    planes: np.ndarray,
    rows: np.ndarray,
    centers: np.ndarray,
) -> None:
    """Write what `SubBlocks` holds of some blocks; arguments as for `_divide` and by the names of the fields."""
    width, sizes, cursor = signs.shape[1], np.empty(_MOST, np.int64), np.empty(_MOST, np.int64)
    own = np.empty((BLOCK, width), np.uint8)
    for block in range(begins.shape[0] - 1):
        first, length, count = begins[block], begins[block + 1] - begins[block], firsts[block + 1] - firsts[block]
        sizes[:] = 0
        for i in range(first, first + length):
            sizes[labels[i]] += 1
        at = first
        for c in range(count):
            rows[firsts[block] + c] = cursor[c] = at
            at += sizes[c]
            for byte in range(width):
                centers[width * firsts[block] + byte * count + c] = majorities[block, c, byte]
        for i in range(first, first + length):
            c = labels[i]
            arranged[cursor[c]] = i
            cursor[c] += 1
        for c in range(count):
            start, size = rows[firsts[block] + c], sizes[c]
            for place in range(size):
                own[place] = signs[arranged[start + place]]
            for byte in range(width):
                at = width * start + byte * size
                for place in range(size):
                    planes[at + place] = own[place, byte]


@jit()
def _signs(planes: np.ndarray, rows: np.ndarray, signs: np.ndarray) -> None:
    width = signs.shape[1]
    for number in range(rows.shape[0] - 1):
        start, size = rows[number], rows[number + 1] - rows[number]
        for place in range(size):
            for byte in range(width):
                signs[start + place, byte] = planes[width * start + byte * size + place]


def signs_of(planes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Signs of documents by row, uint8, shape (n, bytes), of `SubBlocks` planes and rows."""
    n = int(rows[-1])
    signs = np.empty((n, (len(planes) - ROOM) // max(n, 1)), np.uint8)
    _signs(planes, rows, signs)
    return signs
