"""Round the values of chosen latents to few levels, so that the whole code stays as close as it can.

Rounding each value by itself adds up the errors of all. Here one level after the other moves to where it repairs what
the others leave, until none moves: coordinate descent on whole numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_rows import Levels, step_sizes
from csr_hf.coding.pursuit import Chosen, Pursuit, fit_values
from csr_hf.plumbing.jit import jit
from csr_hf.plumbing.threads import available_threads, run

TASK_ROWS = 64
_SWEEPS = 10
# Steps to try, of an eighth of an octave each, around the smallest that clips no value.
_SMALLER_TRIED, _LARGER_TRIED, _FIXED_LARGER_TRIED, _PATIENCE = 6, 8, 2, 1
_ZERO_BITS = np.float32(-3)
"""Of a latent that is left out, beside level 1."""


class Rounding(NamedTuple):
    """How values are rounded."""

    gram: np.ndarray
    """Inner products of unit atoms, float32, shape (hidden_dim, hidden_dim)."""
    norms: np.ndarray
    """Of the atoms, float32, shape (hidden_dim,)."""
    steps: np.ndarray
    """By scale, float32, shape (256,)."""
    highest: int
    """Level."""
    worth: float
    """Of a bit, as a share of what the last latent explains; 0 where all levels take as many bits."""


class Room(NamedTuple):
    """Memory for one row after the other, with what is known of the row that is rounded."""

    products: np.ndarray
    """Inner products of the chosen atoms, float32, shape (k, k)."""
    factors: np.ndarray
    """What `fit_values` goes on with, float32, shape (k + 2, k)."""
    known: np.ndarray
    """How many latents have products, and how many have factors, int64, shape (2,): 0 for another row."""


def fitting_shift(dim: int, stream_bits: int, bits: int) -> int:
    """Return the low bits of a gap by which most latents surely fit into a stream of so many bits."""
    return max(range(17), key=lambda shift: (stream_bits - (dim >> shift)) / (1 + shift + bits))


def largest_row_bytes(dim: int, k: int, bits: int) -> int:
    """Return the bytes that a packed row of k latents never exceeds, by the best `shift`."""
    return 1 + min(math.ceil((k * (1 + shift + bits) + (dim >> shift)) / 8) for shift in range(17))


def most_latents(dim: int, row_bytes: int, bits: int) -> int:
    """Return how many latents of any code surely fit into a packed row of so many bytes, and a quarter more."""
    stream = 8 * (row_bytes - 1)
    shift = fitting_shift(dim, stream, bits)
    sure = (stream - (dim >> shift)) // (1 + shift + bits)
    return min(dim, max(1, sure) * 5 // 4 + 2, max(1, stream // (1 + shift + bits)))


def round_chosen(pursuit: Pursuit, chosen: Chosen, bits: int, row_bytes: int) -> tuple[Levels, float]:
    """Round values to levels from 1 to 2**bits, of as many chosen latents as fit into packed rows.

    Args:
        pursuit: that chose them.
        chosen: latents in the order of their choice: the last ones are left out where a row is full.
        bits: of a level.
        row_bytes: of a packed row at most.

    Returns:
        what `PackedCodes.from_levels` takes, and the largest step, a power of two.
    """
    largest = float(chosen.values.max(initial=0))
    base = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
    shape = chosen.indices.shape
    found = Levels(chosen.indices, np.zeros(shape, np.uint16), np.zeros(shape[0], np.uint8))
    stream = 8 * (row_bytes - 1)
    room = np.array([stream, fitting_shift(len(pursuit.gram), stream, bits), bits])
    rounding = Rounding(pursuit.gram, pursuit.norms, step_sizes(base), 2**bits, 0.0)
    tasks = []
    for start in range(0, shape[0], TASK_ROWS):
        rows = slice(start, start + TASK_ROWS)
        part = Chosen(*(array[rows] for array in chosen))
        tasks.append((rounding, room, part, found.levels[rows], found.scales[rows]))
    run(_round_rows, tasks, available_threads())
    return found, base


@jit()
def _round_rows(
    rounding: Rounding, limits: np.ndarray, chosen: Chosen, levels: np.ndarray, scales: np.ndarray
) -> None:
    """Round each row, see `round_chosen`; limits are the bits of a stream, of a gap and of a level."""
    found = np.empty(chosen.indices.shape[1], np.float32)
    room = make_room(chosen.indices.shape[1])
    for row in range(chosen.indices.shape[0]):
        count = _count_fitting(chosen.indices[row], chosen.counts[row], limits)
        room.known[:] = 0
        scales[row] = round_row(rounding, chosen, row, (count, found), room)
        for place in range(count):
            levels[row, place] = np.uint16(found[place])


@jit()
def make_room(k: int) -> Room:
    """Make room for rows of at most k latents."""
    return Room(np.empty((k, k), np.float32), np.empty((k + 2, k), np.float32), np.zeros(2, np.int64))


@jit(fastmath={"reassoc", "contract", "nsz"})
def round_row(rounding: Rounding, chosen: Chosen, row: int, wanted: tuple[int, np.ndarray], room: Room) -> int:
    """Round the values of the first latents of a row to whole levels, and return their scale.

    Args:
        rounding: how.
        chosen: latents of all rows.
        row: which of them.
        wanted: how many latents, and what receives their levels: whole numbers, float32, shape (k,).
        room: `known` is 0 unless the last call was for the same row.
    """
    count, levels = wanted
    target, steps, highest = chosen.targets[row], rounding.steps, np.float32(rounding.highest)
    products, fitted = room.products, _fit_first(rounding, chosen, row, count, room)
    largest = fitted.max() if count else np.float32(0)
    levels[:count] = 0
    if largest == 0:
        return 0
    # Where the row is too small beside others for any step, all its levels are 0.
    first = min(int(np.ceil(np.float32(8) * np.log2(steps[0] * highest / largest))), 255)
    tried, most, best = np.empty(count, np.float32), np.float32(-np.inf), 0
    # Larger steps make more zeros, and levels of fewer bits.
    larger, patience = (_LARGER_TRIED, _PATIENCE) if rounding.worth else (_FIXED_LARGER_TRIED, _SMALLER_TRIED)
    worth = np.float32(rounding.worth) * fitted[count - 1] ** 2 * products[count - 1, count - 1]
    for direction, start, reach in ((-1, first, larger + 1), (1, first + 1, _SMALLER_TRIED)):
        worse = 0
        for scale in range(start, start + direction * reach, direction):
            if scale < 0 or scale > 255 or worse > patience:
                break
            step = steps[scale]
            for place in range(count):
                tried[place] = min(np.rint(fitted[place] / step), highest)
            gain = _move_levels(products, target, tried, (count, step, highest), room.factors[0])
            if worth:
                for place in range(count):
                    gain -= worth * (np.log2(tried[place] + np.float32(0.5)) if tried[place] else _ZERO_BITS)
            worse += 1
            if gain > most:
                most, best, worse = gain, scale, 0
                levels[:count] = tried
    return best


@jit(fastmath={"reassoc", "contract", "nsz"})
def _fit_first(rounding: Rounding, chosen: Chosen, row: int, count: int, room: Room) -> np.ndarray:
    """Fit the values of the first `count` latents of a row, going on with what is known of it."""
    known, fitted = room.known, chosen.values[row, :count].copy()
    if count > known[0]:
        _gather_products(rounding.gram, rounding.norms, chosen.indices[row], (known[0], count), room.products)
        known[0] = count
    if count < chosen.counts[row]:
        fit_values(room.products, chosen.targets[row], fitted, (count, min(known[1], count)), room.factors)
        known[1] = max(known[1], count)
    return fitted


@jit()
def _gather_products(
    gram: np.ndarray, norms: np.ndarray, latents: np.ndarray, span: tuple[int, int], products: np.ndarray
) -> None:
    """Fill in the inner products of the atoms of the first latents, of which those of some are there."""
    known, count = span
    for one in range(count):
        for other in range(known if one < known else 0, count):
            size = norms[latents[one]] * norms[latents[other]]
            products[one, other] = gram[latents[one], latents[other]] * size


@jit()
def _count_fitting(latents: np.ndarray, count: int, limits: np.ndarray) -> int:
    """Count the first latents that fit into the bits of a row."""
    stream, shift, bits = limits
    fits, exceeds = 0, count + 1
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        ordered = np.sort(latents[:middle])
        used, before = middle * (1 + shift + bits), -1
        for latent in ordered:
            used += (latent - before - 1) >> shift
            before = latent
        if used <= stream:
            fits = middle
        else:
            exceeds = middle
    return fits


@jit(fastmath={"reassoc", "contract", "nsz"})
def _move_levels(
    products: np.ndarray,
    target: np.ndarray,
    levels: np.ndarray,
    sizes: tuple[int, np.float32, np.float32],
    rest: np.ndarray,
) -> np.float32:
    """Move levels in place, one after the other, until none comes closer; return by how much all of them explain.

    Args:
        products: inner products of the chosen atoms, shape (k, k).
        target: those of the atoms with the embedding, shape (k,).
        levels: whole numbers, shape (k,).
        sizes: how many levels are in use, the step, and the highest level.
        rest: room for as many numbers.
    """
    count, step, highest = sizes
    for place in range(count):
        rest[place] = target[place] / step
    for place in range(count):
        for other in range(count):
            rest[other] -= levels[place] * products[place, other]
    for _ in range(_SWEEPS):
        is_moved = False
        for place in range(count):
            level = np.rint(levels[place] + rest[place] / products[place, place])
            change = min(max(level, np.float32(0)), highest) - levels[place]
            if change != 0:
                is_moved = True
                levels[place] += change
                for other in range(count):
                    rest[other] -= change * products[place, other]
        if not is_moved:
            break
    explained = np.float32(0)
    for place in range(count):
        explained += levels[place] * (target[place] / step + rest[place])
    return explained * step * step
