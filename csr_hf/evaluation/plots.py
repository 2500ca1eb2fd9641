"""The plot that says it all: what is kept of the dense score against the bytes that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results
from csr_hf.plumbing.atomic import written_whole

_STYLES: dict[str, dict[str, Any]] = {
    "CSR, decoded": {"color": "#d1495b", "marker": "o", "linewidth": 2.4},
    "CSR + int8": {"color": "#8f2d56", "marker": "o", "linewidth": 1.4, "linestyle": ":"},
    "CSR + binary": {"color": "#c17c9b", "marker": "o", "linewidth": 1.4, "linestyle": ":"},
    "CSR": {"color": "#edae49", "marker": "o", "linewidth": 2.4},
    "PCA": {"color": "#30638e", "marker": "s"},
    "truncation": {"color": "#7a8b99", "marker": "^"},
    "int8": {"color": "#3c887e", "marker": "D"},
    "binary": {"color": "#6a4c93", "marker": "P"},
    "PQ": {"color": "#55a630", "marker": "v"},
}


def plot_retention(results: Results, path: str | Path, metric: str = "nDCG@10") -> None:
    """Draw retention against bytes per vector, one line a method, as PNG.

    Args:
        results: rows of one task (of several, the first is drawn).
        path: the file to write, whole or not at all.
        metric: which one to draw.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
        ValueError: if there are no rows of this metric.
    """
    rows = results.select(metric=metric)
    if not rows:
        raise ValueError(
            f"`metric` ({metric!r}) is in no row. Measured: {sorted({row.metric for row in results.rows})}."
        )
    rows = [row for row in rows if row.task == rows[0].task]
    dense = next((row for row in rows if row.method == "dense"), None)
    figure = _figure(7.5, 4.6)
    axes = figure.add_subplot()
    _draw(axes, [(row.method, row.bytes_per_vector, row.retention) for row in rows])
    if dense is not None:
        label = f"dense float32, {dense.bytes_per_vector} bytes: {metric} {dense.score:.3f}"
        axes.axhline(1, color="black", linewidth=1, linestyle="--", label=label)
    axes.set_ylabel(f"share of the dense {metric}")
    axes.set_title(rows[0].task)
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_task_types(results: Results, path: str | Path) -> None:
    """Draw mean retention against bytes per vector, one panel a task type, one line a method, as PNG.

    Args:
        results: of `evaluate_tasks`, whose details name each task's type.
        path: the file to write, whole or not at all.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    types = results.details["task_types"]
    panels: dict[str, list[str]] = {}
    for task in dict.fromkeys(row.task for row in results.rows):
        panels.setdefault(types[task], []).append(task)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(6.2 * columns, 4.2 * rows)
    for number, (kind, tasks) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        points: dict[tuple[str, int], list[float]] = {}
        for row in results.rows:
            if row.task in tasks:
                points.setdefault((row.method, row.bytes_per_vector), []).append(row.retention)
        # A method that failed on a task has no mean to compare.
        drawn = [(*key, sum(kept) / len(kept)) for key, kept in points.items() if len(kept) == len(tasks)]
        _draw(axes, drawn)
        axes.axhline(1, color="black", linewidth=1, linestyle="--", label="dense float32")
        axes.set_ylabel("share of the dense score")
        axes.set_title(f"{kind}: {', '.join(tasks)}", fontsize=10, wrap=True)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_sweep(results: Results, path: str | Path) -> None:
    """Draw what a sweep varied: score against k, hidden_dim and training time, dead latents against k, as PNG.

    The paper's figures 1b and 4, 5, 1c and 8 (arXiv 2503.01776). A panel whose axis has one value is left out.

    Args:
        results: of `csr_hf.runs.sweep.sweep`.
        path: the file to write, whole or not at all.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    runs = results.details["runs"]
    metric = runs[0]["metric"]
    panels = [
        (x, y, line)
        for x, y, line in (
            ("k", "score", "hidden_dim"),
            ("hidden_dim", "score", "k"),
            ("k", "dead_fraction", "hidden_dim"),
            ("seconds", "score", "hidden_dim"),
        )
        if len({run[x] for run in runs}) > 1
    ] or [("k", "score", "hidden_dim")]
    labels = {"score": metric, "dead_fraction": "share of dead latents", "seconds": "seconds of training"}
    columns = min(2, len(panels))
    figure = _figure(5.6 * columns, 4.0 * -(-len(panels) // columns))
    for number, (x, y, line) in enumerate(panels, 1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, number)
        for value in sorted({run[line] for run in runs}):
            points = sorted((run[x], run[y]) for run in runs if run[line] == value)
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{line} {value}")
        if x != "seconds":
            ticks = sorted({run[x] for run in runs})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.set_xlabel(labels.get(x, x))
        axes.set_ylabel(labels[y])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "csr_hf[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Any, points: list[tuple[str, int, float]]) -> None:
    """Lines of (method, bytes, retention), bytes on a logarithmic axis."""
    for method in dict.fromkeys(method for method, _, _ in points if method != "dense"):
        line = sorted((size, kept) for name, size, kept in points if name == method)
        axes.plot(*zip(*line, strict=True), label=method, **_STYLES.get(method, {"marker": "o"}))
    ticks = sorted({size for method, size, _ in points if method in ("CSR", "int8", "binary")})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=0, minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("bytes stored for a document")
    axes.grid(alpha=0.25)


def _save(figure: Any, path: str | Path) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
