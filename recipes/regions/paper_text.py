"""The paper's claim on text: a head on the frozen model against the model fine-tuned by Matryoshka losses."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from csr_hf.evaluation.results import Results, Row
from regions.markdown import RECIPES, load_json, load_results, table
from regions.quality import largest_within

FOLDER = "paper/results/text"
PACKED = "CSR, packed"
_SEEDS = [f"all-MiniLM-L6-v2/results/general_k32{seed}" for seed in ("", "_seed1", "_seed2")]
_METHODS = (PACKED, "CSR + residual")
TRUNCATION = "truncation"
_WHOLE = 1536
"""Bytes of an embedding of float32."""


class Measured(NamedTuple):
    """A model, or a head on one, with a way to store its embeddings."""

    model: str
    rate: str | None
    """Learning rate of the fine-tuning; None for the frozen model."""
    batches: int
    """Of 64 pairs that it was fine-tuned on."""
    minutes: float | None
    """Of one core; None where they were not measured."""
    method: str
    results: list[Results]
    """One for each seed of the head."""

    def share(self, tasks: Sequence[str], budget: int) -> float | None:
        """Compute what is kept of the frozen model's scores within a budget of bytes: the mean over tasks and seeds.

        None if a task has no setting within it.
        """
        frozen, shares = load_results(_SEEDS[0]), []
        for task in tasks:
            (dense,) = _select(frozen, task, "dense")
            method = "dense" if budget == _WHOLE else self.method
            for results in self.results:
                row = largest_within(_select(results, task, method), budget, missing_ok=True)
                if row is None:
                    return None
                shares.append(row.score / dense.score)
        return fmean(shares)

    @property
    def tasks(self) -> list[str]:
        """List the tasks that it was measured on."""
        return list(dict.fromkeys(row.task for row in self.results[0].rows))


def list_frozen() -> list[Measured]:
    """List what can be had of the frozen model."""
    seeds, embedding, head = [load_results(seed) for seed in _SEEDS], *_count_minutes()
    return [
        Measured("frozen MiniLM, truncated", None, 0, 0.0, TRUNCATION, seeds[:1]),
        Measured("frozen MiniLM, adapter", None, 0, None, "adapter", seeds[:1]),
        *(Measured(f"frozen MiniLM, {method}", None, 0, embedding + head, method, seeds) for method in _METHODS),
    ]


def list_trained() -> list[Measured]:
    """List the fine-tuned models, by learning rate and minutes, each with the heads that were trained on it."""
    found, more = [], sum(_count_minutes())
    for rate in sorted((RECIPES / FOLDER).glob("lr_*")):
        name = f"fine-tuned at {rate.name.removeprefix('lr_')}"
        for point in load_json(f"{FOLDER}/{rate.name}/training.json")["points"]:
            folder = f"{FOLDER}/{rate.name}/{point['folder']}"
            of_model = (rate.name.removeprefix("lr_"), point["step"])
            if (RECIPES / folder / "results.json").is_file():
                results = [load_results(folder)]
                found += [Measured(f"{name}, truncated", *of_model, point["minutes"], TRUNCATION, results)]
            if (RECIPES / folder / "csr" / "results.json").is_file():
                heads, minutes = [load_results(f"{folder}/csr")], point["minutes"] + more
                found += [Measured(f"{name}, {method}", *of_model, minutes, method, heads) for method in _METHODS]
    return found


def minutes_table() -> str:
    """Show what each model keeps of the frozen model's scores within each budget, and the minutes it took.

    All tasks come first, with the models that were measured on all, then those tasks that every model was measured on.
    """
    frozen, trained, lines = list_frozen(), list_trained(), []
    budgets: Sequence[int] = frozen[0].results[0].details["budgets"]
    every = frozen[0].tasks
    common = [task for task in every if all(task in each.tasks for each in trained)]
    for tasks in (every, common) if common != every else (every,):
        lines += [[f"**{len(tasks)} tasks**", *([""] * (len(budgets) + 3))]]
        for each in [*frozen, *(each for each in trained if set(tasks) <= set(each.tasks))]:
            minutes = f"{_count_minutes()[0]:.0f} and its fit" if each.minutes is None else f"{each.minutes:.0f}"
            shares = [each.share(tasks, budget) for budget in budgets]
            whole = each.share(tasks, _WHOLE) if each.method == TRUNCATION else None
            cells = ["" if share is None else f"{share:.3f}" for share in (*shares, whole)]
            lines.append([each.model, minutes, f"{each.batches:,}" if each.batches else "", *cells])
    header = ["model", "minutes", "batches", *(f"{budget} bytes" for budget in budgets), f"all {_WHOLE:,} bytes"]
    return table(header, lines)


def _count_minutes() -> tuple[float, float]:
    """Return the minutes that a head takes: for embedding, and for its training."""
    minutes = load_json(f"{FOLDER}/minutes.json")
    return minutes["embedding_minutes"], minutes["training_minutes"]


def _select(results: Results, task: str, method: str) -> list[Row]:
    """Select a method's rows of a task by the task's main score, which is the first."""
    rows = results.select(task=task, method=method)
    return [row for row in rows if row.metric == rows[0].metric]


REGIONS = {"paper-text": minutes_table}
