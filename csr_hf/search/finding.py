"""Queries asked of a segment: one by one or in groups, on how many threads, in one stage or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import run
from csr_hf.search import kernels, scanning
from csr_hf.search.queries import PreparedQueries, SignQueries
from csr_hf.search.ranking import split_keys
from csr_hf.search.routing import Query, SecondStage, Stored, group_size
from csr_hf.search.segment import LISTS, SIGNS

_COPIES = ("int8", "int8_scale", "float16")
_NO_COPIES = (
    frozen(np.empty((0, 0), np.int8)),
    frozen(np.empty(0, np.float32)),
    frozen(np.empty((0, 0), np.uint16)),
)
_ALL_ALLOWED = frozen(np.empty(0, np.uint8))
_SHARE, _SCAN_SHARE = 128, 8192
"""Visits of a query that are worth a thread of their own: blocks to add up, sub-blocks to scan."""
_ALONE = 8
"""Queries a thread from which they pass over the blocks together."""


class Asked(NamedTuple):
    """What a search asks of a segment, and at what cost."""

    queries: PreparedQueries
    """Prepared for its index."""
    allowed: np.ndarray | None
    """bool, shape (n,): documents that may be found, by position; None for all."""
    threads: int
    """At work."""
    nprobe: int | None
    """Blocks to visit; None for all."""


def find(arrays: Mapping[str, np.ndarray], asked: Asked, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` documents by codes alone, or by their signs if the queries are prepared for these.

    Args:
        arrays: of a `Segment`.
        asked: of it.
        depth: documents wanted, no more than there are.

    Returns:
        float32 scores and int64 positions, shape (n_queries, depth), best first; -inf and -1 for none. By signs they
        are in any order.
    """
    queries, n = asked.queries, len(asked.queries.factors)
    if not n or not depth:
        return np.empty((n, depth), np.float32), np.empty((n, depth), np.int64)
    parts = _shares(arrays, asked)
    keys = np.zeros((parts, n, depth), np.uint64)
    if queries.signs is None:
        _add_up(arrays, asked, keys)
    else:
        _scan(arrays, asked, queries.signs, depth, _NO_COPIES, keys)
    merged = keys[0]
    if parts > 1:
        merged = np.ascontiguousarray(np.sort(keys.transpose(1, 0, 2).reshape(n, -1), axis=1)[:, : -depth - 1 : -1])
    return split_keys(merged, queries.factors)


def find_ranked(
    arrays: Mapping[str, np.ndarray], asked: Asked, kind: str, depth: int, top_k: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both stages in one pass: by a copy the best `top_k` of the best `depth` by signs; None if that cannot be.

    Args:
        arrays: as for `find`.
        asked: as for `find`.
        kind: the second stage.
        depth: candidates.
        top_k: documents wanted, no more than there are.

    Returns:
        as `find`, of the shape (n_queries, top_k), best first.
    """
    queries, n = asked.queries, len(asked.queries.factors)
    if queries.signs is None or kind not in _COPIES or not n or not top_k:
        return None
    # Threads that share a query would each have candidates of their own.
    if _shares(arrays, asked) > 1:
        return None
    rounded, scale, halves = (
        arrays[name] if name.startswith(kind) else none for name, none in zip(_COPIES, _NO_COPIES, strict=True)
    )
    keys = np.zeros((1, n, top_k), np.uint64)
    _scan(arrays, asked, queries.signs, depth, (rounded, scale, halves), keys)
    return split_keys(keys[0], queries.factors)


def _add_up(arrays: Mapping[str, np.ndarray], asked: Asked, keys: np.ndarray) -> None:
    """Fill `keys`, of the shape (shares, n_queries, depth), by posting lists."""
    queries, probes = asked.queries, _probes(arrays, asked.nprobe)
    stored = Stored(tuple(arrays[name] for name in LISTS), _documents(arrays, asked.allowed), arrays["summary"])
    parts, _, depth = keys.shape

    def one(i: int, part: int) -> None:
        query = Query(queries.latents[i], queries.coarse[i], queries.steps[i])
        kernels.search_query(stored, query, probes, (part, parts), keys[part, i])

    def many(first: int, stop: int) -> None:
        group = Query(queries.latents[first:stop], queries.coarse[first:stop], queries.steps[first:stop])
        kernels.search_group(stored, group, probes, keys[0, first:stop])

    _ask(one, many, keys, group_size(depth, len(arrays["bits"]), probes), asked.threads)


def _scan(
    arrays: Mapping[str, np.ndarray],
    asked: Asked,
    signs: SignQueries,
    depth: int,
    copies: tuple[np.ndarray, np.ndarray, np.ndarray],
    keys: np.ndarray,
) -> None:
    """Fill `keys`, of the shape (shares, n_queries, wanted), by signs, and by copies if there are any."""
    queries, probes = asked.queries, _probes(arrays, asked.nprobe)
    stored = Stored(tuple(arrays[name] for name in SIGNS), _documents(arrays, asked.allowed), arrays["summary"])
    (tables, dense), parts = signs, len(keys)

    def one(i: int, part: int) -> None:
        query, second = Query(queries.latents[i], queries.coarse[i], tables[i]), SecondStage(copies, dense[i : i + 1])
        scanning.scan_query(stored, query, probes, (part, parts), depth, second, keys[part, i])

    def many(first: int, stop: int) -> None:
        group = Query(queries.latents[first:stop], queries.coarse[first:stop], tables[first:stop])
        second = SecondStage(copies, dense[first:stop])
        scanning.scan_group(stored, group, probes, depth, second, keys[0, first:stop])

    _ask(one, many, keys, group_size(depth, len(arrays["bits"]), _sub_blocks(arrays, probes)), asked.threads)


def _ask(
    one: Callable[[int, int], None], many: Callable[[int, int], None], keys: np.ndarray, group: int, threads: int
) -> None:
    """Ask queries one by one, each in as many parts as `keys` has, or, where there are many, in groups."""
    parts, n, _ = keys.shape
    if n < _ALONE * threads:
        run(one, [(i, part) for i in range(n) for part in range(parts)], threads)
    else:
        group = min(group, -(-n // threads))
        run(many, [(first, min(first + group, n)) for first in range(0, n, group)], threads)


def _documents(
    arrays: Mapping[str, np.ndarray], allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What kernels know of all documents: rows where blocks begin, scale, mask and order."""
    mask = _ALL_ALLOWED if allowed is None else frozen(allowed[arrays["order"]].view(np.uint8))
    return arrays["rows"], arrays["scale"], mask, arrays["order"]


def _probes(arrays: Mapping[str, np.ndarray], nprobe: int | None) -> int:
    """Blocks that a query visits."""
    blocks = len(arrays["bits"])
    return min(nprobe or blocks, blocks)


def _sub_blocks(arrays: Mapping[str, np.ndarray], probes: int) -> int:
    """Sub-blocks that a query scans which visits so many blocks."""
    return probes if probes < len(arrays["bits"]) else len(arrays["binary_rows"]) - 1


def _shares(arrays: Mapping[str, np.ndarray], asked: Asked) -> int:
    """How many threads share a query: few queries cannot occupy all, so their visits are shared out."""
    if len(asked.queries.factors) >= 2 * asked.threads:
        return 1
    visits, share = _probes(arrays, asked.nprobe), _SHARE
    if asked.queries.signs is not None:
        visits, share = _sub_blocks(arrays, visits), _SCAN_SHARE
    return max(min(asked.threads, -(-visits // share)), 1)
