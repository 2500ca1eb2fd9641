"""The paper's claim on text: a head on the frozen model against the model fine-tuned by Matryoshka losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from csr_hf.evaluation.results import Results, Row
from regions.markdown import RECIPES, load_json, load_results, table
from regions.quality import largest_within

_FOLDER = "paper/results/text"
_GENERAL = "all-MiniLM-L6-v2/results/general_k32"
_HEAD = ("CSR, packed", "CSR + residual")
_WIDE = 1536


class Point(NamedTuple):
    """A fine-tuned model that was measured."""

    rate: str
    """Learning rate."""
    minutes: str
    batches: str
    """Of 64 pairs that it had seen."""
    results: Results


def minutes_table() -> str:
    """Show what each model keeps of the frozen model's scores within each budget, and the minutes it took."""
    general, lines = load_results(_GENERAL), []
    budgets: Sequence[int] = general.details["budgets"]
    minutes = load_json(f"{_FOLDER}/minutes.json")
    head = minutes["embedding_minutes"] + minutes["training_minutes"]
    for tasks, trained in _points():
        lines += [[f"**{len(tasks)} tasks**", *([""] * (len(budgets) + 3))]]
        for name, took, batches, results, method in (
            ("frozen MiniLM, truncated", "0", "", general, "truncation"),
            ("frozen MiniLM, adapter", f"{minutes['embedding_minutes']:.0f} and its fit", "", general, "adapter"),
            *((f"frozen MiniLM, {method}", f"{head:.0f}", "", general, method) for method in _HEAD),
            *(
                (f"fine-tuned at {point.rate}, truncated", point.minutes, point.batches, point.results, "truncation")
                for point in trained
            ),
        ):
            cells = [_mean(results, general, tasks, method, budget) for budget in budgets]
            whole = _mean(results, general, tasks, "dense", _WIDE) if method == "truncation" else ""
            lines.append([name, took, batches, *cells, whole])
    header = ["model", "minutes", "batches", *(f"{budget} bytes" for budget in budgets), "all 1,536 bytes"]
    return table(header, lines)


def _points() -> Iterator[tuple[list[str], list[Point]]]:
    """List each set of tasks that was measured, most tasks first, with the models that were measured on all of it."""
    found = []
    for rate in sorted((RECIPES / _FOLDER).glob("lr_*")):
        for point in load_json(f"{_FOLDER}/{rate.name}/training.json")["points"]:
            if (rate / point["folder"]).is_dir():
                results = load_results(f"{_FOLDER}/{rate.name}/{point['folder']}")
                minutes = f"{point['minutes']:.0f}"
                found.append(Point(rate.name.removeprefix("lr_"), minutes, f"{point['step']:,}", results))
    sets = dict.fromkeys(tuple(dict.fromkeys(row.task for row in point.results.rows)) for point in found)
    for tasks in sorted(sets, key=len, reverse=True):
        yield list(tasks), [point for point in found if set(tasks) <= {row.task for row in point.results.rows}]


def _mean(results: Results, general: Results, tasks: Sequence[str], method: str, budget: int) -> str:
    """Return the mean over tasks of a method's score, as a share of the frozen model's."""
    shares = []
    for task in tasks:
        (dense,) = _main(general, task, "dense")
        row = largest_within(_main(results, task, method), budget, missing_ok=True)
        if row is None:
            return ""
        shares.append(row.score / dense.score)
    return f"{sum(shares) / len(shares):.3f}"


def _main(results: Results, task: str, method: str) -> list[Row]:
    """Select a method's rows of a task by the task's main score, which is the first."""
    rows = results.select(task=task, method=method)
    return [row for row in rows if row.metric == rows[0].metric]


REGIONS = {"paper-text": minutes_table}
