"""Measure searches among a part of the documents, beside the same search among all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from csr_hf.evaluation.neighbors import neighbor_recall, top_neighbors
from data import TOP_K, SearchData
from measure import ratio_by_turn, time_in_turns
from systems import System

SHARES = (0.01, 0.1, 0.5)
"""Of the documents, drawn at random, that may be found."""
_SEED = 0


def measure_filters(system: System, data: SearchData, turns: int, single: int) -> list[dict[str, Any]]:
    """Search among every share of the documents with the defaults of a system, and among all.

    Args:
        system: built, with filters.
        data: what is searched.
        turns: measurements of each, after one to warm up.
        single: queries that are searched one by one in a turn.

    Returns:
        For 1.0 and each share `share`, `recall` of the exact nearest among the allowed documents, `batch_ms` and
        `single_ms` a query (medians of the turns, and of the queries), and how many times as long they take as the
        search among all documents: `batch_times`, `single_times`.
    """
    drawn = np.random.default_rng(_SEED).random(len(data.documents))
    entries, runs = [], []
    for share in (1.0, *SHARES):
        allowed = None if share == 1 else drawn <= share
        entries.append({"share": share, "recall": _recall(system, data, allowed)})
        runs.append((f"{share:.0%}, in batches", _time(system, data.queries, allowed, at_once=True)))
        runs.append((f"{share:.0%}, alone", _time(system, data.queries[:single], allowed, at_once=False)))
    taken = time_in_turns(runs, turns)
    for at, entry in enumerate(entries):
        for name, seconds, whole in zip(("batch", "single"), taken[2 * at : 2 * at + 2], taken[:2], strict=True):
            entry[f"{name}_ms"] = 1000 * float(np.median(seconds))
            entry[f"{name}_times"] = ratio_by_turn(whole, seconds)
    return entries


def _recall(system: System, data: SearchData, allowed: np.ndarray | None) -> float:
    true = data.neighbors
    if allowed is not None:
        positions = np.flatnonzero(allowed)
        true = positions[top_neighbors(data.queries, data.documents[positions], TOP_K)]
    return float(neighbor_recall(system.search_among(allowed, data.queries, TOP_K), true).mean())


def _time(system: System, queries: np.ndarray, allowed: np.ndarray | None, *, at_once: bool) -> Callable[[], float]:
    """Return what measures seconds a query: of all queries at once, or the median of single ones."""

    def run() -> float:
        taken = []
        for asked in [queries] if at_once else [queries[at : at + 1] for at in range(len(queries))]:
            began = time.perf_counter()
            system.search_among(allowed, asked, TOP_K)
            taken.append((time.perf_counter() - began) / len(asked))
        return float(np.median(taken))

    return run
