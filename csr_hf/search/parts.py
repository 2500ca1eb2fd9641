"""Segments searched as one: which documents may be found, the best of all, the second stage, ids."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import run
from csr_hf.search import rescoring
from csr_hf.search.documents import check_loaded
from csr_hf.search.finding import Asked, find, find_ranked
from csr_hf.search.ids import Ids, listed
from csr_hf.search.ranking import split_keys
from csr_hf.search.segment import Segment
from csr_hf.search.settings import Settings
from csr_hf.search.storage import StoredSegment
from csr_hf.sparse_codes import QueryProjections

_GROUP = 32
"""Queries that one thread rescores at a time."""


class SearchResult(NamedTuple):
    """What a search found, best first; a query with fewer hits ends in id -1, "" or None, score -inf, position -1."""

    ids: np.ndarray
    """int64, str or object, shape (n_queries, top_k)."""
    scores: np.ndarray
    """float32, shape (n_queries, top_k), descending; equal scores in order of position."""
    positions: np.ndarray
    """int64, shape (n_queries, top_k): documents in the order they were added, deleted ones included, counted from 0
    and anew by `InvertedIndex.compact`."""


class Part(NamedTuple):
    """A segment with what may change of it: whole new ones take its place."""

    segment: Segment
    ids: Ids
    alive: np.ndarray | None
    """bool, shape (n,); None while no document is deleted."""
    name: str

    @classmethod
    def new(cls, segment: Segment, ids: Ids) -> Part:
        """With no document deleted, under a name that no other part ever gets."""
        return cls(segment, ids, None, uuid.uuid4().hex[:16])

    @property
    def mask(self) -> np.ndarray:
        """bool, shape (n,): documents that are not deleted."""
        return np.ones(len(self.segment), bool) if self.alive is None else self.alive


def starts_of(parts: Sequence[Part]) -> np.ndarray:
    """The position at which each part begins, and at which the last ends."""
    return np.array([0, *itertools.accumulate(len(part.segment) for part in parts)])


def without(part: Part, positions: np.ndarray) -> Part:
    """The part with these documents deleted."""
    alive = part.mask.copy()
    alive[positions] = False
    return part._replace(alive=alive)


def deleted(parts: Sequence[Part], ids: Iterable[Hashable], *, missing_ok: bool) -> tuple[list[Part], int]:
    """The parts without the documents of these ids, and how many of them there were.

    Raises:
        ValueError: for an id that is not there, unless `missing_ok`.
    """
    wanted = list(dict.fromkeys(listed(ids, "ids")))
    left, found = list(parts), np.zeros(len(wanted), bool)
    for at, part in enumerate(parts):
        positions = part.ids.positions_of(wanted)
        here = positions >= 0
        here[here] = part.mask[positions[here]]
        if here.any():
            left[at] = without(part, positions[here])
        found |= here
    if not missing_ok and not found.all():
        unknown = wanted[int(np.argmin(found))]
        raise ValueError(f"`ids`: there is no document {unknown!r}. Pass `missing_ok=True` to pass over it.")
    return left, int(found.sum())


def made_room(parts: Sequence[Part], ids: Ids, *, replace: bool) -> list[Part]:
    """The parts as they must be for documents with these ids to come.

    Args:
        parts: of the index.
        ids: of the new documents.
        replace: delete documents with these ids; else they are refused.

    Raises:
        ValueError: for ids of another kind than the parts', or in use.
    """
    found = list(parts)
    kinds = {part.ids.kind for part in parts if part.ids.n}
    if ids.n and kinds - {ids.kind}:
        raise ValueError(f"`ids` are {ids.kind}, those of the index {kinds.pop()}. Convert them.")
    wanted = ids.at(np.arange(ids.n))
    for at, part in enumerate(parts):
        positions = part.ids.positions_of(wanted)
        positions = positions[positions >= 0]
        positions = positions[part.mask[positions]]
        if len(positions) and not replace:
            used = part.ids.at(positions[:1]).tolist()[0]
            raise ValueError(f"`ids`: {used!r} is in use. Delete it first, or pass `replace=True`.")
        if len(positions):
            found[at] = without(part, positions)
    return found


def next_id(parts: Sequence[Part]) -> int:
    """Return the number after the largest id.

    Raises:
        ValueError: if ids are no integers.
    """
    for part in parts:
        if len(part.segment) and part.ids.kind != "integers":
            raise ValueError(f"`ids` must be given: those of the index are {part.ids.kind}.")
    return max((part.ids.largest + 1 for part in parts), default=0)


def masks_of(
    parts: Sequence[Part], starts: np.ndarray, allowed: Iterable[Hashable] | np.ndarray | None
) -> list[np.ndarray | None]:
    """Which documents of each part may be found; None for all."""
    if allowed is None:
        return [part.alive for part in parts]
    wanted = listed(allowed, "allowed")
    if len(wanted) and all(isinstance(one, bool | np.bool_) for one in wanted):
        wanted = np.asarray(wanted)
    if isinstance(wanted, np.ndarray) and wanted.dtype == bool:
        if wanted.shape != (starts[-1],):
            raise ValueError(f"`allowed` has the shape {wanted.shape}, but there are {starts[-1]} positions.")
        chosen = [wanted[first:stop] for first, stop in itertools.pairwise(starts)]
    else:
        chosen = [np.zeros(len(part.segment), bool) for part in parts]
        for part, mask in zip(parts, chosen, strict=True):
            positions = part.ids.positions_of(wanted)
            mask[positions[positions >= 0]] = True
    return [mask if part.alive is None else mask & part.alive for part, mask in zip(parts, chosen, strict=True)]


def first_stage(
    parts: Sequence[Part], starts: np.ndarray, asked: Sequence[Asked], depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions of the best `depth` documents by their codes, best first, or by signs, in any order.

    Args:
        parts: of the index.
        starts: where they begin.
        asked: of each.
        depth: documents wanted.
    """
    found = []
    for part, start, one in zip(parts, starts[:-1], asked, strict=True):
        scores, positions = find(part.segment.arrays, one, min(depth, len(part.segment)))
        found.append((scores, np.where(positions >= 0, positions + start, -1) if start else positions))
    return merged(found, depth, ordered=asked[0].queries.signs is None)


def two_stages(
    parts: Sequence[Part],
    starts: np.ndarray,
    asked: Sequence[Asked],
    kind: str,
    dense: QueryProjections | np.ndarray,
    depth: int,
    top_k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions of the best `top_k` by a second stage of the best `depth`.

    Args:
        parts: as for `first_stage`.
        starts: as for `first_stage`.
        asked: as for `first_stage`.
        kind: the second stage.
        dense: queries as it compares them.
        depth: candidates.
        top_k: documents wanted.
    """
    if len(parts) == 1:
        n = len(parts[0].segment)
        found = find_ranked(parts[0].segment.arrays, asked[0], kind, min(depth, n), min(top_k, n))
        if found is not None:
            return merged([found], top_k, ordered=False)
    (_, positions), threads = first_stage(parts, starts, asked, depth), asked[0].threads
    return best(rescored(parts, starts, kind, dense, positions, threads), positions, top_k, threads)


def merged(
    found: Sequence[tuple[np.ndarray, np.ndarray]], depth: int, *, ordered: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The best of all parts, by score, then position if they are to be `ordered`; padded to `depth`."""
    if len(found) == 1:
        scores, positions = found[0]
    else:
        scores, positions = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
    if len(found) > 1 or (ordered and _tied(scores, positions)):
        order = np.lexsort((positions, -scores))[:, :depth]
        scores, positions = (np.take_along_axis(array, order, axis=1) for array in (scores, positions))
    short = depth - scores.shape[1]
    if short <= 0:
        return scores, positions
    missing = ((0, 0), (0, short))
    return np.pad(scores, missing, constant_values=-np.inf), np.pad(positions, missing, constant_values=-1)


def _tied(scores: np.ndarray, positions: np.ndarray) -> bool:
    """Whether scores that rounding has made equal are not in order of position."""
    equal, before = scores[:, 1:] == scores[:, :-1], positions[:, 1:] < positions[:, :-1]
    return bool((equal & before & (positions[:, 1:] >= 0)).any())


def rescored(
    parts: Sequence[Part],
    starts: np.ndarray,
    kind: str,
    dense: QueryProjections | np.ndarray,
    positions: np.ndarray,
    threads: int,
) -> np.ndarray:
    """Second-stage scores of candidates, float32, of the shape of `positions`; -inf for none."""
    scores = np.full(positions.shape, -np.inf, np.float32)
    local = [frozen(positions, np.int64)]
    if len(parts) != 1:
        local = [
            frozen(np.where((positions >= first) & (positions < stop), positions - first, -1), np.int64)
            for first, stop in itertools.pairwise(starts)
        ]

    def rescore(first: int) -> None:
        rows = slice(first, first + _GROUP)
        if isinstance(dense, np.ndarray):
            queries: QueryProjections | np.ndarray = dense[rows]
        else:
            queries = QueryProjections(dense.latents[rows], dense.offset[rows])
        for part, chosen in zip(parts, local, strict=True):
            part.segment.rescore(kind, queries, chosen[rows], scores[rows])

    run(rescore, [(first,) for first in range(0, len(scores), _GROUP)], threads)
    return scores


def best(scores: np.ndarray, positions: np.ndarray, top_k: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `top_k` of the candidates by their scores, then by position."""
    keys, positions = np.zeros((len(scores), top_k), np.uint64), frozen(positions, np.int64)

    def choose(first: int) -> None:
        rows = slice(first, first + _GROUP)
        rescoring.best_keys(scores[rows], positions[rows], keys[rows])

    run(choose, [(first,) for first in range(0, len(scores), _GROUP)], threads)
    return split_keys(keys, np.ones(len(keys), np.float32))


def ids_at(parts: Sequence[Part], starts: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Ids of positions; for -1 what stands for none."""
    if len(parts) == 1 and (positions >= 0).all():
        return parts[0].ids.at(positions)
    ids = None
    for part, first, stop in zip(parts, starts[:-1], starts[1:], strict=True):
        here = (positions >= first) & (positions < stop)
        found = part.ids.at(positions[here] - first)
        if ids is None:
            ids = np.full(positions.shape, part.ids.none, found.dtype)
        ids = ids.astype(np.promote_types(ids.dtype, found.dtype), copy=False)
        ids[here] = found
    return positions.copy() if ids is None else ids


def to_store(parts: Sequence[Part]) -> list[StoredSegment]:
    """What is written of each part.

    Raises:
        ValueError: for ids that cannot be written.
    """
    if any(part.ids.kind == "objects" for part in parts):
        raise ValueError("`ids` that are neither integers nor strings cannot be saved. Number the documents.")
    return [
        StoredSegment(
            part.name,
            {**part.segment.arrays, **({} if part.ids.array is None else {"ids": part.ids.array})},
            part.alive,
            {"first_id": part.ids.first, "decoded": part.segment.decoded},
        )
        for part in parts
    ]


def opened(stored: Sequence[StoredSegment], settings: Settings, folder: str | Path, *, verify: bool) -> list[Part]:
    """Parts of what was read from `folder`.

    Raises:
        ValueError: if `verify` and arrays contradict each other.
    """
    parts = []
    for name, arrays, alive, details in stored:
        if verify:
            check_loaded(arrays, settings.dim, settings.input_dim, folder)
        ids = arrays.pop("ids", None)
        segment = Segment(arrays, settings.dim, details["decoded"])
        parts.append(Part(segment, Ids(ids, len(segment), details["first_id"]), alive, name))
    return parts
