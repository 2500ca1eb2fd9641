"""Documents of a collection, checked: weights whose dot product with a query is the score, and their metadata."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from csr_hf.backends.metadata import rows_of
from csr_hf.search.doc_ids import DocIds
from csr_hf.sparse_codes import SparseCodes

Row = tuple[list[int], list[float]]
"""Active latents of a vector in ascending order, and their positive weights."""
_Item = TypeVar("_Item")
_LEVELS = 255
_NOTHING = 1e-6
"""Part of a code that a decoded document must have for its norm to say something."""


class DocumentRow(NamedTuple):
    """One document."""

    id: int | str
    latents: list[int]
    """Active ones, in ascending order."""
    weights: list[float]
    fields: dict[str, Any]
    """Those that have a value."""


class Documents(NamedTuple):
    """Checked documents. Their dot product with a query of unit norm is the score."""

    ids: np.ndarray
    """int64, or objects that are str; shape (n,)."""
    latents: np.ndarray
    """Integers, shape (n, k)."""
    weights: np.ndarray
    """float32, shape (n, k); 0 where a latent is not active."""
    fields: pa.Table
    """Metadata as the fields of a backend, n rows."""

    def part(self, rows: slice) -> Documents:
        """Select some of the documents that lie side by side."""
        start, stop, _ = rows.indices(len(self.ids))
        fields = self.fields.slice(start, stop - start)
        return Documents(self.ids[rows], self.latents[rows], self.weights[rows], fields)

    def rows(self) -> Iterator[DocumentRow]:
        """Yield each document."""
        codes = active_rows(self.latents, self.weights)
        for one, (latents, weights), fields in zip(self.ids.tolist(), codes, rows_of(self.fields), strict=True):
            yield DocumentRow(one, latents, weights, fields)


def check_documents(
    codes: SparseCodes, ids: np.ndarray, decoded_norms: np.ndarray | None, fields: pa.Table
) -> Documents:
    """Check codes, and divide them by the norms that `InvertedIndex` divides by.

    Args:
        codes: not normalized; values are rounded to eight bits, as in the index.
        ids: checked, shape (n,).
        decoded_norms: ||decode(z)||, float32, shape (n,); None for the norms of the codes.
        fields: their metadata, n rows.

    Raises:
        ValueError: for values that are negative or not finite, latents out of range or named twice, and documents that
            have no active latent or decode to nothing.
    """
    indices, values = _round_values(codes)
    own = np.linalg.norm(values, axis=1)
    norms = own if decoded_norms is None else _check_norms(decoded_norms, len(codes))
    scale = np.divide(1, norms, out=np.zeros_like(own), where=norms > own * _NOTHING)
    row = _find_repeated(indices, values)
    if row is not None:
        raise ValueError(f"`codes[{row}]` names a latent twice. Every latent may appear once in a row.")
    if (scale == 0).any():
        row = int(np.argmax(scale == 0))
        raise ValueError(
            f"`codes` has documents that no query can find, {int((scale == 0).sum())} of {len(codes)}, first "
            f"{ids.tolist()[row]!r}: no active latent, or a decoded norm of 0. Leave them out."
        )
    return Documents(ids, indices, (values * scale[:, None]).astype(np.float32), fields)


def check_queries(codes: SparseCodes, query_k: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the codes of queries and bring them to unit norm.

    Args:
        codes: of the queries.
        query_k: latents to keep; None keeps all.

    Returns:
        latents, values (float64, of unit norm), both (n, query_k), and what they were divided by, (n, 1): not 0.

    Raises:
        ValueError: for a `query_k` out of range, values that are negative or not finite, latents out of range, or a
            query that names a latent twice.
    """
    if query_k is not None and not 1 <= query_k <= codes.k:
        raise ValueError(f"`query_k` ({query_k}) must be between 1 and the k of the queries ({codes.k}).")
    indices, values = _check_codes(codes.truncate(query_k) if query_k else codes)
    repeated = _find_repeated(indices, values)
    if repeated is not None:
        raise ValueError(f"`codes[{repeated}]` names a latent twice. Every latent may appear once in a row.")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return indices, values / norms, norms


def _check_codes(codes: SparseCodes) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and values (float64) of codes."""
    indices, values = codes.indices, np.asarray(codes.values, np.float64)
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < codes.dim:
        raise ValueError(f"`codes.indices` must lie in [0, {codes.dim}); found {indices.min()} to {indices.max()}.")
    wrong = ~(np.isfinite(values) & (values >= 0)).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"`codes[{row}]` holds a value that is negative or not finite. Encode that text again.")
    return indices, values


def _round_values(codes: SparseCodes) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and values (float64) of codes, rounded to multiples of 1/255 of the largest of their row."""
    indices, values = _check_codes(codes)
    largest = values.max(axis=1, initial=0, keepdims=True)
    shares = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    # What is active stays active.
    levels = np.where(values > 0, np.maximum(np.rint(shares * _LEVELS), 1), 0)
    return indices, levels / _LEVELS * largest


def _check_norms(norms: np.ndarray, n: int) -> np.ndarray:
    array = np.array(norms, np.float64)
    if array.shape != (n,):
        raise ValueError(f"`decoded_norms` has the shape {array.shape} instead of ({n},). Give one norm a document.")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("`decoded_norms` must be finite and not negative. Compute them with `decoded_norms`.")
    return array


def _find_repeated(indices: np.ndarray, values: np.ndarray) -> int | None:
    """Find a row that names an active latent twice."""
    # Latents that are not active may repeat, so each gets a negative number instead.
    active = np.where(values > 0, indices.astype(np.int64), -1 - np.arange(indices.shape[1]))
    repeated = (np.diff(np.sort(active, axis=1), axis=1) == 0).any(axis=1)
    return int(np.argmax(repeated)) if repeated.any() else None


def check_ids(ids: Sequence[Hashable] | np.ndarray, n: int, kind: str, most: int | None, product: str) -> np.ndarray:
    """Return ids as int64, or objects that are str; shape (n,).

    Args:
        ids: one for each of n documents.
        n: number of documents.
        kind: "integers" or "strings".
        most: largest number of bytes of a string in UTF-8; None for no limit.
        product: name of the backend that has this limit.

    Raises:
        ValueError: for ids that repeat, have another type, are empty or too long.
    """
    checked = DocIds.check(ids, n)
    if n and checked.kind != kind:
        raise ValueError(f"`ids` are {checked.kind}, those of the collection {kind}. Convert them.")
    names = checked.at(np.arange(n))
    for one in names.tolist() if kind == "strings" else []:
        if not one:
            raise ValueError("`ids` has an empty string, which stands for no document. Name it.")
        if most is not None and len(one.encode()) > most:
            raise ValueError(
                f"`ids`: {one[:40]!r}... has {len(one.encode())} bytes; {product} takes {most}. Shorten it."
            )
        if "\0" in one:
            raise ValueError(f"`ids`: {one!r} has a zero character, which backends refuse. Rename it.")
    return names


def active_rows(latents: np.ndarray, weights: np.ndarray) -> Iterator[Row]:
    """Yield the active latents and weights of each vector; both arrays have the shape (n, k)."""
    order = np.argsort(latents, axis=1)
    latents, weights = np.take_along_axis(latents, order, axis=1), np.take_along_axis(weights, order, axis=1)
    for indices, values in zip(latents, weights, strict=True):
        active = values > 0
        yield indices[active].tolist(), values[active].tolist()


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Yield the items in batches of `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
