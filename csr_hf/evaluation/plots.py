"""The plot that says it all: what is kept of the dense score against the bytes that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_hf.atomic import written_whole
from csr_hf.evaluation.results import Results

_STYLES: dict[str, dict[str, Any]] = {
    "CSR, self-rescored": {"color": "#d1495b", "marker": "o", "linewidth": 2.4},
    "CSR": {"color": "#edae49", "marker": "o", "linewidth": 2.4},
    "PCA": {"color": "#30638e", "marker": "s"},
    "truncation": {"color": "#7a8b99", "marker": "^"},
    "int8": {"color": "#3c887e", "marker": "D"},
    "binary": {"color": "#6a4c93", "marker": "P"},
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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "csr_hf[plots]"') from error
    rows = results.select(metric=metric)
    if not rows:
        raise ValueError(
            f"`metric` ({metric!r}) is in no row. Measured: {sorted({row.metric for row in results.rows})}."
        )
    rows = [row for row in rows if row.task == rows[0].task]
    figure = Figure(figsize=(7.5, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method in dict.fromkeys(row.method for row in rows if row.method != "dense"):
        points = sorted((row.bytes_per_vector, row.retention) for row in rows if row.method == method)
        axes.plot(*zip(*points, strict=True), label=method, **_STYLES.get(method, {"marker": "o"}))
    dense = next((row for row in rows if row.method == "dense"), None)
    if dense is not None:
        label = f"dense float32, {dense.bytes_per_vector} bytes: {metric} {dense.score:.3f}"
        axes.axhline(1, color="black", linewidth=1, linestyle="--", label=label)
    ticks = sorted({row.bytes_per_vector for row in rows if row.method in ("CSR", "int8", "binary")})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=0, minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("bytes stored for a document")
    axes.set_ylabel(f"share of the dense {metric}")
    axes.set_title(rows[0].task)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
