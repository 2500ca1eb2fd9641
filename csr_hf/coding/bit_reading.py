"""Compiled loops that read packed rows: decode them, check them, and multiply them with projections.

A row is a byte with its scale, then a stream of bits, lowest bit first. Each active latent, in ascending order, is the
number of latents skipped since the one before as a Rice code (a quotient of so many zeros and a one, then `shift`
bits), then `bits` bits of its level less one. A level stands for so many steps of the row. What is left of a row is
zeros.

No loop believes a row: it stops where the bits of the row end, at a latent that does not exist, and after `k` latents,
so that random bytes give a wrong code at worst.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from csr_hf.plumbing.jit import jit, lowest

WORD = 8
"""Bytes that are read at once."""
_TYPICAL = 46
"""Bits of a word that a group of latents should need on average, of 57 that it has at least."""


class Layout(NamedTuple):
    """How the bits of every row are to be read; kernels take it as it is."""

    dim: int
    """Length of the latents axis, which every latent is below."""
    k: int
    """Latents that a row may hold at most."""
    bits: int
    """Of a level."""
    shift: int
    """Low bits of a gap, beside the quotient in unary."""


@jit(inline="always")
def _read_word(data: np.ndarray, first: int) -> np.uint64:
    """Read eight bytes of a flat array from `first` on, lowest byte first.

    LLVM makes one load of it, since places without a sign are not looked at for counting from the end.
    """
    at = np.uint64(first)
    low = np.uint64(data[at]) | np.uint64(data[at + np.uint64(1)]) << np.uint64(8)
    low |= np.uint64(data[at + np.uint64(2)]) << np.uint64(16) | np.uint64(data[at + np.uint64(3)]) << np.uint64(24)
    high = np.uint64(data[at + np.uint64(4)]) | np.uint64(data[at + np.uint64(5)]) << np.uint64(8)
    high |= np.uint64(data[at + np.uint64(6)]) << np.uint64(16) | np.uint64(data[at + np.uint64(7)]) << np.uint64(24)
    return low | high << np.uint64(32)


@jit(inline="always")
def _peek(data: np.ndarray, row: tuple[int, int], at: int) -> Any:
    """Read bits of a row from bit `at` on, which must lie inside of it.

    Args:
        data: all rows, uint8, flat.
        row: its first byte, and the first byte behind it.
        at: a bit of the row.

    Returns:
        the bits, and how many of them belong to the row; those above are zeros.
    """
    first, stop = row
    byte = first + (at >> 3)
    if stop - first >= WORD:
        byte = min(byte, stop - WORD)
        passed = at - ((byte - first) << 3)
        return _read_word(data, byte) >> np.uint64(passed), 64 - passed
    word = np.uint64(0)
    for number in range(stop - first):
        word |= np.uint64(data[first + number]) << np.uint64(8 * number)
    return word >> np.uint64(at), ((stop - first) << 3) - at


@jit()
def _read_far(data: np.ndarray, row: tuple[int, int], at: int, layout: Layout) -> Any:
    """Read one latent whose bits need not fit into one word, as `_read_row` does.

    Returns:
        the bit behind it, how many latents it skips, and its level; (at, 0, 0) where no latent follows, with `at` the
        number of bits of the row if nothing but zeros follow, -1 if they mean nothing.
    """
    first, stop = row
    end, quotient = (stop - first) << 3, 0
    while True:
        if at >= end:
            return end, 0, 0
        word, valid = _peek(data, row, at)
        if word != np.uint64(0):
            break
        quotient += valid
        at += valid
    zeros: Any = np.int64(lowest(word))
    quotient, at = quotient + zeros, at + zeros + 1
    if at + layout.shift + layout.bits > end or quotient > layout.dim >> layout.shift:
        return -1, 0, 0
    word, _ = _peek(data, row, at)
    low = np.int64(word & ((np.uint64(1) << np.uint64(layout.shift)) - np.uint64(1)))
    level = np.int64((word >> np.uint64(layout.shift)) & ((np.uint64(1) << np.uint64(layout.bits)) - np.uint64(1)))
    return at + layout.shift + layout.bits, (quotient << layout.shift) | low, level + 1


@jit(inline="always")
def _read_row(data: np.ndarray, row: tuple[int, int], layout: Layout, latents: np.ndarray, levels: np.ndarray) -> Any:
    """Read the latents and levels of a row.

    Args:
        data: all rows, uint8, flat.
        row: its first byte, and the first byte behind it.
        layout: of the rows.
        latents: room for `k`, any integers.
        levels: room for `k`, any numbers.

    Returns:
        how many there are, and whether all bits of the row have a meaning.
    """
    dim, k, bits, shift = layout.dim, layout.k, layout.bits, layout.shift
    low_mask = (np.uint64(1) << np.uint64(shift)) - np.uint64(1)
    level_mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    at, end, before, count = 8, (row[1] - row[0]) << 3, -1, 0
    word, valid = np.uint64(0), 0
    # Words are read after a fixed number of latents where that suffices, which processors predict.
    group = max(_TYPICAL // (2 + shift + bits), 1)
    due = count
    while True:
        # Of no bits at all the lowest is the 64th, which is too far.
        zeros: Any = np.int64(lowest(word))
        used = zeros + 1 + shift + bits
        if count == due or used > valid:
            if at >= end:
                return count, True
            due = count + group
            word, valid = _peek(data, row, at)
            zeros = np.int64(lowest(word))
            used = zeros + 1 + shift + bits
            if used > valid:
                at, gap, level = _read_far(data, row, at, layout)
                if level == 0:
                    return count, at == end
                before += gap + 1
                if before >= dim or count == k:
                    return count, False
                latents[count] = before
                levels[count] = level
                count += 1
                due = count
                continue
        if count == k:
            return count, False
        rest = word >> np.uint64(zeros + 1)
        before += ((zeros << shift) | np.int64(rest & low_mask)) + 1
        if before >= dim:
            return count, False
        latents[count] = before
        levels[count] = np.int64((rest >> np.uint64(shift)) & level_mask) + 1
        count += 1
        at += used
        # In two steps, since all 64 bits may be used up, and no shift goes as far as that.
        word = word >> np.uint64(used - 1) >> np.uint64(1)
        valid -= used


@jit()
def decode_rows(
    rows: np.ndarray,
    positions: np.ndarray,
    layout: Layout,
    steps: np.ndarray,
    latents: np.ndarray,
    values: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Decode chosen rows into arrays that exist; latents ascend, and what lies behind those of a row is left as it is.

    Args:
        rows: uint8, shape (n, row_bytes), contiguous.
        positions: which rows, in [0, n), shape (m,).
        layout: of the rows.
        steps: of every scale, float32, shape (256,).
        latents: to fill, integers, shape (m, k).
        values: to fill, float32, shape (m, k).
        counts: to fill: active latents of each row, shape (m,).
    """
    data, size = rows.reshape(-1), rows.shape[1]
    for i in range(len(positions)):
        first = positions[i] * size
        count, _ = _read_row(data, (first, first + size), layout, latents[i], values[i])
        step = steps[data[first]]
        for at in range(count):
            values[i, at] *= step
        counts[i] = count


@jit(fastmath={"reassoc"})
def score_rows(
    rows: np.ndarray,
    positions: np.ndarray,
    layout: Layout,
    steps: np.ndarray,
    projections: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Compute inner products of chosen rows with the projections of one query, straight from the bits.

    Args:
        rows: uint8, shape (n, row_bytes), contiguous.
        positions: which rows, in [0, n), shape (m,).
        layout: of the rows.
        steps: of every scale, float32, shape (256,).
        projections: of the query, float32, shape (dim,).
        scores: to fill, float32, shape (m,).
    """
    data, size = rows.reshape(-1), rows.shape[1]
    latents, levels = np.empty(layout.k, np.int64), np.empty(layout.k, np.float32)
    for i in range(len(positions)):
        first = positions[i] * size
        count, _ = _read_row(data, (first, first + size), layout, latents, levels)
        total = np.float32(0)
        for at in range(count):
            total += levels[at] * projections[np.uint64(latents[at])]
        scores[i] = total * steps[data[first]]


@jit()
def read_levels(
    rows: np.ndarray, positions: np.ndarray, layout: Layout, latents: np.ndarray, levels: np.ndarray
) -> int:
    """Read latents and levels of chosen rows, and find the first that holds bits without a meaning.

    Args:
        rows: uint8, shape (n, row_bytes), contiguous.
        positions: which rows, in [0, n), shape (m,).
        layout: of the rows.
        latents: to fill, integers, shape (m, k); one row to check alone, which is written over.
        levels: to fill, integers, of the same shape.

    Returns:
        the first row that is damaged, -1 if none is; rows behind it are not read.
    """
    data, size = rows.reshape(-1), rows.shape[1]
    keeps = len(latents) == len(positions)
    for i in range(len(positions)):
        first, to = positions[i] * size, i if keeps else 0
        _, is_whole = _read_row(data, (first, first + size), layout, latents[to], levels[to])
        if not is_whole:
            return int(positions[i])
    return -1
