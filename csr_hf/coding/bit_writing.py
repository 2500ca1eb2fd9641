"""Compiled loops that make packed rows: round values to levels, measure the bits of every row, write them."""

from __future__ import annotations

import numpy as np

from csr_hf.coding.bit_reading import Layout
from csr_hf.plumbing.jit import jit

OUT_OF_RANGE, TWICE, NO_LEVEL = 1, 2, 3
"""What `measure_rows` finds wrong with a row: a latent beyond the axis, one named twice, a level beyond the bits."""

_HALF = np.float32(0.5)
_LEVEL_BITS = 9
_FEW = 64
"""Keys that are sorted faster as they come."""


@jit()
def round_rows(values: np.ndarray, steps: np.ndarray, highest: int, levels: np.ndarray, scales: np.ndarray) -> None:
    """Round every row of values to levels, by the scale with the least squared error.

    Args:
        values: float32, not negative, shape (n, k).
        steps: of every scale, float32, descending, shape (256,).
        highest: level.
        levels: to fill, 0 for values below half a step, shape (n, k).
        scales: to fill, shape (n,); 0 for rows of zeros.
    """
    top = np.float32(highest)
    for row in range(len(values)):
        own = values[row]
        largest = np.float32(0)
        for at in range(len(own)):
            largest = max(largest, own[at])
        best, least = 0, np.inf
        if largest > 0:
            for scale in range(256):
                step = steps[scale]
                # Half of a step above the largest value is as good; the smallest is all that is left for tiny rows.
                if step > largest and scale < 255:
                    continue
                # Clipping the largest value may serve the others, until that alone costs more, as it does ever after.
                clipped = np.float64(max(largest - step * top, np.float32(0)))
                if clipped * clipped > least:
                    break
                error = _squared_error(own, step, top)
                if error < least:
                    best, least = scale, error
        scales[row] = best
        inverse = np.float32(1) / steps[best]
        for at in range(len(own)):
            levels[row, at] = np.int64(min(top, np.floor(own[at] * inverse + _HALF)))


@jit()
def _squared_error(values: np.ndarray, step: np.float32, top: np.float32) -> float:
    total, inverse = 0.0, np.float32(1) / step
    for at in range(len(values)):
        level = min(top, np.floor(values[at] * inverse + _HALF))
        difference = np.float64(values[at] - level * step)
        total += difference * difference
    return total


@jit(inline="always")
def _sort_row(indices: np.ndarray, levels: np.ndarray, keys: np.ndarray) -> int:
    """Fill `keys` with latent and level of what is active in a row, by latent; return how many there are."""
    count, is_narrow = 0, len(indices) <= _FEW
    for at in range(len(indices)):
        if levels[at] > 0:
            key = (np.int64(indices[at]) << _LEVEL_BITS) | np.int64(levels[at])
            to = count
            if is_narrow:
                while to > 0 and keys[to - 1] > key:
                    keys[to] = keys[to - 1]
                    to -= 1
            keys[to] = key
            count += 1
    if not is_narrow:
        keys[:count].sort()
    return count


@jit()
def measure_rows(
    indices: np.ndarray, levels: np.ndarray, dim: int, bits: int, shifts: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Find the bits of the largest row for every shift that may be taken, and check the rows.

    Args:
        indices: latents, shape (n, k).
        levels: 0 where unused, shape (n, k).
        dim: length of the latents axis.
        bits: of a level.
        shifts: to try, shape (m,).

    Returns:
        bits of the largest row, scale included, shape (m,); the first row that is wrong, -1 if none is; what is wrong.
    """
    keys, most = np.empty(indices.shape[1], np.int64), np.full(len(shifts), 8, np.int64)
    for row in range(len(indices)):
        for at in range(indices.shape[1]):
            if levels[row, at] > 0 and not 0 <= indices[row, at] < dim:
                return most, row, OUT_OF_RANGE
            if not 0 <= levels[row, at] <= 1 << bits:
                return most, row, NO_LEVEL
        count = _sort_row(indices[row], levels[row], keys)
        for at in range(1, count):
            if keys[at] >> _LEVEL_BITS == keys[at - 1] >> _LEVEL_BITS:
                return most, row, TWICE
        for number in range(len(shifts)):
            shift, before = shifts[number], np.int64(-1)
            total = 8 + count * (1 + shift + bits)
            for at in range(count):
                latent = keys[at] >> _LEVEL_BITS
                total += (latent - before - 1) >> shift
                before = latent
            most[number] = max(most[number], total)
    return most, -1, 0


@jit()
def write_rows(indices: np.ndarray, levels: np.ndarray, scales: np.ndarray, layout: Layout, rows: np.ndarray) -> None:
    """Write rows that `measure_rows` has found right, into bytes that are zeros and suffice.

    Args:
        indices: latents, shape (n, k).
        levels: 0 where unused, shape (n, k).
        scales: uint8, shape (n,); rows without active latents get 0.
        layout: of the rows.
        rows: to fill, uint8, shape (n, row_bytes).
    """
    keys, bits, shift = np.empty(indices.shape[1], np.int64), layout.bits, layout.shift
    for row in range(len(indices)):
        count = _sort_row(indices[row], levels[row], keys)
        rows[row, 0] = scales[row] if count else 0
        at, before = 8, np.int64(-1)
        for number in range(count):
            latent, level = keys[number] >> _LEVEL_BITS, keys[number] & ((1 << _LEVEL_BITS) - 1)
            gap = latent - before - 1
            before = latent
            at += gap >> shift
            low = gap & ((1 << shift) - 1)
            word = np.uint64(1 | (low << 1) | ((level - 1) << (1 + shift))) << np.uint64(at & 7)
            byte = at >> 3
            while word:
                rows[row, byte] |= np.uint8(word & np.uint64(255))
                word >>= np.uint64(8)
                byte += 1
            at += 1 + shift + bits


@jit()
def sort_by_level(latents: np.ndarray, levels: np.ndarray, found: np.ndarray, sorted_levels: np.ndarray) -> None:
    """Bring the latents of every row into the order of their levels, largest first, ties by latent.

    Args:
        latents: ascending, shape (n, k).
        levels: uint16 from 0 (unused, behind the others) to 256, shape (n, k).
        found: to fill with latents, 0 where unused, shape (n, k).
        sorted_levels: to fill with their levels, shape (n, k).
    """
    starts = np.zeros(258, np.int64)
    for row in range(len(latents)):
        starts[:] = 0
        for at in range(latents.shape[1]):
            starts[257 - levels[row, at]] += 1
        # Level 256 comes first: its latents begin at 0.
        for number in range(1, 258):
            starts[number] += starts[number - 1]
        for at in range(latents.shape[1]):
            level = levels[row, at]
            to = starts[256 - level]
            starts[256 - level] = to + 1
            found[row, to] = latents[row, at] if level else 0
            sorted_levels[row, to] = level
