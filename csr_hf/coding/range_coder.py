"""Compiled range coder: symbols in as few bits as they are probable (Martin 1979, in 32 bits with carries).

A symbol has a share `size` of `TOTAL`, behind the shares `first` of the symbols before it. Every row of bytes can be
decoded, whatever it holds: what lies behind its end counts as zeros.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

TOTAL_BITS = 16
TOTAL = 2**TOTAL_BITS
"""What the shares of all symbols sum to."""
_MASK = np.uint64(2**32 - 1)
_TOP = np.uint64(2**24)
_BYTE, _LEADING, _SHIFT = np.uint64(8), np.uint64(24), np.uint64(TOTAL_BITS)

State = tuple[np.uint64, np.uint64, int]
"""Of a writer: low end and width of the interval, and the bytes written; of a reader: where its bytes lie in the
interval, its width, and the next byte."""


@jit(inline="always")
def start_writing(at: int) -> State:
    """Start to write from byte `at` of a row on, which holds zeros from there."""
    return np.uint64(0), _MASK, at


@jit()
def _carry(row: np.ndarray, at: int) -> None:
    at -= 1
    while row[at] == 255:
        row[at] = 0
        at -= 1
    row[at] += np.uint8(1)


@jit()
def put(row: np.ndarray, state: State, first: int, size: int) -> State:
    """Write a symbol. The width of the interval is 0 once the row is full."""
    low, width, at = state
    share = width >> _SHIFT
    low += share * np.uint64(first)
    width = share * np.uint64(size)
    if low > _MASK:
        _carry(row, at)
        low &= _MASK
    while np.uint64(0) < width < _TOP:
        if at == row.shape[0]:
            width = np.uint64(0)
        else:
            row[at] = np.uint8(low >> _LEADING)
            at += 1
            low, width = (low << _BYTE) & _MASK, width << _BYTE
    return low, width, at


@jit()
def end_writing(row: np.ndarray, state: State) -> bool:
    """Write what tells the interval from others, and return whether all symbols fit into the row."""
    low, width, at = state
    # One byte more tells a number between `low` and its end, unless zeros do.
    if width and low:
        low += _TOP - np.uint64(1)
        if low > _MASK:
            _carry(row, at)
        elif at == row.shape[0]:
            return bool(low < _TOP)
        else:
            row[at] = np.uint8(low >> _LEADING)
    return bool(width)


@jit()
def start_reading(row: np.ndarray, at: int) -> State:
    """Start to read from byte `at` of a row on."""
    code = np.uint64(0)
    for place in range(at, at + 4):
        code = code << _BYTE | np.uint64(row[place] if place < row.shape[0] else 0)
    return code, _MASK, at + 4


@jit(inline="always")
def peek(state: State) -> int:
    """Return a number below `TOTAL` that lies in the share of the next symbol."""
    code, width, _ = state
    return min(int(code // (width >> _SHIFT)), TOTAL - 1)


@jit()
def take(row: np.ndarray, state: State, first: int, size: int) -> State:
    """Go behind the next symbol, whose share was found by `peek`."""
    code, width, at = state
    share = width >> _SHIFT
    code = (code - share * np.uint64(first)) & _MASK
    width = share * np.uint64(size)
    while width < _TOP:
        code = (code << _BYTE | np.uint64(row[at] if at < row.shape[0] else 0)) & _MASK
        width <<= _BYTE
        at += 1
    return code, width, at
