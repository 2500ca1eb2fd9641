"""How much of the dense model's quality is kept: the quickstart, SciFact, seven tasks of MTEB, general and adapted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import yaml

from csr_hf.evaluation.equal_bytes import BudgetTable, Kept, join_numbers
from csr_hf.evaluation.results import Results, Row
from regions.markdown import ROOT, command, load_json, load_results, table

_QUICKSTART = ROOT / "model_cards" / "csr-all-MiniLM-L6-v2-python-docs" / "results"
_GENERAL = "all-MiniLM-L6-v2/results/general_k32"
_SEEDS = (_GENERAL, f"{_GENERAL}_seed1", f"{_GENERAL}_seed2")
_NINE = f"{_GENERAL}_9bytes"
_ADAPTED = {
    "SciFact": "all-MiniLM-L6-v2/results/scifact_k32",
    "MLQuestions": "all-MiniLM-L6-v2/results/mlquestions_k32",
}
_OWN = ("CSR, packed", "CSR + residual")
_CLOSEST = (*_OWN, "PQ", "OPQ", "RaBitQ", "binary")
_SHORT = {
    ("dense", 1536): "float32 embeddings",
    ("CSR + residual", 96): "packed codes with a residual",
    ("CSR, packed", 96): "packed codes",
    ("PQ", 96): "product quantization",
    ("CSR, packed", 48): "packed codes",
    ("OPQ", 48): "product quantization after a fitted rotation",
    ("PQ", 48): "product quantization",
    ("binary", 48): "sign bits",
    ("adapter", 48): "the first dimensions after a trained map, int8",
    ("truncation", 48): "the first dimensions, int8",
    ("CSR, packed", 24): "packed codes",
    ("PQ", 24): "product quantization",
    ("CSR, packed", 16): "packed codes",
    ("PQ", 16): "product quantization",
}
"""Method and bytes of the lines of the short table: what they are called there."""


def quickstart_table() -> str:
    """Show what the quickstart prints, as a table."""
    results = Results.load(_QUICKSTART)
    lines: dict[tuple, dict[str, Row]] = {}
    for row in results.rows:
        lines.setdefault((row.method, row.k, row.bytes_per_vector), {})[row.metric] = row
    cells = []
    for (method, k, size), found in lines.items():
        ndcg, neighbors = found["nDCG@10"], found["dense top 10"]
        figures = [*ndcg.shown(), neighbors.shown()[0]]
        cells.append([method, str(k or ""), str(size), *figures])
    return table(["method", "k", "bytes", "nDCG@10", "retention", "dense top 10"], cells)


def quickstart_head() -> str:
    """Show the line about the head that the quickstart prints."""
    from csr_hf.training.head_metrics import describe_variance

    found = yaml.safe_load((_QUICKSTART / "recipe.yaml").read_text(encoding="utf-8"))["results"]
    return (
        f"explained variance {describe_variance(found)}, {found['dead_fraction']:.1%} dead latents, "
        f"{found['seconds']:.0f} s"
    )


def short_table() -> str:
    """Compare ways to store an embedding on SciFact, by what they are called in plain words."""
    results = load_results(_GENERAL)
    lines = []
    for (method, size), name in _SHORT.items():
        row = largest_within(results.select(task="SciFact", method=method), size)
        lines.append([name, f"{row.bytes_per_vector:,}", f"{row.score:.3f}", f"{row.retention:.1%}"])
    return table(["stored for each document", "bytes", "nDCG@10", "kept"], lines)


def tasks_table(without: str | None = None) -> str:
    """Show what each method keeps within each budget, mean over tasks; CSR as the mean over three seeds.

    Args:
        without: a task to leave out; then only codes and quantizers are shown.
    """
    found = [load_results(folder) for folder in _SEEDS]
    if without is not None:
        found = [Results([row for row in each.rows if row.task != without], each.details) for each in found]
    tables = [require_budgets(results) for results in found]
    merged = {name: line for name, line in tables[0].lines.items() if without is None or name in _CLOSEST}
    for method in _OWN:
        seeds = [each.lines[method] for each in tables if method in each.lines]
        if seeds:
            merged[method] = [average_seeds(kept) for kept in zip(*seeds, strict=True)]
    header, body = BudgetTable(tables[0].budgets, merged).to_cells(lambda figure: f"**{figure}**")
    return table(header, body)


def nine_bytes_table() -> str:
    """Show the same within 9 bytes, of the first seed."""
    found = require_budgets(load_results(_NINE))
    return table(*found.to_cells(lambda figure: f"**{figure}**"))


def tasks_summary() -> str:
    """Say how far three seeds differ, how sure the means are, and where a rival is ahead."""
    tables = [require_budgets(load_results(folder)) for folder in _SEEDS]
    kept = [[found.lines[_OWN[0]][place] for found in tables] for place in range(len(tables[0].budgets))]
    shown = [sorted(each.retention for each in seeds if each) for seeds in kept]
    ranges = ", ".join(f"{low[0]:.3f} to {low[-1]:.3f}" for low in shown)
    budgets = join_numbers(tables[0].budgets)
    widest = max(each.width for found in tables[0].lines.values() for each in found if each)
    return (
        f"Three seeds of the head keep {ranges} within {budgets} bytes by packed codes. Half the width of the 95 % "
        f"interval of a mean over the tasks is at most {widest:.3f}. Of the first seed: {tables[0].describe_rivals()}"
    )


def by_task_table(budget: int) -> str:
    """Show what each method keeps of each task within one budget."""
    results = load_results(_GENERAL)
    tasks = list(dict.fromkeys(row.task for row in results.rows))
    main = {row.task: row.metric for row in reversed(results.rows)}
    methods = dict.fromkeys(row.method for row in results.rows if row.bytes_per_vector <= budget)
    lines = []
    for method in methods:
        if method in ("CSR", "CSR, decoded"):
            continue
        rows = [largest_within(results.select(task=task, metric=main[task], method=method), budget) for task in tasks]
        lines.append([method, str(rows[0].bytes_per_vector), *(f"{row.retention:.3f}" for row in rows)])
    return table(["method", "bytes", *tasks], lines)


def codes_by_k_table() -> str:
    """Show what sparse codes keep at each k, mean over seven tasks."""
    results = load_results(_GENERAL)
    main = {row.task: row.metric for row in reversed(results.rows)}
    lines = []
    for k in (4, 8, 16, 32, 64):
        cells = [str(k)]
        for method in ("CSR", "CSR, decoded"):
            rows = [row for row in results.select(method=method, k=k) if row.metric == main[row.task]]
            kept = sum(row.retention for row in rows) / len(rows)
            cells += [*([str(rows[0].bytes_per_vector)] if method == "CSR" else []), f"{kept:.3f}"]
        lines.append(cells)
    return table(["k", "bytes", "CSR", "CSR, decoded"], lines, left=0)


def adapted_table() -> str:
    """Compare the general head with adapted ones, and with PQ fitted on either text, within each budget."""
    general = load_results(_GENERAL)
    lines, budgets = [], require_budgets(general).budgets
    for task, folder in _ADAPTED.items():
        for kind, results in (("general", general), ("adapted", load_results(folder))):
            for method in (*_OWN, "PQ"):
                rows = results.select(task=task, metric="ndcg_at_10", method=method)
                shown = [largest_within(rows, budget, missing_ok=True) for budget in budgets]
                cells = ["" if row is None else f"{row.retention:.3f}" for row in shown]
                lines.append([task, kind, method, *cells])
    return table(["task", "fitted on", "method", *(f"{budget} bytes" for budget in budgets)], lines, left=3)


def postings(head: str) -> float:
    """Return the postings that a query and a document share, on average over held-out rows."""
    return load_json(f"all-MiniLM-L6-v2/results/{head}/training.json")["results"]["postings_per_document"]


def pairs_head(method: str, task: str) -> str:
    """Return what the general head that was trained by contrast of pairs keeps of a task."""
    (row,) = load_results("all-MiniLM-L6-v2/results/general_pairs").select(task=task, method=method, k=32)
    return f"{row.retention:.3f}"


def command_of(folder: str) -> str:
    """Show the command that wrote a results file."""
    return command(load_results(folder).details["command"])


def largest_within(rows: Sequence[Row], budget: int, *, missing_ok: bool = False) -> Any:
    """Return the row of the largest setting within a budget of bytes."""
    fitting = [row for row in rows if row.bytes_per_vector <= budget]
    if not fitting and not missing_ok:
        raise ValueError(f"no setting takes at most {budget} bytes")
    return max(fitting, key=lambda row: row.bytes_per_vector, default=None)


def require_budgets(results: Results) -> BudgetTable:
    """Return the table at equal bytes of results that have one."""
    if results.budgets is None:
        raise ValueError("the results were not measured at given bytes")
    return results.budgets


def average_seeds(kept: Sequence[Kept | None]) -> Kept | None:
    """Average what several seeds keep; None where one has no setting."""
    known = [each for each in kept if each is not None]
    if len(known) < len(kept):
        return None
    size = max(each.size for each in known)
    return Kept(size, sum(each.retention for each in known) / len(known), max(each.width for each in known))


REGIONS = {
    "quickstart": quickstart_table,
    "quickstart-head": quickstart_head,
    "scifact": short_table,
    "seven-tasks": tasks_table,
    "seven-tasks-summary": tasks_summary,
    "nine-bytes": nine_bytes_table,
    "nine-bytes-command": partial(command_of, _NINE),
    "six-tasks": partial(tasks_table, "ClusTREC-Covid"),
    "seven-tasks-command": partial(command_of, _GENERAL),
    "by-task": partial(by_task_table, 48),
    "codes-by-k": codes_by_k_table,
    "adapted": adapted_table,
    "pairs-scifact": partial(pairs_head, "CSR", "SciFact"),
    "pairs-mlquestions": partial(pairs_head, "CSR", "MLQuestions"),
    "pairs-scifact-decoded": partial(pairs_head, "CSR, decoded", "SciFact"),
    "pairs-mlquestions-decoded": partial(pairs_head, "CSR, decoded", "MLQuestions"),
    "pairs-postings": lambda: f"{postings('general_pairs'):.2f}",
    "general-postings": lambda: f"{postings('general_k32_arrays'):.2f}",
}
