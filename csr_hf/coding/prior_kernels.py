"""Compiled loops that write and read codes in as few bits as they are probable.

A row is, by the range coder: its mode, its kind, its scale, the number of its active latents, then for each latent in
the order of the prior whether it is active, and the level of each that is. The mode is how far what was learned of
latents is believed, the kind how levels are distributed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.coding.pursuit import Chosen
from csr_hf.coding.range_coder import (
    TOTAL,
    State,
    end_writing,
    peek,
    put,
    start_reading,
    start_writing,
    take,
)
from csr_hf.coding.rounding import Rounding, make_room, round_row
from csr_hf.plumbing.jit import jit

_LEVEL_BITS, _HEADER_BITS = 2.4, 8
"""Of a usual level, and of all beside latents: for a first guess of how many latents fit."""
_LEAST_BITS, _TYPICAL_BITS = 5, 8
"""Of one more latent with its level."""
MOST_LOGIT = 192
"""Largest logit of a latent, in sixteenths: beyond it only the least share of `TOTAL` is left for the other answer."""


class PriorTables(NamedTuple):
    """How probable codes are, in whole numbers, so that they are read alike on every machine."""

    places: np.ndarray
    """Where each latent comes in the order of coding, int64, shape (dim,)."""
    latents: np.ndarray
    """Latent at each place, int64, shape (dim,)."""
    bias: np.ndarray
    """Logit of each place to be active, in sixteenths, by mode, int32, shape (modes, dim)."""
    links: np.ndarray
    """What an active place adds to the logits of the places behind it, int8, shape (dim, dim) or (0, dim)."""
    strengths: np.ndarray
    """Sixteenths of the links that count, by mode and number of active latents, int32, shape (modes, most + 1)."""
    left: np.ndarray
    """What so many latents that are still to come add to every logit, by mode, int32, shape (modes, most + 1)."""
    active: np.ndarray
    """Share of active latents by logit, int64, shape (2 * MOST_LOGIT + 1,)."""
    modes: np.ndarray
    """Shares before each mode, int64, shape (modes + 1,)."""
    kinds: np.ndarray
    """Shares before each kind, int64, shape (kinds + 1,)."""
    scales: np.ndarray
    """Shares before each scale, int64, shape (257,)."""
    counts: np.ndarray
    """Shares before each number of latents, int64, shape (most + 2,)."""
    levels: np.ndarray
    """Shares before each level, by kind, int64, shape (kinds, highest + 1)."""
    level_bits: np.ndarray
    """Bits of each level, by kind, float32, shape (kinds, highest)."""


@jit(inline="always")
def _share(active: np.ndarray, logit: int) -> int:
    """Return the share of `TOTAL` of the answer that a place is active."""
    return active[min(max(logit, -MOST_LOGIT), MOST_LOGIT) + MOST_LOGIT]


@jit()
def _link(links: np.ndarray, logits: np.ndarray, place: int, strength: np.int32) -> None:
    """Add what an active place says of those behind it."""
    if not links.shape[0]:
        return
    # Slices that start together are added in vectors; places of whole arrays are added one by one.
    said, behind = links[place, place + 1 :], logits[place + 1 :]
    for other in range(behind.shape[0]):
        behind[other] += (said[other] * strength) >> 4


@jit(inline="always")
def _put_symbol(row: np.ndarray, state: State, sums: np.ndarray, symbol: int) -> State:
    return put(row, state, sums[symbol], sums[symbol + 1] - sums[symbol])


@jit()
def _write_row(
    tables: PriorTables, code: tuple[np.ndarray, np.ndarray, int], mode: int, logits: np.ndarray, row: np.ndarray
) -> bool:
    """Write one code: places, ascending, their levels, and its scale; return whether it fits into the row."""
    places, levels, scale = code
    row[:] = 0
    left = places.shape[0]
    kind, _ = _choose_kind(tables, levels)
    state = _put_symbol(row, start_writing(0), tables.modes, mode)
    state = _put_symbol(row, state, tables.kinds, kind)
    state = _put_symbol(row, state, tables.scales, scale)
    state = _put_symbol(row, state, tables.counts, left)
    logits[:], strength = tables.bias[mode], tables.strengths[mode, left]
    # Taking an array out of a tuple counts a reference, which is slow within the loop.
    active, links, to_come, of_levels = tables.active, tables.links, tables.left[mode], tables.levels[kind]
    place, at = 0, 0
    while left and state[1]:
        share = _share(active, logits[place] + to_come[left])
        if place == places[at]:
            state = put(row, state, 0, share)
            state = _put_symbol(row, state, of_levels, levels[at] - 1)
            _link(links, logits, place, strength)
            at += 1
            left -= 1
        else:
            state = put(row, state, share, TOTAL - share)
        place += 1
    return end_writing(row, state)


@jit()
def _count_bits(tables: PriorTables, places: np.ndarray, mode: int, logits: np.ndarray) -> float:
    """Return the bits that tell which places are active, ascending ones."""
    left, place, at, product, bits = places.shape[0], 0, 0, 1.0, 0.0
    logits[:], strength = tables.bias[mode], tables.strengths[mode, left]
    active, links, to_come = tables.active, tables.links, tables.left[mode]
    while left:
        share = _share(active, logits[place] + to_come[left])
        if place == places[at]:
            bits -= np.log2(product * share / TOTAL)
            product = 1.0
            _link(links, logits, place, strength)
            at += 1
            left -= 1
        else:
            product *= 1 - share / TOTAL
        place += 1
    return bits


@jit()
def _find(shares: np.ndarray, value: int) -> int:
    """Return the symbol in whose share a value lies."""
    symbol = 0
    while shares[symbol + 1] <= value:
        symbol += 1
    return symbol


@jit()
def _take_symbol(row: np.ndarray, state: State, sums: np.ndarray) -> tuple[State, int]:
    symbol = _find(sums, peek(state))
    return take(row, state, sums[symbol], sums[symbol + 1] - sums[symbol]), symbol


@jit()
def read_rows(
    tables: PriorTables,
    rows: np.ndarray,
    indices: np.ndarray,
    levels: np.ndarray,
    scales: np.ndarray,
    modes: np.ndarray,
) -> None:
    """Read rows of any bytes.

    Args:
        tables: of the prior.
        rows: uint8, shape (n, m).
        indices: receives latents, int32, shape (n, most); those that are not used stay as they are.
        levels: receives their levels, uint16, shape (n, most); likewise.
        scales: receives uint8, shape (n,).
        modes: likewise.
    """
    logits = np.empty(tables.bias.shape[1], np.int32)
    active, links, latents = tables.active, tables.links, tables.latents
    for number in range(rows.shape[0]):
        row = rows[number]
        state, mode = _take_symbol(row, start_reading(row, 0), tables.modes)
        state, kind = _take_symbol(row, state, tables.kinds)
        state, scale = _take_symbol(row, state, tables.scales)
        state, left = _take_symbol(row, state, tables.counts)
        scales[number], modes[number] = scale, mode
        logits[:], strength = tables.bias[mode], tables.strengths[mode, left]
        to_come, of_levels = tables.left[mode], tables.levels[kind]
        place, at = 0, 0
        while left and place < logits.shape[0]:
            share = _share(active, logits[place] + to_come[left])
            if peek(state) < share:
                state, level = _take_symbol(row, take(row, state, 0, share), of_levels)
                indices[number, at], levels[number, at] = latents[place], level + 1
                _link(links, logits, place, strength)
                at += 1
                left -= 1
            else:
                state = take(row, state, share, TOTAL - share)
            place += 1


@jit()
def write_rows(tables: PriorTables, rounding: Rounding, chosen: Chosen, rows: np.ndarray) -> None:
    """Write as many of the chosen latents of each row as fit, with their values rounded together.

    Args:
        tables: of the prior.
        rounding: of their values.
        chosen: latents in the order of their choice.
        rows: receives uint8, shape (n, m).
    """
    most = min(chosen.indices.shape[1], tables.left.shape[1] - 1)
    logits, levels = np.empty(tables.bias.shape[1], np.int32), np.empty(most, np.float32)
    row, bits_of_row, room = np.empty(rows.shape[1], np.uint8), 8 * rows.shape[1], make_room(most)
    for number in range(rows.shape[0]):
        available = min(chosen.counts[number], most)
        mode, count = _guess(tables, chosen.indices[number, :available], bits_of_row, logits)
        fits, exceeds = -1, available + 1
        room.known[:] = 0
        while exceeds - fits > 1:
            count = min(max(count, fits + 1), exceeds - 1)
            scale = round_row(rounding, chosen, number, (count, levels), room)
            places, kept = _sort_active(tables.places, chosen.indices[number, :count], levels)
            bits = _count_bits(tables, places, mode, logits) + _count_symbol_bits(tables, kept, scale, mode)
            if _write_row(tables, (places, kept, scale), mode, logits, row):
                rows[number], fits = row, count
                if bits_of_row - bits < _LEAST_BITS:
                    break
                count += max(int((bits_of_row - bits) / _TYPICAL_BITS), 1)
            else:
                exceeds = count
                count -= max(int((bits - bits_of_row) / _TYPICAL_BITS), 1)


@jit()
def _choose_kind(tables: PriorTables, levels: np.ndarray) -> tuple[int, float]:
    """Return the kind by which levels take the fewest bits, and how many with those that name it."""
    best, least = 0, np.inf
    for kind in range(tables.levels.shape[0]):
        bits = np.log2(TOTAL) - np.log2(tables.kinds[kind + 1] - tables.kinds[kind])
        for level in levels:
            bits += tables.level_bits[kind, level - 1]
        if bits < least:
            best, least = kind, bits
    return best, least


@jit()
def _count_symbol_bits(tables: PriorTables, levels: np.ndarray, scale: int, mode: int) -> float:
    """Return the bits of all that is written of a row beside which places are active."""
    count, (_, bits) = levels.shape[0], _choose_kind(tables, levels)
    bits += 3 * np.log2(TOTAL) - np.log2(tables.modes[mode + 1] - tables.modes[mode])
    bits -= np.log2(tables.scales[scale + 1] - tables.scales[scale])
    return bits - np.log2(tables.counts[count + 1] - tables.counts[count])


@jit()
def _guess(tables: PriorTables, latents: np.ndarray, room: int, logits: np.ndarray) -> tuple[int, int]:
    """Guess the mode by which most of the first latents fit into so many bits, and how many, by typical levels."""
    best, most = 0, 0
    for mode in range(tables.bias.shape[0]):
        fits, exceeds = most, latents.shape[0] + 1
        while exceeds - fits > 1:
            middle = min(fits + 1, exceeds - 1) if fits == most and mode else (fits + exceeds) // 2
            places = np.sort(tables.places[latents[:middle]])
            if _count_bits(tables, places, mode, logits) + _LEVEL_BITS * middle <= room - _HEADER_BITS:
                fits = middle
            else:
                exceeds = middle
        if fits > most:
            best, most = mode, fits
    return best, most


@jit()
def _sort_active(place_of: np.ndarray, latents: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the latents whose level is not 0, ascending, and their levels."""
    count = 0
    places, kept = np.empty(latents.shape[0], np.int64), np.empty(latents.shape[0], np.int64)
    for at in range(latents.shape[0]):
        if levels[at]:
            place, to = place_of[latents[at]], count
            while to and places[to - 1] > place:
                places[to], kept[to] = places[to - 1], kept[to - 1]
                to -= 1
            places[to], kept[to] = place, np.int64(levels[at])
            count += 1
    return places[:count], kept[:count]
