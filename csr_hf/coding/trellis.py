"""Compiled trellis-coded quantization: rows of numbers to levels, and levels to as few bits as they are probable.

Two quantizers take turns: one has the even multiples of a step, the other 0 and the odd ones. Which is next follows
from the parities of the levels so far (four states, as the dependent quantization of VVC, ITU-T H.266), so that levels
are as far apart as by two steps, and the numbers that can be meant as near as by one. Levels are chosen together, by
the least sum of squared error and of bits (Viterbi), and written in the order 0, 1, -1, 2, -2, ...
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.coding.range_coder import end_writing, peek, put, start_reading, start_writing, take
from csr_hf.plumbing.jit import jit

HEADER = 2
"""Bytes before the numbers of a row: its scale and its step."""
MOST_FINE, FINE_AT_ONE, FINE_PER_OCTAVE = 240, 96, 24
"""Finest step, the one that equals the deviation of the widest axis, and how many halve it."""
_PER_QUARTER = FINE_PER_OCTAVE // 4
CONTEXTS, CONTEXT_AT_ONE = 49, 24
"""Contexts, and that of axes that deviate by one step; 4 contexts double the deviation."""
_NEXT_STATE = np.array([[0, 2], [2, 0], [1, 3], [3, 1]])
"""State that follows an even and an odd level; the first two states have the even multiples."""
_WORTH = np.float32(0.35)
"""Squared steps that a bit is worth: what a finer step takes away for it."""
_UNREACHED = np.float32(1e30)


class Model(NamedTuple):
    """What each level of a context is worth by each of the two quantizers: how many bits, and which value."""

    cumulative: np.ndarray
    """Frequencies summed in the order of coding, int64, shape (contexts, 2, 2 * highest + 2)."""
    highest: np.ndarray
    """Largest level of a context, int64, shape (contexts,)."""
    bits: np.ndarray
    """By the size of the level, float32, shape (contexts, 2, highest + 1)."""
    points: np.ndarray
    """Value in steps by the size of the level, float32, shape (contexts, 2, highest + 1)."""


class Trellis(NamedTuple):
    """Room to choose the levels of a row in."""

    levels: np.ndarray
    """Sizes of the levels that lead to each state, int16, shape (dim, 4)."""
    states: np.ndarray
    """States that they come from, int8, shape (dim, 4)."""


@jit(inline="always")
def _context(spread: int, fine: int) -> int:
    at = spread + (fine - FINE_AT_ONE + _PER_QUARTER // 2) // _PER_QUARTER + CONTEXT_AT_ONE
    return min(max(at, 0), CONTEXTS - 1)


@jit()
def make_trellis(dim: int) -> Trellis:
    """Make room for rows of a width."""
    return Trellis(np.empty((dim, 4), np.int16), np.empty((dim, 4), np.int8))


@jit()
def choose_levels(
    row: np.ndarray, spreads: np.ndarray, fine: int, model: Model, trellis: Trellis, levels: np.ndarray
) -> float:
    """Choose the levels of a row by the least sum of squared error and of bits, and return how many bits they take.

    Args:
        row: divided by its scale, float32, shape (dim,).
        spreads: log2 of each axis' deviation, 0 for the largest, in quarters, int64, shape (dim,).
        fine: of the step.
        model: of the levels.
        trellis: room.
        levels: receives int64, shape (dim,).
    """
    per_step, dim = np.float32(2.0 ** ((fine - FINE_AT_ONE) / FINE_PER_OCTAVE)), row.shape[0]
    costs, reached = np.full(4, _UNREACHED, np.float32), np.empty(4, np.float32)
    costs[0] = 0
    for axis in range(dim):
        context = _context(spreads[axis], fine)
        highest = model.highest[context]
        size = min(abs(row[axis]) * per_step, np.float32(2 * highest))
        reached[:] = _UNREACHED
        for quantizer in range(2):
            nearest = int(size + np.float32(quantizer)) // 2
            for tried in (nearest, nearest + 1, 0):
                level = min(tried, highest)
                distance = size - model.points[context, quantizer, level]
                cost = distance * distance + _WORTH * model.bits[context, quantizer, level]
                for state in (2 * quantizer, 2 * quantizer + 1):
                    following = _NEXT_STATE[state, level & 1]
                    if costs[state] + cost < reached[following]:
                        reached[following] = costs[state] + cost
                        trellis.levels[axis, following] = level
                        trellis.states[axis, following] = state
        costs[:] = reached
    state, bits = int(np.argmin(costs)), np.float32(0)
    for axis in range(dim - 1, -1, -1):
        level, state = trellis.levels[axis, state], trellis.states[axis, state]
        bits += model.bits[_context(spreads[axis], fine), state // 2, level]
        levels[axis] = level if row[axis] >= 0 else -level
    return float(bits)


@jit()
def _write_row(levels: np.ndarray, spreads: np.ndarray, fine: int, cumulative: np.ndarray, row: np.ndarray) -> bool:
    """Write the levels of a row behind its header, and return whether they fit."""
    row[:] = 0
    writer, state = start_writing(HEADER), 0
    for axis in range(levels.shape[0]):
        level = levels[axis]
        symbol = 2 * level - 1 if level > 0 else -2 * level
        sums = cumulative[_context(spreads[axis], fine), state // 2]
        writer = put(row, writer, sums[symbol], sums[symbol + 1] - sums[symbol])
        state = _NEXT_STATE[state, level & 1]
    return end_writing(row, writer)


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
    """Estimate the bytes of rows that are rounded by one step.

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
    levels, row, trellis = np.empty(dim, np.int64), np.empty(dim, np.float32), make_trellis(dim)
    for at in range(turned.shape[0]):
        scale = np.int64(scales[at])
        if scale:
            row[:] = turned[at] / values[scale]
            bits = choose_levels(row, spreads, _fine(scale, fineness), model, trellis, levels)
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
    """Round rows by one step and write them; those that do not fit get a coarser one.

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
    levels, row, trellis = np.empty(dim, np.int64), np.empty(dim, np.float32), make_trellis(dim)
    for at in range(n):
        rows[at] = 0
        scale = np.int64(scales[at])
        if scale == 0:
            continue
        row[:] = turned[at] / values[scale]
        fine = _fine(scale, fineness)
        choose_levels(row, spreads, fine, model, trellis, levels)
        while not _write_row(levels, spreads, fine, model.cumulative, rows[at]) and fine > 0:
            fine -= 1
            choose_levels(row, spreads, fine, model, trellis, levels)
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
    for number in range(rows.shape[0]):
        row = rows[number]
        if row[0] == 0:
            turned[number] = 0
            continue
        fine = min(int(row[1]), MOST_FINE)
        step = values[row[0]] * np.float32(2.0 ** ((FINE_AT_ONE - fine) / FINE_PER_OCTAVE))
        reader, state = start_reading(row, HEADER), 0
        for axis in range(turned.shape[1]):
            context = _context(spreads[axis], fine)
            sums, value, symbol = model.cumulative[context, state // 2], peek(reader), 0
            while sums[symbol + 1] <= value:
                symbol += 1
            reader = take(row, reader, sums[symbol], sums[symbol + 1] - sums[symbol])
            level = (symbol + 1) // 2
            size = step * model.points[context, state // 2, level]
            turned[number, axis] = size if symbol % 2 else -size
            state = _NEXT_STATE[state, level & 1]
