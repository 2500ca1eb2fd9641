"""Search all segments as one, on several threads."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import run
from csr_hf.search.doc_ids import list_ids
from csr_hf.search.kernels.group import BY_CODES, BY_COPIES, BY_SCAN, Group, Plan, QueryTables, prepare, search_group
from csr_hf.search.kernels.rerank import Stored
from csr_hf.search.kernels.scan import Signs
from csr_hf.search.kernels.topk import split_keys
from csr_hf.search.params import Measured, SearchParams, count_threads, find_measured
from csr_hf.search.segment import Segment

_GROUP = 32
"""Queries that one thread takes at a time: a partition is read once for all of them that visit it."""
_LONG = 500_000
"""Documents that a query visits from which on several threads share a lone one: below, waking them takes longer."""
DEFAULT_CANDIDATES = 200
"""To rerank, where the index has measured nothing."""
_ROOM = 2**21
"""Candidates that a thread keeps at a time, at most, unless one query needs more."""
_ALL = np.float32(np.inf)
_FILTERED = 1 / 20
"""Power of the share of the documents that may be found by which margins are wider."""
_FEW, _AMPLE = 1_000, 10
"""All partitions are visited for so few documents that may be found, or where fewer than so many times the hits that
are asked for lie in those near enough: each of them is wanted, wherever it lies."""
_ANYWHERE = frozen(np.empty(0, np.uint8))


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


class Target(NamedTuple):
    """A segment as kernels take it."""

    arrays: tuple[Signs, Stored, np.ndarray, np.ndarray]
    """See `kernels.group.search_group`."""
    start: int
    """Position at which it begins."""
    size: int
    """Documents."""


def find_dense(
    segments: Sequence[Segment],
    tables: QueryTables,
    queries: np.ndarray,
    masks: Sequence[np.ndarray | None],
    top_k: int,
    params: SearchParams,
    settings: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best documents for dense queries.

    Args:
        segments: of the index.
        tables: of the index.
        queries: float32, finite, shape (n, input_dim).
        masks: which documents of each segment may be found, bool; None for all.
        top_k: documents wanted.
        params: how to search.
        settings: of the index.

    Returns:
        scores and positions, shape (n, up to top_k).
    """
    targets = [
        Target((*segment.taken, _ANYWHERE if mask is None else frozen(mask.view(np.uint8))), start, segment.size)
        for segment, mask, start in zip(segments, masks, starts_of(segments)[:-1].tolist(), strict=True)
        if mask is None or mask.any()
    ]
    total = sum(target.size for target in targets)
    threads, n = count_threads(params.threads), len(queries)
    keys = np.zeros((n, min(top_k, total)), np.uint64)
    if not keys.size:
        return split_keys(keys)
    measured = find_measured(settings, params.recall)
    plan = _plan(params, settings, measured, keys.shape[1], total, _share_of(segments, masks))
    # On average, which of a plan by margin is measured.
    visited = total * min(measured.nprobe if measured else plan.nprobe, plan.nprobe) / settings["partitions"]
    parts = min(threads, plan.nprobe) if n < threads and visited > _LONG else 1
    _search_groups(targets, tables, queries, plan._replace(parts=parts), keys, threads)
    return split_keys(keys)


def _search_groups(
    targets: Sequence[Target], tables: QueryTables, queries: np.ndarray, plan: Plan, keys: np.ndarray, threads: int
) -> None:
    """Fill the keys of queries: groups of them at a time, or shares of the visits of each, as planned."""
    n, parts = len(queries), plan.parts
    size = 1 if parts > 1 else max(1, min(_GROUP, -(-n // threads), _ROOM // plan.depth))
    # All that are wanted may lie in the share of one thread.
    depth = plan.depth if parts == 1 else max(-(-plan.depth * 5 // (4 * parts)), keys.shape[1])
    plan = plan._replace(depth=depth)

    def prepare_group(first: int) -> Group:
        group = Group.room(frozen(queries[first : first + size]), tables, plan.nprobe)
        prepare(tables, group, plan.margin)
        return group

    shared = [prepare_group(first) for first in range(n)] if parts > 1 else []

    def search(first: int, part: int) -> np.ndarray:
        group = shared[first] if shared else prepare_group(first)
        found = np.zeros((len(targets), len(group.queries), keys.shape[1]), np.uint64)
        for target, best in zip(targets, found, strict=True):
            mine = plan._replace(part=part, depth=min(plan.depth, target.size))
            search_group(target.arrays, group, tables.whole, mine, target.start, best)
        return _best_keys(found, keys.shape[1])

    if n <= size and parts == 1:
        keys[:] = search(0, 0)
        return
    tasks = [(first, part) for first in range(0, n, size) for part in range(parts)]
    found = run(search, tasks, threads)
    for (first, _), *own in zip(tasks[::parts], *(found[part::parts] for part in range(parts)), strict=True):
        keys[first : first + size] = _best_keys(np.stack(own), keys.shape[1])


def _best_keys(found: np.ndarray, top_k: int) -> np.ndarray:
    """Return the best keys of several lists, shape (lists, n, top_k)."""
    if len(found) == 1:
        return found[0]
    joined = found.transpose(1, 0, 2).reshape(found.shape[1], -1)
    best: np.ndarray = np.sort(joined, axis=1)[:, ::-1][:, :top_k]
    return best


def _plan(
    params: SearchParams, settings: dict[str, Any], measured: Measured | None, top_k: int, total: int, share: float
) -> Plan:
    """Decide how many partitions are visited, and how many candidates are reranked, by what."""
    partitions, margin = settings["partitions"], _ALL
    nprobe = partitions if params.nprobe in ("auto", None) else int(params.nprobe)
    if params.nprobe == "auto" and measured is not None:
        allowed = share * total
        if allowed > _FEW and allowed * measured.nprobe >= _AMPLE * top_k * partitions:
            # The nearest of few lie further away, in more partitions.
            margin = np.float32(measured.margin * share**-_FILTERED)
    candidates = params.candidates or (measured.candidates if measured else DEFAULT_CANDIDATES)
    by = {"none": BY_SCAN, "codes": BY_CODES, "float16": BY_COPIES}.get(params.rerank)
    if by is None:
        by = BY_COPIES if "float16" in settings["copies"] else BY_CODES
    return Plan(min(nprobe, partitions), margin, min(max(int(candidates), top_k), total), by, 0, 1)


def _share_of(segments: Sequence[Segment], masks: Sequence[np.ndarray | None]) -> float:
    """Return the share of all documents that may be found."""
    total = sum(segment.size for segment in segments)
    allowed = sum(s.size if mask is None else np.count_nonzero(mask) for s, mask in zip(segments, masks, strict=True))
    return max(allowed, 1) / max(total, 1)


def masks_of(segments: Sequence[Segment], allowed: Iterable[Hashable] | np.ndarray | None) -> list[np.ndarray | None]:
    """Tell which documents of each segment may be found; None for all.

    Raises:
        ValueError: for a mask that has not one bool for every position.
    """
    if allowed is None:
        return [segment.alive for segment in segments]
    wanted = list_ids(allowed, "allowed")
    starts = starts_of(segments)
    if len(wanted) and not isinstance(wanted, np.ndarray) and all(isinstance(one, bool) for one in wanted):
        wanted = np.asarray(wanted)
    if isinstance(wanted, np.ndarray) and wanted.dtype == bool:
        if wanted.shape != (starts[-1],):
            raise ValueError(f"`allowed` has the shape {wanted.shape}, but there are {starts[-1]} positions.")
        chosen = [wanted[first:stop] for first, stop in itertools.pairwise(starts)]
    else:
        chosen = [np.zeros(segment.size, bool) for segment in segments]
        for segment, mask in zip(segments, chosen, strict=True):
            positions = segment.ids.positions_of(wanted)
            mask[positions[positions >= 0]] = True
    return [mask if s.alive is None else mask & s.alive for s, mask in zip(segments, chosen, strict=True)]


def starts_of(segments: Sequence[Segment]) -> np.ndarray:
    """Return the position at which each segment begins, and at which the last ends."""
    return np.array([0, *itertools.accumulate(segment.size for segment in segments)])


def ids_at(segments: Sequence[Segment], positions: np.ndarray) -> np.ndarray:
    """Return ids of positions; for -1 what stands for none."""
    if len(segments) == 1 and positions.size and positions.min() >= 0:
        return segments[0].ids.at(positions)
    if not segments or segments[0].ids.kind == "integers":
        ids = np.full(positions.shape, -1, np.int64)
    else:
        ids = np.full(positions.shape, None, object)
    for segment, (first, stop) in zip(segments, itertools.pairwise(starts_of(segments)), strict=True):
        here = (positions >= first) & (positions < stop)
        ids[here] = segment.ids.at(positions[here] - first)
    return ids
