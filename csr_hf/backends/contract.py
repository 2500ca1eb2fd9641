"""What engines and their callers exchange: errors, hits, the settings of a collection, limits, queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

Row = tuple[list[int], list[float]]
"""Active latents of a vector, ascending, and their positive weights."""
Found = list[tuple[Any, float]]
"""Ids and scores of one query's hits."""


_Item = TypeVar("_Item")


class EngineError(RuntimeError):
    """An engine refused a request; sending it again will not help."""


class Unavailable(ConnectionError):
    """An engine is busy or out of reach; sending the request again may help."""


class Hits(NamedTuple):
    """What a search found, best first; a query with fewer hits ends in id -1 or "" and score -inf."""

    ids: np.ndarray
    """int64 or str, shape (n_queries, top_k)."""
    scores: np.ndarray
    """float32, shape (n_queries, top_k), descending; equal scores in order of id, where the engine lets one choose."""


class Schema(NamedTuple):
    """What all documents of a collection share; kept inside the engine."""

    dim: int
    """Length of the latents axis."""
    k: int
    """Latents of a document at most."""
    ids: Literal["integers", "strings"]
    head: str | None
    """Fingerprint of the head that made the codes."""
    decoded: bool
    """Whether scores are divided by the norms of the decoded documents."""
    created: str
    """A new word for every collection, so that one of the same name is not taken for another."""


class Limits(NamedTuple):
    """Rules of an engine on sizes; None where it has none."""

    dim: int | None = None
    document_latents: int | None = None
    query_latents: int | None = None
    top_k: int | None = None
    id_bytes: int | None = None
    threads: int | None = None
    """Uploads at a time."""


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """The items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def rows_of(latents: np.ndarray, weights: np.ndarray) -> list[Row]:
    """Vectors without the places that are not active; both arrays of the shape (n, k)."""
    found = []
    for indices, values in zip(latents, weights, strict=True):
        active = np.flatnonzero(values > 0)
        active = active[np.argsort(indices[active])]
        found.append((indices[active].tolist(), values[active].tolist()))
    return found


def padded(n: int, top_k: int, kind: str, found: dict[int, Found]) -> Hits:
    """Hits of n queries as arrays.

    Args:
        n: queries.
        top_k: hits of a query at most.
        kind: of the ids, "integers" or "strings".
        found: by number of the query; none for those that were not asked.
    """
    scores = np.full((n, top_k), -np.inf, np.float32)
    ids = np.full((n, top_k), -1 if kind == "integers" else "", np.int64 if kind == "integers" else object)
    for at, hits in found.items():
        # A dot product of 0 is no hit, whatever the engine says.
        best = sorted((hit for hit in hits if hit[1] > 0), key=lambda hit: (-hit[1], hit[0]))[:top_k]
        for place, (one, score) in enumerate(best):
            ids[at, place], scores[at, place] = one, score
    return Hits(ids if kind == "integers" else ids.astype(str), scores)
