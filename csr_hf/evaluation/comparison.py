"""Rows of a table: scores of every method, what they keep of the dense model's, and how sure both are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from csr_hf.evaluation.intervals import Resampled, resample_means
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.results import Row

Measured: TypeAlias = "np.ndarray | Resampled | float"
"""Scores of single queries, shape (n_queries,), whose mean is the score; a score with its resamples; or one alone."""


def compare_methods(
    task: str,
    methods: Iterable[Method],
    measure: Callable[[Method], Mapping[str, Measured]],
    *,
    n_documents: int | None = None,
) -> list[Row]:
    """Measure every method on a task.

    Args:
        task: its name in the rows.
        methods: of `all_methods`; retention is the share of the first one's score, which is the dense model's.
        measure: computes the scores of a method, by metric.
        n_documents: how many are searched; None where nothing is.

    Returns:
        A row for each method and metric, in this order. The number of queries and 95 % confidence intervals stand in
        rows whose scores were given query by query, or with resamples.
    """
    measured = [(method, metric, score) for method in methods for metric, score in measure(method).items()]
    by_query = {number: each[2] for number, each in enumerate(measured) if isinstance(each[2], np.ndarray)}
    # All at once: the same draws serve every method.
    known = dict(zip(by_query, resample_means(list(by_query.values())), strict=True))
    first: dict[str, float | Resampled] = {}
    rows = []
    for number, (method, metric, given) in enumerate(measured):
        found = known[number] if isinstance(given, np.ndarray) else given
        reference = first.setdefault(metric, found)
        score, dense = (each.score if isinstance(each, Resampled) else each for each in (found, reference))
        row = Row(task, metric, method.name, method.k, method.bytes_per_vector, score, score / dense if dense else 0.0)
        rows.append(_with_intervals(row, found, reference, n_documents))
    return rows


def _with_intervals(row: Row, found: Resampled | float, reference: Resampled | float, n_documents: int | None) -> Row:
    """Add what a row says of its queries, if its score was given with resamples."""
    if not isinstance(found, Resampled):
        return replace(row, n_documents=n_documents)
    share = found.interval_of_share(reference) if isinstance(reference, Resampled) else None
    return replace(
        row,
        n_queries=found.count,
        unit=found.unit,
        n_documents=n_documents,
        interval=found.interval(),
        retention_interval=share,
    )
