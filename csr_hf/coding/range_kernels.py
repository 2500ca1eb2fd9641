"""Compiled range coder: rows of whole numbers, as few bits each as they are probable.

Numbers are coded in the order 0, 1, -1, 2, -2, ... (Martin 1979, in 32 bits with carries). Every row of bytes can be
decoded, whatever it holds: what lies behind its end counts as zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import jit

TOTAL = 2**16
"""What the frequencies of a context sum to."""
HEADER = 2
"""Bytes before the numbers of a row: its scale and its step."""
MOST_FINE, FINE_AT_ONE, FINE_PER_OCTAVE = 216, 96, 24
"""Finest step, the one that equals the deviation of the widest axis, and how many halve it."""
_PER_QUARTER = FINE_PER_OCTAVE // 4
CONTEXTS, CONTEXT_AT_ONE = 45, 24
"""Contexts, and that of axes that deviate by one step; 4 contexts double the deviation."""
_MASK = np.uint64(2**32 - 1)
_TOP = np.uint64(2**24)
_BYTE, _TOTAL_BITS, _WORD = np.uint64(8), np.uint64(16), np.uint64(32)


class Model(NamedTuple):
    """What each number of a context is worth: how many bits, and which value."""

    cumulative: np.ndarray
    """Frequencies summed in the order of coding, uint32, shape (contexts, 2 * highest + 2)."""
    highest: np.ndarray
    """Largest number of a context, int64, shape (contexts,)."""
    bits: np.ndarray
    """By the size of the number, float32, shape (contexts, highest + 1)."""
    points: np.ndarray
    """Value in steps by the size of the number, float32, shape (contexts, highest + 1)."""


@jit(inline="always")
def _context(spread: int, fine: int) -> int:
    at = spread + (fine - FINE_AT_ONE + _PER_QUARTER // 2) // _PER_QUARTER + CONTEXT_AT_ONE
    return min(max(at, 0), CONTEXTS - 1)


@jit()
def _round_row(row: np.ndarray, spreads: np.ndarray, fine: int, model: Model, levels: np.ndarray) -> float:
    """Round a row to steps, and return how many bits it takes."""
    per_step, total = np.float32(2.0 ** ((fine - FINE_AT_ONE) / FINE_PER_OCTAVE)), np.float32(0)
    for axis in range(row.shape[0]):
        context = _context(spreads[axis], fine)
        highest = model.highest[context]
        size = int(min(abs(row[axis]) * per_step + np.float32(0.5), np.float32(highest)))
        levels[axis] = size if row[axis] >= 0 else -size
        total += model.bits[context, size]
    return float(total)


@jit()
def _carry(out: np.ndarray, at: int) -> None:
    at -= 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += np.uint8(1)


@jit()
def _write_row(levels: np.ndarray, spreads: np.ndarray, fine: int, cumulative: np.ndarray, out: np.ndarray) -> bool:
    """Write the levels of a row, and return whether they fit."""
    low, width, at = np.uint64(0), _MASK, 0
    out[:] = 0
    for axis in range(levels.shape[0]):
        level = levels[axis]
        symbol = 2 * level - 1 if level > 0 else -2 * level
        frequencies = cumulative[_context(spreads[axis], fine)]
        share = width >> _TOTAL_BITS
        low += share * np.uint64(frequencies[symbol])
        width = share * np.uint64(frequencies[symbol + 1] - frequencies[symbol])
        if low > _MASK:
            _carry(out, at)
            low &= _MASK
        while width < _TOP:
            if at == out.shape[0]:
                return False
            out[at] = np.uint8(low >> np.uint64(24))
            at += 1
            low, width = (low << _BYTE) & _MASK, width << _BYTE
    # One byte more tells a number between `low` and its end, unless zeros do.
    if low:
        low += _TOP - np.uint64(1)
        if low > _MASK:
            _carry(out, at)
        elif at == out.shape[0]:
            return bool(low < _TOP)
        else:
            out[at] = np.uint8(low >> np.uint64(24))
    return True


@jit()
def choose_scales(turned: np.ndarray, widths: np.ndarray, scales: np.ndarray) -> None:
    """Choose the scale of each row: how far it deviates, as a share of the deviations of the axes.

    Args:
        turned: residuals along the axes, float32, shape (n, dim).
        widths: deviations of the axes, float32, shape (dim,).
        scales: receives uint8, shape (n,); 0 for a row of zeros.
    """
    dim = turned.shape[1]
    for at in range(turned.shape[0]):
        mean = 0.0
        for axis in range(dim):
            mean += (np.float64(turned[at, axis]) / widths[axis]) ** 2 / dim
        scales[at] = np.uint8(min(max(round(2 * np.log2(mean)) + 128, 1), 255)) if mean > 0 else np.uint8(0)


@jit(inline="always")
def _fine(scale: int, fineness: int) -> int:
    return min(max(fineness + _PER_QUARTER * scale, 0), MOST_FINE)


@jit()
def count_bytes(
    turned: np.ndarray,
    scales: np.ndarray,
    spreads: np.ndarray,
    values: np.ndarray,
    model: Model,
    fineness: int,
    room: int,
) -> float:
    """Estimate the bytes of rows that are rounded to one step.

    Args:
        turned: residuals along the axes, float32, shape (n, dim).
        scales: of `choose_scales`.
        spreads: log2 of each axis' deviation, 0 for the largest, in quarters, int64, shape (dim,).
        values: what a row is divided by, by its scale, float32, shape (256,).
        model: of the levels.
        fineness: of the step; `FINE_PER_OCTAVE` more halve it.
        room: bytes of a row at most.
    """
    dim, total = turned.shape[1], 0.0
    levels, row = np.empty(dim, np.int64), np.empty(dim, np.float32)
    for at in range(turned.shape[0]):
        scale = np.int64(scales[at])
        if scale:
            row[:] = turned[at] / values[scale]
            bits = _round_row(row, spreads, _fine(scale, fineness), model, levels)
            total += min(HEADER + bits / 8 + 0.5, room)
    return total


@jit()
def encode_rows(
    turned: np.ndarray,
    scales: np.ndarray,
    spreads: np.ndarray,
    values: np.ndarray,
    model: Model,
    fineness: int,
    rows: np.ndarray,
) -> None:
    """Round rows to one step and write them; those that do not fit get a coarser one.

    Args:
        turned: as for `count_bytes`.
        scales: likewise.
        spreads: likewise.
        values: likewise.
        model: likewise.
        fineness: likewise.
        rows: receives uint8, shape (n, room); zeros behind the end of a row.
    """
    n, dim = turned.shape
    levels, row = np.empty(dim, np.int64), np.empty(dim, np.float32)
    for at in range(n):
        rows[at] = 0
        scale = np.int64(scales[at])
        if scale == 0:
            continue
        row[:] = turned[at] / values[scale]
        fine = _fine(scale, fineness)
        _round_row(row, spreads, fine, model, levels)
        while not _write_row(levels, spreads, fine, model.cumulative, rows[at, HEADER:]) and fine > 0:
            fine -= 1
            _round_row(row, spreads, fine, model, levels)
        rows[at, 0], rows[at, 1] = np.uint8(scale), np.uint8(fine)


@jit()
def decode_rows(rows: np.ndarray, spreads: np.ndarray, values: np.ndarray, model: Model, turned: np.ndarray) -> None:
    """Read what `encode_rows` wrote.

    Args:
        rows: uint8, shape (n, room); zeros behind the end of a row may be missing.
        spreads: as for `encode_rows`.
        values: likewise.
        model: likewise.
        turned: receives residuals along the axes, float32, shape (n, dim).
    """
    n, size = rows.shape
    for row in range(n):
        if rows[row, 0] == 0:
            turned[row] = 0
            continue
        fine = min(int(rows[row, 1]), MOST_FINE)
        step = values[rows[row, 0]] * np.float32(2.0 ** ((FINE_AT_ONE - fine) / FINE_PER_OCTAVE))
        code, width, at = np.uint64(0), _MASK, HEADER
        for _ in range(4):
            code = code << _BYTE | np.uint64(rows[row, at] if at < size else 0)
            at += 1
        for axis in range(turned.shape[1]):
            context = _context(spreads[axis], fine)
            frequencies = model.cumulative[context]
            share = width >> _TOTAL_BITS
            value = min(code // share, np.uint64(TOTAL - 1))
            symbol = 0
            while frequencies[symbol + 1] <= value:
                symbol += 1
            code = (code - share * np.uint64(frequencies[symbol])) & _MASK
            width = share * np.uint64(frequencies[symbol + 1] - frequencies[symbol])
            while width < _TOP:
                code = (code << _BYTE | np.uint64(rows[row, at] if at < size else 0)) & _MASK
                width <<= _BYTE
                at += 1
            value_of = step * model.points[context, (symbol + 1) // 2]
            turned[row, axis] = value_of if symbol % 2 else -value_of
