"""Search a segment for a group of queries: choose partitions, scan them, rerank what they hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.kernels.probing import choose_partitions
from csr_hf.search.kernels.products import Factors, multiply, round_queries
from csr_hf.search.kernels.queries import fill_sign_tables
from csr_hf.search.kernels.rerank import Stored, offer_all, score_codes, score_copies
from csr_hf.search.kernels.scan import FRONT, PENDING, Asked, Signs, scan
from csr_hf.search.kernels.topk import sort_heap

BY_SCAN, BY_CODES, BY_COPIES = 0, 1, 2
"""What candidates are ranked by."""


class QueryTables(NamedTuple):
    """What queries are multiplied with."""

    rotation: Factors
    """Orthogonal, a row for each dimension."""
    centers: Factors
    """Of the partitions."""
    atoms: Factors
    """Of the head."""
    bias: np.ndarray
    """Of the head, float32, shape (dim,)."""
    axes: Factors
    """Of residuals."""
    order: np.ndarray
    """Of the axes, as they are multiplied, -1 for none, int32, shape (places,); see `coding.scalar.order_axes`."""
    whole: int
    """Axes that have a byte of a residual."""


class Group(NamedTuple):
    """Some queries, with their products with everything that the index knows."""

    queries: np.ndarray
    """float32, shape (n, dim)."""
    asked: Asked
    """The same as the scan takes them."""
    atoms: np.ndarray
    """Products with atoms of the head, float32, shape (n, hidden_dim)."""
    bias: np.ndarray
    """Products with the bias of the head, float32, shape (n,)."""
    along: np.ndarray
    """Products with the axes of residuals, in their order, in integers, int16, shape (n, places)."""
    steps: np.ndarray
    """What one of `along` is worth, float32, shape (n,)."""

    @classmethod
    def room(cls, queries: np.ndarray, tables: QueryTables, nprobe: int) -> Group:
        """Make room for `prepare`: what a kernel returns as a tuple takes as long as a short search."""
        n, dim = queries.shape
        entries, chosen = np.empty((n, 32 * ((dim + 7) // 8)), np.uint8), np.empty((n, nprobe), np.int32)
        centers, atoms = (np.empty((n, len(each.steps)), np.float32) for each in (tables.centers, tables.atoms))
        steps, lengths, bias, worth = np.empty((4, n), np.float32)
        along = np.empty((n, len(tables.order)), np.int16)
        return cls(queries, Asked(entries, steps, lengths, centers, chosen), atoms, bias, along, worth)


class Plan(NamedTuple):
    """How a segment is searched."""

    nprobe: int
    """Partitions that a query visits, at most."""
    margin: np.float32
    """How far they may lie behind the first of them; see `probing.choose_partitions`."""
    depth: int
    """Candidates of a query, in each share."""
    by: int
    """One of `BY_SCAN`, `BY_CODES` and `BY_COPIES`."""
    part: int
    """Which share of the visits is made."""
    parts: int
    """How many shares there are."""


@jit()
def prepare(tables: QueryTables, group: Group, margin: np.float32) -> None:
    """Multiply queries with all that the index knows, make their tables, and choose the partitions that they visit.

    Args:
        tables: of the index.
        group: the queries, finite, and room for all else.
        margin: see `probing.choose_partitions`.
    """
    (n, dim), asked = group.queries.shape, group.asked
    width = tables.atoms.rows.shape[1]
    rounded, worth, natural = np.empty((n, width), np.int16), np.empty(n, np.float32), np.full(width, -1, np.int32)
    natural[:dim] = np.arange(dim)
    round_queries(group.queries, natural, rounded, worth)
    turned, along = np.empty((n, dim), np.float32), np.empty((n, tables.axes.steps.shape[0]), np.float32)
    multiply(tables.rotation, rounded, worth, turned)
    multiply(tables.axes, rounded, worth, along)
    round_queries(along, tables.order, group.along, group.steps)
    multiply(tables.centers, rounded, worth, asked.centers)
    multiply(tables.atoms, rounded, worth, group.atoms)
    fill_sign_tables(turned, asked.tables, asked.steps, asked.lengths)
    for i in range(n):
        group.bias[i] = 0
        for axis in range(dim):
            group.bias[i] += tables.bias[axis] * group.queries[i, axis]
        choose_partitions(asked.centers[i], margin, FRONT, asked.chosen[i])


@jit()
def search_group(
    segment: tuple[Signs, Stored, np.ndarray, np.ndarray],
    group: Group,
    whole: int,
    plan: Plan,
    start: int,
    keys: np.ndarray,
) -> None:
    """Find the best documents of a segment for some queries.

    Args:
        segment: its signs; what is stored; bits of float16 copies, uint16, shape (n, dim), or no rows; 1 for positions
            that may be found, uint8, empty if all may.
        group: the queries, by `prepare`.
        whole: axes that have a byte of a residual.
        plan: how to search.
        start: position at which the segment begins.
        keys: receives the best, in order, zeros behind them, uint64, shape (n, top_k).
    """
    signs, stored, copies, allowed = segment
    n = group.queries.shape[0]
    rows = np.empty((n, 2 * plan.depth + PENDING), np.int32)
    scores, counts = np.empty(rows.shape, np.float32), np.empty(n, np.int64)
    scan(signs, group.asked, (plan.part, plan.parts), allowed, plan.depth, rows, scores, counts)
    for i in range(n):
        candidates, own = rows[i, : counts[i]], scores[i, : counts[i]]
        if plan.by == BY_CODES:
            rest = group.along[i], group.steps[i], whole
            score_codes(stored, candidates, group.atoms[i], group.bias[i], rest, own)
        elif plan.by == BY_COPIES:
            score_copies(copies, candidates, group.queries[i], own)
        size = offer_all(candidates, own, signs.order, start, keys[i], 0)
        keys[i, size:] = 0
        sort_heap(keys[i], size)
