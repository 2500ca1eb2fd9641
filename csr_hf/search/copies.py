"""Compact copies of the documents' dense embeddings, which a second stage compares with dense queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr_hf.plumbing.jit import frozen, jit, largest_size, to_half
from csr_hf.plumbing.threads import available_threads, run
from csr_hf.search import rescoring

COPIES = ("binary", "int8", "float16")
"""One bit, one byte (and four for a scale) or two bytes a dimension."""
_TYPES = {"binary": np.uint8, "int8": np.int8, "float16": np.uint16}
_CHUNK = 512
_LEVELS = 127
_TINY = float(np.finfo(np.float32).tiny)


def copy_bytes(kind: str, dim: int) -> int:
    """Bytes of a document's copy of so many dimensions."""
    return {"binary": -(-dim // 8), "int8": dim + 4, "float16": 2 * dim}[kind]


def make_copies(
    kinds: Sequence[str], embeddings: np.ndarray, places: np.ndarray | None = None, *, unit: bool = True
) -> dict[str, np.ndarray]:
    """Store embeddings by name of the array.

    "binary" keeps signs. "int8" rounds to steps of 1/127 of a document's largest component, and keeps that step: no
    ranges to fit, so documents that come later are stored alike.

    Args:
        kinds: of `COPIES`; all are made in one pass.
        embeddings: shape (n, input_dim), of any float type; may be memory-mapped, it is read in chunks.
        places: row at which each is stored, shape (n,); default as they come.
        unit: scale each to unit norm.

    Raises:
        ValueError: for NaN or infinity, or values beyond float16 for a copy of that type; the row is named.
    """
    n, dim = embeddings.shape
    places = np.arange(n, dtype=np.int32) if places is None else places
    copies: dict[str, np.ndarray] = {kind: np.empty((n, _width(kind, dim)), _TYPES[kind]) for kind in kinds}
    if "int8" in kinds:
        copies["int8_scale"] = np.empty(n, np.float32)

    def fill(start: int) -> None:
        # What is float32 already is not copied; numba would compile anew for a memory map, and for what is writable.
        rows = frozen(embeddings[start : start + _CHUNK], np.float32)
        own, norms = frozen(places[start : start + _CHUNK]), np.empty(len(rows), np.float32)
        bad = _measure(rows, norms)
        if bad >= 0:
            row = start + bad
            raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that text, or embed it in float32.")
        if not unit:
            norms[:] = 1
            _check_halves(kinds, rows, start)
        if "binary" in kinds:
            _store_signs(rows, own, copies["binary"])
        if "int8" in kinds:
            _store_int8(rows, norms, own, copies["int8"], copies["int8_scale"])
        if "float16" in kinds:
            store_float16(rows, norms, own, copies["float16"])

    run(fill, [(start,) for start in range(0, n, _CHUNK)], available_threads())
    return copies


def row_norms(embeddings: np.ndarray) -> np.ndarray:
    """Compute the norms of embeddings, float32, shape (n,); memory-mapped ones are read in chunks."""
    norms = np.zeros(len(embeddings), np.float32)
    for start in range(0, len(embeddings), _CHUNK):
        norms[start : start + _CHUNK] = np.linalg.norm(embeddings[start : start + _CHUNK].astype(np.float32), axis=1)
    return norms


def _check_halves(kinds: Sequence[str], rows: np.ndarray, start: int) -> None:
    wide = np.abs(rows).max(axis=1, initial=0) > np.finfo(np.float16).max
    if "float16" in kinds and wide.any():
        row = start + int(np.argmax(wide))
        raise ValueError(f"`embeddings[{row}]` holds values beyond float16. Keep an int8 copy instead.")


def _width(kind: str, dim: int) -> int:
    return -(-dim // 8) if kind == "binary" else dim


@jit(fastmath={"reassoc", "contract"})
def _measure(rows: np.ndarray, norms: np.ndarray) -> int:
    """Norms of rows, 1 for those of zeros; gives a row back that is not finite, or -1."""
    for i in range(rows.shape[0]):
        row, squares = rows[i], 0.0
        for axis in range(row.shape[0]):
            squares += np.float64(row[axis]) * np.float64(row[axis])
        if not squares < np.inf:
            return i
        norms[i] = np.float32(np.sqrt(squares)) if squares > 0 else np.float32(1)
    return -1


@jit()
def _store_signs(rows: np.ndarray, places: np.ndarray, copy: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        row, signs = rows[i], copy[places[i]]
        whole = row.shape[0] >> 3
        for place in range(whole):
            bits = np.uint8(0)
            for bit in range(8):
                bits |= np.uint8(row[8 * place + bit] > 0) << np.uint8(7 - bit)
            signs[place] = bits
        if whole < signs.shape[0]:
            signs[whole] = 0
        for axis in range(8 * whole, row.shape[0]):
            signs[whole] |= np.uint8(row[axis] > 0) << np.uint8(7 - (axis & 7))


@jit()
def _store_int8(rows: np.ndarray, norms: np.ndarray, places: np.ndarray, copy: np.ndarray, steps: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        row, own, norm = rows[i], copy[places[i]], norms[i]
        step = max(largest_size(row) / norm, np.float32(_TINY)) / np.float32(_LEVELS)
        for axis in range(row.shape[0]):
            own[axis] = np.int8(np.rint(row[axis] / norm / step))
        steps[places[i]] = step


@jit()
def _store_float16(rows: np.ndarray, norms: np.ndarray, places: np.ndarray, copy: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        row, own, norm = rows[i], copy[places[i]], norms[i]
        for axis in range(row.shape[0]):
            own[axis] = to_half(row[axis] / norm)


def store_float16_plainly(rows: np.ndarray, norms: np.ndarray, places: np.ndarray, copy: np.ndarray) -> None:
    """Rows divided by their norms as bits of float16, for processors that have no instruction for it."""
    copy[places] = (rows / norms[:, None]).astype(np.float16).view(np.uint16)


store_float16 = _store_float16 if to_half else store_float16_plainly


def score_copy(
    kind: str, arrays: dict[str, np.ndarray], queries: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> None:
    """Fill `scores` with the inner products of queries and stored candidates, see `rescoring`.

    Signs count as vectors of unit norm, or of the norms that are stored beside them.
    """
    if kind == "binary":
        rescoring.score_binary(arrays["binary"], arrays["binary_rows"], queries, rows, scores)
        if "binary_norm" in arrays:
            known = rows >= 0
            scores[known] *= arrays["binary_norm"][rows[known]]
    elif kind == "float16":
        rescoring.score_float16(arrays["float16"], queries, rows, scores)
    else:
        rescoring.score_int8(arrays["int8"], arrays["int8_scale"], queries, rows, scores)
