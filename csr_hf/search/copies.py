"""Compact copies of the documents' dense embeddings, which a second stage compares with dense queries."""

from __future__ import annotations

import itertools

import numpy as np

from csr_hf.jit import jit
from csr_hf.search import rescoring
from csr_hf.search.lookup import ROOM
from csr_hf.threads import available_threads, run

COPIES = ("binary", "int8", "float16")
"""One bit, one byte (and four for a scale) or two bytes a dimension."""
_CHUNK = 8_192
_LEVELS = 127
_TINY = float(np.finfo(np.float32).tiny)


def copy_bytes(kind: str, dim: int) -> int:
    """Bytes of a document's copy of so many dimensions."""
    return {"binary": -(-dim // 8), "int8": dim + 4, "float16": 2 * dim}[kind]


def make_copy(kind: str, embeddings: np.ndarray, places: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Store embeddings, each scaled to unit norm, by name of the array.

    "binary" keeps signs. "int8" rounds to steps of 1/127 of a document's largest component, and keeps that step: no
    ranges to fit, so documents that come later are stored alike.

    Args:
        kind: of `COPIES`.
        embeddings: shape (n, input_dim), of any float type; may be memory-mapped, it is read in chunks.
        places: row at which each is stored, shape (n,); default as they come.

    Raises:
        ValueError: for NaN or infinity; the row is named.
    """
    n, dim = embeddings.shape
    places = np.arange(n, dtype=np.int32) if places is None else places
    width, dtype = {"binary": (-(-dim // 8), np.uint8), "int8": (dim, np.int8), "float16": (dim, np.float16)}[kind]
    copy, steps = np.empty((n, width), dtype), np.empty(n if kind == "int8" else 0, np.float32)

    def fill(start: int) -> None:
        rows = np.array(embeddings[start : start + _CHUNK], np.float32, order="C")
        bad = _scale_to_units(rows)
        if bad >= 0:
            row = start + bad
            raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that text, or embed it in float32.")
        own = places[start : start + _CHUNK]
        if kind == "binary":
            _store_signs(rows, own, copy)
        elif kind == "int8":
            _store_int8(rows, own, copy, steps)
        else:
            copy[own] = rows

    run(fill, [(start,) for start in range(0, n, _CHUNK)], available_threads())
    if kind == "int8":
        return {"int8": copy, "int8_scale": steps}
    return {kind: copy.view(np.uint16) if kind == "float16" else copy}


@jit(fastmath={"reassoc", "contract"})
def _scale_to_units(rows: np.ndarray) -> int:
    """Scale rows to unit norm, but for those of zeros; gives a row back that is not finite, or -1."""
    for i in range(rows.shape[0]):
        row, squares = rows[i], 0.0
        for axis in range(row.shape[0]):
            squares += np.float64(row[axis]) * np.float64(row[axis])
        if not squares < np.inf:
            return i
        norm = np.float32(np.sqrt(squares)) if squares > 0 else np.float32(1)
        for axis in range(row.shape[0]):
            row[axis] /= norm
    return -1


@jit()
def _store_signs(rows: np.ndarray, places: np.ndarray, copy: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        row, signs = rows[i], copy[places[i]]
        signs[:] = 0
        for axis in range(row.shape[0]):
            signs[axis >> 3] |= np.uint8(row[axis] > 0) << np.uint8(7 - (axis & 7))


@jit(fastmath={"nsz"})
def _store_int8(rows: np.ndarray, places: np.ndarray, copy: np.ndarray, steps: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        row, own, largest = rows[i], copy[places[i]], np.float32(_TINY)
        for axis in range(row.shape[0]):
            largest = max(largest, abs(row[axis]))
        step = largest / np.float32(_LEVELS)
        for axis in range(row.shape[0]):
            own[axis] = np.int8(np.rint(row[axis] / step))
        steps[places[i]] = step


def by_place(signs: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Signs as scans read them: of every block first byte 0 of each of its documents, then byte 1 of each, and so on.

    Args:
        signs: a row a document, uint8, shape (n, bytes).
        begins: where blocks begin and the last ends, shape (blocks + 1,).

    Returns:
        uint8, shape (n * bytes + ROOM,).
    """
    planes = np.zeros(signs.size + ROOM, np.uint8)
    for first, stop in itertools.pairwise(begins.tolist()):
        block = signs[first:stop]
        planes[first * signs.shape[1] : stop * signs.shape[1]] = block.T.ravel()
    return planes


def by_row(planes: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """What `by_place` was given."""
    width = (len(planes) - ROOM) // max(int(begins[-1]), 1)
    signs = np.empty((int(begins[-1]), width), np.uint8)
    for first, stop in itertools.pairwise(begins.tolist()):
        signs[first:stop] = planes[first * width : stop * width].reshape(width, stop - first).T
    return signs


def score_copy(
    kind: str, arrays: dict[str, np.ndarray], queries: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> None:
    """Fill `scores` with the inner products of queries and stored candidates, see `rescoring`."""
    if kind == "binary":
        rescoring.score_binary(arrays["binary"], arrays["rows"], queries, rows, scores)
    elif kind == "float16":
        rescoring.score_float16(arrays["float16"], queries, rows, scores)
    else:
        rescoring.score_int8(arrays["int8"], arrays["int8_scale"], queries, rows, scores)
