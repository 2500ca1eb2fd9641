"""Plots of results: retention of the dense score against bytes stored for a document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results
from csr_hf.plumbing.atomic import write_whole

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
# x, y, and what has a line of its own for each value.
_SWEEP_PANELS = (
    ("k", "score", "hidden_dim"),
    ("hidden_dim", "score", "k"),
    ("k", "dead_fraction", "hidden_dim"),
    ("seconds", "score", "hidden_dim"),
)


def plot_retention(results: Results, path: str | Path, metric: str = "nDCG@10") -> None:
    """Draw retention against bytes per vector, one line for each method, as PNG.

    Args:
        results: rows of one task; of several, the first is drawn.
        path: the file to write, whole or not at all.
        metric: the one to draw.

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
    """Draw mean retention against bytes per vector, a panel for each task type, a line for each method, as PNG.

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
        # The mean of a method that was not measured on all tasks cannot be compared.
        drawn = [(*key, sum(kept) / len(kept)) for key, kept in points.items() if len(kept) == len(tasks)]
        _draw(axes, drawn)
        axes.axhline(1, color="black", linewidth=1, linestyle="--", label="dense float32")
        axes.set_ylabel("share of the dense score")
        axes.set_title(f"{kind}: {', '.join(tasks)}", fontsize=10, wrap=True)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_sweep(results: Results, path: str | Path) -> None:
    """Draw a sweep: score against k, hidden_dim and training time, dead latents against k, as PNG.

    The paper's figures 1b and 4, 5, 1c and 8 (arXiv 2503.01776). A panel whose axis has one value is left out.

    Args:
        results: of `csr_hf.runs.sweep.sweep`.
        path: the file to write, whole or not at all.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    runs = results.details["runs"]
    panels = [panel for panel in _SWEEP_PANELS if len({run[panel[0]] for run in runs}) > 1] or _SWEEP_PANELS[:1]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(5.6 * columns, 4.0 * lines)
    for number, (x, y, line) in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, number)
        for value in sorted({run[line] for run in runs}):
            points = sorted((run[x], run[y]) for run in runs if run[line] == value)
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{line} {value}")
        if x != "seconds":
            _set_log_axis(axes, {run[x] for run in runs})
        axes.set_xlabel("seconds of training" if x == "seconds" else x)
        axes.set_ylabel(runs[0]["metric"] if y == "score" else "share of dead latents")
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
    """Draw a line for each method through its points (method, bytes, retention); bytes are on a logarithmic axis."""
    for method in dict.fromkeys(method for method, _, _ in points if method != "dense"):
        line = sorted((size, kept) for name, size, kept in points if name == method)
        axes.plot(*zip(*line, strict=True), label=method, **_STYLES.get(method, {"marker": "o"}))
    _set_log_axis(axes, {size for method, size, _ in points if method in ("CSR", "int8", "binary")})
    axes.set_xlabel("bytes stored for a document")
    axes.grid(alpha=0.25)


def _set_log_axis(axes: Any, values: set[int]) -> None:
    """Make the x axis logarithmic, with a tick at each of these values."""
    ticks = sorted(values)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _save(figure: Any, path: str | Path) -> None:
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png")
