"""Documents as engines take them: checked ids, and weights whose dot product with a unit query is the score."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from csr_hf.search.documents import checked_norms, inverse_norms, quantised
from csr_hf.search.ids import Ids
from csr_hf.sparse_codes import SparseCodes


class Documents(NamedTuple):
    """Checked documents."""

    ids: np.ndarray
    """int64 or str, shape (n,)."""
    codes: SparseCodes
    """As `InvertedIndex` stores them, values float32, not normalized."""
    scale: np.ndarray
    """What values are multiplied by, float32, shape (n,)."""
    decoded_norms: np.ndarray | None
    """float32, shape (n,)."""

    def part(self, rows: slice) -> Documents:
        """Some of them."""
        norms = None if self.decoded_norms is None else self.decoded_norms[rows]
        return Documents(self.ids[rows], self.codes[rows], self.scale[rows], norms)

    @property
    def weights(self) -> np.ndarray:
        """Of all places, float32, shape (n, k); 0 for places that are not active."""
        weights: np.ndarray = self.codes.values.astype(np.float32) * self.scale[:, None]
        return weights

    def rows(self) -> Iterator[tuple[Any, list[int], list[float]]]:
        """Id, active latents in ascending order, and their weights, of each document."""
        order = np.argsort(self.codes.indices, axis=1)
        latents = np.take_along_axis(self.codes.indices, order, axis=1).astype(np.int64)
        weights = np.take_along_axis(self.weights, order, axis=1)
        for one, indices, values in zip(self.ids.tolist(), latents, weights, strict=True):
            active = values > 0
            yield one, indices[active].tolist(), values[active].tolist()


def checked_ids(
    ids: Sequence[Hashable] | np.ndarray, n: int, kind: str, id_bytes: int | None, engine: str
) -> np.ndarray:
    """Ids of the kind that a collection has, int64 or str, shape (n,).

    Args:
        ids: as a caller gives them.
        n: how many there must be.
        kind: "integers" or "strings".
        id_bytes: of a string at most, in UTF-8; None for any number.
        engine: its name, for messages.

    Raises:
        ValueError: for ids that repeat, are of another kind, empty or too long.
    """
    checked = Ids.checked(ids, n)
    if n and checked.kind != kind:
        raise ValueError(f"`ids` are {checked.kind}, those of the collection {kind}. Convert them.")
    names = checked.at(np.arange(n))
    if kind == "strings":
        for one in names.tolist():
            if not one:
                raise ValueError("`ids` has an empty string, which stands for no document. Name it.")
            if id_bytes is not None and len(one.encode()) > id_bytes:
                raise ValueError(
                    f"`ids`: {one[:40]!r}... has {len(one.encode())} bytes; {engine} takes {id_bytes}. Shorten it."
                )
            if "\0" in one:
                raise ValueError(f"`ids`: {one!r} has a zero character, which engines refuse. Rename it.")
    return names


def checked_weights(codes: SparseCodes, ids: np.ndarray, decoded_norms: np.ndarray | None) -> Documents:
    """Documents as `InvertedIndex` would divide them.

    Raises:
        ValueError: for values that are negative or not finite, latents out of range or named twice, and documents
            without an active latent or that decode to nothing.
    """
    indices, levels, steps = quantised(codes)
    norms = None if decoded_norms is None else checked_norms(decoded_norms, len(codes))
    scale, values = inverse_norms(levels, steps, norms), levels * steps[:, None]
    # Places that are not active may repeat an index, so each gets a number of its own below zero.
    own = np.where(values > 0, indices.astype(np.int64), -1 - np.arange(codes.k))
    repeated = (np.diff(np.sort(own, axis=1), axis=1) == 0).any(axis=1)
    if repeated.any():
        row = int(np.argmax(repeated))
        raise ValueError(f"`codes[{row}]` names a latent twice. Every latent may appear once in a row.")
    if (scale == 0).any():
        row = int(np.argmax(scale == 0))
        raise ValueError(
            f"`codes` has documents that no query can find, {int((scale == 0).sum())} of {len(codes)}, first "
            f"{ids[row].item()!r}: no active latent, or a decoded norm of 0. Some engines refuse them: leave them out."
        )
    return Documents(ids, SparseCodes(indices, values, codes.dim, codes.head_fingerprint, check=False), scale, norms)
