"""Rows of a table: scores of every method, and what they keep of the dense model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from csr_hf.evaluation.method import Method
from csr_hf.evaluation.results import Row


def compare_methods(
    task: str, methods: Iterable[Method], measure: Callable[[Method], Mapping[str, float]]
) -> list[Row]:
    """Measure every method on a task.

    Args:
        task: its name in the rows.
        methods: of `all_methods`; retention is the share of the first one's score, which is the dense model's.
        measure: computes the scores of a method, by metric.

    Returns:
        A row for each method and metric, in this order.
    """
    first: dict[str, float] = {}
    rows = []
    for method in methods:
        for metric, score in measure(method).items():
            reference = first.setdefault(metric, score)
            retention = score / reference if reference else 0.0
            rows.append(Row(task, metric, method.name, method.k, method.bytes_per_vector, score, retention))
    return rows
