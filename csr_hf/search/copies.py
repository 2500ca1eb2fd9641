"""Compact copies of the documents' dense embeddings, which a second stage compares with dense queries."""

from __future__ import annotations

import itertools

import numpy as np

from csr_hf.search import rescoring
from csr_hf.search.lookup import ROOM

COPIES = ("binary", "int8", "float16")
"""One bit, one byte (and four for a scale) or two bytes a dimension."""
_CHUNK = 8_192
_LEVELS = 127


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
    width, dtype = {"binary": (-(-dim // 8), np.uint8), "int8": (dim, np.int8), "float16": (dim, np.uint16)}[kind]
    arrays = {kind: np.empty((n, width), dtype), **({"int8_scale": np.empty(n, np.float32)} if kind == "int8" else {})}
    for start in range(0, n, _CHUNK):
        units = _units(embeddings[start : start + _CHUNK], start)
        rows = np.arange(start, start + len(units)) if places is None else places[start : start + _CHUNK]
        if kind == "binary":
            arrays["binary"][rows] = np.packbits(units > 0, axis=1)
        elif kind == "float16":
            arrays["float16"][rows] = units.astype(np.float16).view(np.uint16)
        else:
            step = np.maximum(np.abs(units).max(axis=1, initial=0), np.finfo(np.float32).tiny) / _LEVELS
            arrays["int8_scale"][rows] = step
            arrays["int8"][rows] = np.rint(units / step[:, None])
    return arrays


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


def _units(rows: np.ndarray, start: int) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        row = start + int(np.argmin(np.isfinite(norms[:, 0])))
        raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that text, or embed it in float32.")
    return rows / np.where(norms > 0, norms, 1)
