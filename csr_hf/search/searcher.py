"""Search all segments as one."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from csr_hf.search.doc_ids import list_ids
from csr_hf.search.params import SearchParams
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.segment import Segment, decode
from csr_hf.sparse_codes import SparseCodes


class Hits(NamedTuple):
    """What a search found, best first."""

    ids: np.ndarray
    """int64, or objects that are texts, shape (n_queries, top_k); -1 or None where there are fewer hits."""
    positions: np.ndarray
    """int64, shape (n_queries, top_k): documents in the order they were added, deleted ones included, counted from 0
    and anew by `InvertedIndex.compact`; -1 where there are fewer hits."""
    scores: np.ndarray
    """float32, shape (n_queries, top_k), descending; equal scores in order of position; -inf where there are fewer."""

    def rows(self) -> list[list[tuple[Any, int, float]]]:
        """List the hits of every query as (id, position, score), without what fills up the arrays."""
        return [
            [hit for hit in zip(*row, strict=True) if hit[1] >= 0]
            for row in zip(self.ids.tolist(), self.positions.tolist(), self.scores.tolist(), strict=True)
        ]


def find_dense(
    segments: Sequence[Segment],
    encoder: QueryEncoder,
    queries: np.ndarray,
    masks: Sequence[np.ndarray],
    top_k: int,
    params: SearchParams,
    *,
    unit: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best documents for dense queries; returns scores and positions."""
    scores = [np.empty((len(queries), 0), np.float32)]
    for segment, mask in zip(segments, masks, strict=True):
        if "float16" in segment.arrays and params.rerank in ("auto", "float16") and not params.exact:
            found = queries @ segment.arrays["float16"].astype(np.float32).T
        else:
            decoded, norms = decode(segment.packed, encoder, residual=not params.exact), segment.arrays["norms"]
            if params.exact:
                norms = np.linalg.norm(decoded, axis=1)
            found = queries @ decoded.T
            if unit:
                found = found / np.where(norms > 0, norms, np.inf)
        scores.append(np.where(mask, found, -np.inf))
    return best(np.concatenate(scores, axis=1), top_k)


def find_sparse(
    segments: Sequence[Segment],
    encoder: QueryEncoder,
    codes: SparseCodes,
    masks: Sequence[np.ndarray],
    top_k: int,
    *,
    unit: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best documents for sparse queries by codes alone; returns scores and positions."""
    scores = [np.empty((len(codes), 0), np.float32)]
    for segment, mask in zip(segments, masks, strict=True):
        found = (codes.to_scipy() @ segment.packed.unpack().to_scipy().T).toarray()
        if unit:
            norms = np.linalg.norm(decode(segment.packed, encoder, residual=False), axis=1)
            found = found / np.where(norms > 0, norms, np.inf)
        scores.append(np.where(mask & (found > 0), found, -np.inf))
    return best(np.concatenate(scores, axis=1), top_k)


def best(scores: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of all scores and their positions, equal ones in order of position."""
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :top_k].astype(np.int64)
    found = np.take_along_axis(scores, positions, axis=1).astype(np.float32)
    return found, np.where(found > -np.inf, positions, -1)


def masks_of(segments: Sequence[Segment], allowed: Iterable[Hashable] | np.ndarray | None) -> list[np.ndarray]:
    """Tell which documents of each segment may be found.

    Raises:
        ValueError: for a mask that has not one bool for every position.
    """
    if allowed is None:
        return [segment.mask for segment in segments]
    wanted = list_ids(allowed, "allowed")
    starts = starts_of(segments)
    if isinstance(wanted, np.ndarray) and wanted.dtype == bool:
        if wanted.shape != (starts[-1],):
            raise ValueError(f"`allowed` has the shape {wanted.shape}, but there are {starts[-1]} positions.")
        chosen = [wanted[first:stop] for first, stop in itertools.pairwise(starts)]
    else:
        chosen = [np.zeros(segment.count, bool) for segment in segments]
        for segment, mask in zip(segments, chosen, strict=True):
            positions = segment.ids.positions_of(wanted)
            mask[positions[positions >= 0]] = True
    return [mask & segment.mask for segment, mask in zip(segments, chosen, strict=True)]


def starts_of(segments: Sequence[Segment]) -> np.ndarray:
    """Return the position at which each segment begins, and at which the last ends."""
    return np.array([0, *itertools.accumulate(segment.count for segment in segments)])


def ids_at(segments: Sequence[Segment], positions: np.ndarray) -> np.ndarray:
    """Return ids of positions; for -1 what stands for none."""
    if len(segments) == 1 and (positions >= 0).all():
        return segments[0].ids.at(positions)
    if not segments or segments[0].ids.kind == "integers":
        ids = np.full(positions.shape, -1, np.int64)
    else:
        ids = np.full(positions.shape, None, object)
    for segment, (first, stop) in zip(segments, itertools.pairwise(starts_of(segments)), strict=True):
        here = (positions >= first) & (positions < stop)
        ids[here] = segment.ids.at(positions[here] - first)
    return ids
