"""Compiled range coder: rows of whole numbers, as few bits each as they are probable, in rows of equal size.

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
MOST_FINE, FINE_AT_ONE = 144, 64
"""Finest step, and the one that equals the deviation of the widest axis; 16 of them halve it."""
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
    at = spread + (fine - FINE_AT_ONE + 2) // 4 + CONTEXT_AT_ONE
    return min(max(at, 0), CONTEXTS - 1)


@jit()
def _round_row(row: np.ndarray, spreads: np.ndarray, fine: int, model: Model, levels: np.ndarray) -> float:
    """Round a row to steps, and return how many bits it takes."""
    per_step, total = np.float32(2.0 ** ((fine - FINE_AT_ONE) / 16)), np.float32(0)
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
def encode_rows(
    turned: np.ndarray, spreads: np.ndarray, scales: np.ndarray, model: Model, widths: np.ndarray, rows: np.ndarray
) -> None:
    """Round each row to the finest step whose levels fit into its bytes.

    Args:
        turned: residuals along the axes, float32, shape (n, dim).
        spreads: log2 of each axis' deviation, 0 for the largest, in quarters, int64, shape (dim,).
        scales: what a row is divided by, by its first byte, float32, shape (256,).
        model: of the levels.
        widths: deviations of the axes, float32, shape (dim,).
        rows: receives uint8, shape (n, size).
    """
    n, dim = turned.shape
    levels, row = np.empty(dim, np.int64), np.empty(dim, np.float32)
    room = np.float32((rows.shape[1] - HEADER) * 8)
    for at in range(n):
        rows[at] = 0
        mean = 0.0
        for axis in range(dim):
            mean += (np.float64(turned[at, axis]) / widths[axis]) ** 2 / dim
        if not mean > 0:
            continue
        scale = int(min(max(round(2 * np.log2(mean)) + 128, 1), 255))
        row[:] = turned[at] / scales[scale]
        least, most = 0, MOST_FINE
        while least < most:
            middle = (least + most + 1) // 2
            if _round_row(row, spreads, middle, model, levels) <= room:
                least = middle
            else:
                most = middle - 1
        fine = least
        _round_row(row, spreads, fine, model, levels)
        while not _write_row(levels, spreads, fine, model.cumulative, rows[at, HEADER:]) and fine > 0:
            fine -= 1
            _round_row(row, spreads, fine, model, levels)
        rows[at, 0], rows[at, 1] = np.uint8(scale), np.uint8(fine)


@jit()
def decode_rows(rows: np.ndarray, spreads: np.ndarray, scales: np.ndarray, model: Model, turned: np.ndarray) -> None:
    """Read what `encode_rows` wrote.

    Args:
        rows: uint8, shape (n, size).
        spreads: as for `encode_rows`.
        scales: likewise.
        model: likewise.
        turned: receives residuals along the axes, float32, shape (n, dim).
    """
    n, size = rows.shape
    for row in range(n):
        if rows[row, 0] == 0:
            turned[row] = 0
            continue
        fine = min(int(rows[row, 1]), MOST_FINE)
        step = scales[rows[row, 0]] * np.float32(2.0 ** ((FINE_AT_ONE - fine) / 16))
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
