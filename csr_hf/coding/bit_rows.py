"""Turn values into levels, levels into rows of bits, and rows into levels, on all cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from csr_hf.coding import bit_reading, bit_writing
from csr_hf.coding.bit_reading import Layout
from csr_hf.plumbing.threads import available_threads, run
from csr_hf.sparse_codes import LARGEST_DIM, index_dtype

LEAST_BASE, LARGEST_BASE = 2.0**-94, 2.0**119
"""Of steps, so that all of them are normal numbers."""
_CHUNK = 8192
_MOST_BITS, _LARGEST_SHIFT = 8, 31
_HIGHEST_LEVEL = 255
_WRONG = {
    bit_writing.OUT_OF_RANGE: "names a latent outside of [0, {dim})",
    bit_writing.TWICE: "names a latent twice",
    bit_writing.NO_LEVEL: "has a level that is not from 0 to {highest}",
}


class Levels(NamedTuple):
    """Rows of whole numbers, as they are packed."""

    indices: np.ndarray
    """Active latents, integers, shape (n, k): in any order to be packed; ascending, 0 where unused, once read."""
    levels: np.ndarray
    """From 1 to 2**bits, 0 where unused, uint16, shape (n, k)."""
    scales: np.ndarray
    """Of each row: a level is worth base * 2**(-scale / 8), uint8, shape (n,)."""


def check_layout(layout: Layout) -> Layout:
    """Return a layout of plain integers.

    Raises:
        ValueError: if one of them is no integer, or out of range.
    """
    dim, k, bits, shift = layout
    check_bits(bits)
    for name, number, least, most in (
        ("dim", dim, 1, LARGEST_DIM),
        ("shift", shift, 0, _LARGEST_SHIFT),
        ("k", k, 0, dim),
    ):
        if not isinstance(number, int | np.integer) or not least <= number <= most:
            raise ValueError(f"`{name}` ({number!r}) must be an integer from {least} to {most}.")
    return Layout(*map(int, layout))


def check_bits(bits: int) -> int:
    """Return the bits of a level as a plain integer.

    Raises:
        ValueError: if they are no integer from 1 to 8.
    """
    if not isinstance(bits, int | np.integer) or not 1 <= bits <= _MOST_BITS:
        raise ValueError(
            f"`bits` ({bits!r}) must be an integer from 1 to {_MOST_BITS}: 3 or 4 suffice for most heads."
        )
    return int(bits)


def step_sizes(base: float) -> np.ndarray:
    """Return what a level is worth by the scale of its row, float32, shape (256,): `base` at most."""
    steps: np.ndarray = (base * 2.0 ** (-np.arange(256) / 8)).astype(np.float32)
    return steps


def round_values(values: np.ndarray, steps: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round every row of values to levels, by the scale with the least squared error.

    Args:
        values: not negative, finite, shape (n, k).
        steps: of every scale, float32, descending, shape (256,).
        bits: of a level. Levels end at 255, so that they are bytes.

    Returns:
        levels, 0 for values below half a step, uint8, shape (n, k), and scales, uint8, shape (n,).
    """
    levels, scales = np.empty(values.shape, np.uint8), np.empty(len(values), np.uint8)
    highest = min(2**bits, _HIGHEST_LEVEL)

    def round_chunk(rows: slice) -> None:
        bit_writing.round_rows(np.array(values[rows], np.float32), steps, highest, levels[rows], scales[rows])

    _run_chunks(round_chunk, len(values))
    return levels, scales


def write_levels(
    indices: np.ndarray, levels: np.ndarray, scales: np.ndarray, dim: int, bits: int
) -> tuple[np.ndarray, Layout]:
    """Write levels as rows of bits, which are as small as the largest of them allows.

    Args:
        indices: latents in any order, integers, shape (n, k).
        levels: from 1 to 2**bits, 0 where unused, integers, shape (n, k).
        scales: of each row, uint8, shape (n,).
        dim: length of the latents axis.
        bits: of a level.

    Returns:
        rows, uint8, shape (n, row_bytes), and their layout; its k is the width of `indices`, or what the rows can hold
        where that is less.

    Raises:
        ValueError: if shapes or types differ from these, `dim` or `bits` are out of range, or a row names a latent
            twice or out of range, or has a level above 2**bits.
    """
    _check_arrays(indices, levels, scales)
    n, k = indices.shape
    dim, _, bits, _ = check_layout(Layout(dim, 0, bits, 0))
    shifts = _likely_shifts(dim, np.count_nonzero(levels) / max(n, 1))

    def measure(rows: slice) -> tuple[int, np.ndarray, int, int]:
        return rows.start, *bit_writing.measure_rows(*_typed(indices, levels, rows), dim, bits, shifts)

    most = np.full(len(shifts), 8)
    for start, found, row, wrong in _run_chunks(measure, n):
        if wrong:
            what = _WRONG[wrong].format(dim=dim, highest=2**bits)
            raise ValueError(f"row {start + row} of the codes {what}. Encode that text again.")
        most = np.maximum(most, found)
    best = int(np.argmin(most))
    packed = np.zeros((n, -(-int(most[best]) // 8)), np.uint8)
    fitting = (packed.shape[1] - 1) * 8 // (1 + int(shifts[best]) + bits)
    layout = Layout(dim, min(k, fitting), bits, int(shifts[best]))

    def write(rows: slice) -> None:
        bit_writing.write_rows(*_typed(indices, levels, rows), np.array(scales[rows]), layout, packed[rows])

    _run_chunks(write, n)
    return packed, layout


def read_levels(rows: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Read the latents and levels of all rows.

    Args:
        rows: uint8, shape (n, row_bytes).
        layout: of the rows.

    Returns:
        latents, ascending, uint16 or int32, and levels, uint16, both of shape (n, k) and 0 where unused.

    Raises:
        ValueError: for a row whose bits mean nothing.
    """
    indices = np.zeros((len(rows), layout.k), index_dtype(layout.dim))
    levels = np.zeros((len(rows), layout.k), np.uint16)
    _read(rows, layout, lambda own: (indices[own], levels[own]))
    return indices, levels


def check_rows(rows: np.ndarray, layout: Layout) -> None:
    """Read all rows, and keep nothing.

    Raises:
        ValueError: for a row whose bits mean nothing.
    """
    dtype = index_dtype(layout.dim)
    _read(rows, layout, lambda _: (np.empty((1, layout.k), dtype), np.empty((1, layout.k), np.uint16)))


def sort_levels(indices: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring latents of every row into the order of their levels, largest first, ties by latent, unused ones last."""
    found, sorted_levels = np.empty_like(indices), np.empty_like(levels)

    def sort(rows: slice) -> None:
        bit_writing.sort_by_level(indices[rows], levels[rows], found[rows], sorted_levels[rows])

    _run_chunks(sort, len(indices))
    return found, sorted_levels


def _read(rows: np.ndarray, layout: Layout, room: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> None:
    """Read rows into arrays that `room` gives for each slice of them."""

    def read_chunk(own: slice) -> int:
        return int(bit_reading.read_levels(rows, np.arange(own.start, own.stop), layout, *room(own)))

    for row in _run_chunks(read_chunk, len(rows)):
        if row >= 0:
            raise ValueError(
                f"row {row} holds bits that mean no code of at most {layout.k} latents below {layout.dim}"
            )


def _likely_shifts(dim: int, mean: float) -> np.ndarray:
    """Return the best number of low bits for gaps of random latents, `mean` of them in a row, and its neighbors."""
    middle = math.floor(math.log2(max(math.log(2) * dim / max(mean, 1), 1)))
    return np.arange(max(middle - 1, 0), min(middle + 1, _LARGEST_SHIFT) + 1)


def _check_arrays(indices: np.ndarray, levels: np.ndarray, scales: np.ndarray) -> None:
    if indices.ndim != 2 or indices.shape != levels.shape or scales.shape != indices.shape[:1]:
        raise ValueError(
            f"`indices` {indices.shape} and `levels` {levels.shape} must have the shape (n, k), and `scales` "
            f"{scales.shape} (n,)."
        )
    if indices.dtype.kind not in "iu" or levels.dtype.kind not in "iu" or scales.dtype != np.uint8:
        raise ValueError(
            f"`indices` ({indices.dtype}) and `levels` ({levels.dtype}) must be integers, and `scales` "
            f"({scales.dtype}) uint8."
        )


def _typed(indices: np.ndarray, levels: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows in the one type that kernels are compiled for, in which no number wraps around."""
    return np.array(indices[rows], np.int64), np.array(levels[rows], np.int64)


def _run_chunks(function: Callable[[slice], Any], n: int) -> list[Any]:
    """Call a function for slices of n rows, on all cores; return what it returns."""
    slices = [(slice(start, min(start + _CHUNK, n)),) for start in range(0, n, _CHUNK)]
    return run(function, slices, available_threads())
