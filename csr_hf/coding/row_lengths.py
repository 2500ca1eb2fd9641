"""Rows of bytes of different lengths, as one array with their lengths beside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MOST_ROOM = 32
"""Bytes in memory for one in a file: rows that are far shorter than the longest are stored as they are."""


class RaggedRows(NamedTuple):
    """Rows without the zeros behind their ends."""

    content: np.ndarray
    """Rows one after the other, uint8."""
    lengths: np.ndarray
    """Of each row, uint8 for rows of up to 255 bytes, else uint16, shape (n,)."""


def row_lengths(rows: np.ndarray) -> np.ndarray:
    """Find the bytes of each row without the zeros behind its end, int64, shape (n,)."""
    if not rows.size:
        return np.zeros(len(rows), np.int64)
    used = rows[:, ::-1] != 0
    return np.where(used.any(axis=1), rows.shape[1] - used.argmax(axis=1), 0)


def length_type(width: int) -> np.dtype:
    """Return the type of the lengths of rows that are at most `width` bytes long."""
    return np.dtype("u1" if width < 2**8 else "<u2")


def ragged_bytes(lengths: np.ndarray, width: int) -> int:
    """Return the bytes of rows of these lengths, with the lengths; they are at most `width` bytes long."""
    return int(lengths.sum(dtype=np.int64)) + length_type(width).itemsize * len(lengths)


def stored_bytes(rows: np.ndarray) -> int:
    """Return the bytes that a file takes for rows, uint8, shape (n, width)."""
    lengths = _lengths_to_store(rows)
    return rows.size if lengths is None else ragged_bytes(lengths, rows.shape[1])


def cut_rows(rows: np.ndarray) -> RaggedRows | None:
    """Cut off the zeros behind the ends of rows; None where that saves nothing.

    Args:
        rows: uint8, shape (n, width).
    """
    lengths = _lengths_to_store(rows)
    if lengths is None:
        return None
    return RaggedRows(rows[np.arange(rows.shape[1]) < lengths[:, None]], lengths.astype(length_type(rows.shape[1])))


def pad_rows(ragged: RaggedRows, width: int) -> np.ndarray:
    """Put back the zeros that `cut_rows` cut off, uint8, shape (n, width).

    Raises:
        ValueError: if lengths and content do not fit together, or the rows would take far more memory than the file.
    """
    lengths = ragged.lengths.astype(np.int64)
    longest, total = int(lengths.max(initial=0)), int(lengths.sum())
    if ragged.content.ndim != 1 or lengths.ndim != 1 or total != len(ragged.content):
        raise ValueError(f"its residuals have {len(ragged.content)} bytes, their lengths sum to {total}")
    if longest > width or width * len(lengths) > _MOST_ROOM * ragged_bytes(lengths, width):
        raise ValueError(f"its residuals are at most {longest} bytes long, their width is {width}")
    rows = np.zeros((len(lengths), width), np.uint8)
    rows[np.arange(width) < lengths[:, None]] = ragged.content
    return rows


def _lengths_to_store(rows: np.ndarray) -> np.ndarray | None:
    """Find the lengths of rows that are stored in fewer bytes with them than without; None where they are not."""
    if not 0 < rows.shape[1] < 2**16:
        return None
    lengths = row_lengths(rows)
    size = ragged_bytes(lengths, rows.shape[1])
    return lengths if size < rows.size <= _MOST_ROOM * size else None
