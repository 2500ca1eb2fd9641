"""Plots of results: shares of the dense score against bytes stored for a document."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from csr_hf.evaluation.line_labels import label_ends
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.atomic import write_whole

logger = logging.getLogger(__name__)

_STYLES: dict[str, dict[str, Any]] = {
    "CSR, packed": {"color": "#a4161a", "marker": "o", "linewidth": 2.4},
    "CSR + residual": {"color": "#e85d04", "marker": "*", "markersize": 9, "linewidth": 2.4},
    "CSR, decoded": {"color": "#d1495b", "marker": "o", "linewidth": 2.4},
    "CSR": {"color": "#edae49", "marker": "o", "linewidth": 2.4},
    "PCA": {"color": "#30638e", "marker": "s"},
    "truncation": {"color": "#7a8b99", "marker": "^"},
    "int8": {"color": "#3c887e", "marker": "D"},
    "binary": {"color": "#6a4c93", "marker": "P"},
    "PQ": {"color": "#55a630", "marker": "v"},
    "OPQ": {"color": "#2b6a1f", "marker": "<"},
    "RaBitQ": {"color": "#b5651d", "marker": ">"},
    "adapter": {"color": "#1f9bcf", "marker": "X"},
    "rotated signs": {"color": "#9d78c9", "marker": "p"},
}
# CSR in settings of any name: where it stands has to be seen at once.
_OWN_STYLE = {"marker": "o", "linewidth": 2.4}
# Sizes that are closer than this factor share a tick, or their numbers would overlap.
_APART = 1.25
_FONT = 10


class Point(NamedTuple):
    """A measured figure of a method."""

    x: float
    y: float
    low: float
    """Lower end of the interval; `y` itself where there is none."""
    high: float


def plot_retention(results: Results, path: str | Path, metric: str = "nDCG@10") -> None:
    """Draw retention against bytes per vector, one line for each method, as PNG.

    Where the results have 95 % confidence intervals, they are drawn as bars.

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
    figure = make_figure(9, 5.2)
    axes = figure.add_subplot()
    _draw_sizes(axes, [(row.method, _retention(row)) for row in rows])
    if dense is not None:
        draw_level(axes, 1, f"dense float32, {dense.bytes_per_vector:,} bytes: {metric} {dense.score:.3f}")
    axes.set_ylabel(f"share of the dense {metric}")
    set_title(axes, rows[0].task, count_queries(rows))
    finish_axes(axes, has_error_bars=any(row.retention_interval for row in rows))
    save_figure(figure, path)


def plot_task_types(results: Results, path: str | Path) -> None:
    """Draw mean retention against bytes per vector, a panel for each task type, a line for each method, as PNG.

    Bars are 95 % confidence intervals of the mean, where every task has them: those of the tasks, which are
    independent, together.

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
    lines = -(-len(panels) // columns)
    figure = make_figure(8 * columns, 4.8 * lines)
    for number, (kind, tasks) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(lines, columns, number)
        found: dict[tuple[str, int], list[Row]] = {}
        for row in results.rows:
            if row.task in tasks:
                found.setdefault((row.method, row.bytes_per_vector), []).append(row)
        # The mean of a method that was not measured on all tasks cannot be compared.
        whole = {key: rows for key, rows in found.items() if len(rows) == len(tasks)}
        points = [(method, _mean_retention(rows)) for (method, _), rows in whole.items()]
        _draw_sizes(axes, points)
        draw_level(axes, 1, "dense float32")
        axes.set_ylabel("share of the dense score" if len(tasks) == 1 else f"mean share of the dense score, {kind}")
        rows = [row for row in results.rows if row.task in tasks]
        set_title(axes, f"{kind}: {', '.join(tasks)}", count_queries(rows))
        finish_axes(axes, has_error_bars=any(point.low < point.high for _, point in points))
    save_figure(figure, path)


def make_figure(width: float, height: float) -> Any:
    """Make an empty figure of a size in inches.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "csr_hf[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_if_possible(draw: Callable[..., None], results: Results, path: Path, *details: Any) -> None:
    """Call a function that draws results into a file; log why there is no plot where matplotlib is missing."""
    try:
        draw(results, path, *details)
    except ImportError as error:
        logger.info("plot       none: %s", error)


def _retention(row: Row) -> Point:
    low, high = row.retention_interval or (row.retention, row.retention)
    return Point(row.bytes_per_vector, row.retention, low, high)


def _mean_retention(rows: Sequence[Row]) -> Point:
    points = [_retention(row) for row in rows]
    mean = sum(point.y for point in points) / len(points)
    if not all(row.retention_interval for row in rows):
        return Point(points[0].x, mean, mean, mean)
    below = math.hypot(*(point.y - point.low for point in points)) / len(points)
    above = math.hypot(*(point.high - point.y for point in points)) / len(points)
    return Point(points[0].x, mean, mean - below, mean + above)


def count_queries(rows: Sequence[Row]) -> str:
    """Say on how many queries, pairs or draws of each task the rows stand; empty where nothing says."""
    counts = {row.task: row for row in rows if row.n_queries is not None}
    units = " or ".join(dict.fromkeys(row.unit for row in counts.values()))
    return f"{' + '.join(f'{row.n_queries:,}' for row in counts.values())} {units}".strip()


def _draw_sizes(axes: Any, points: Sequence[tuple[str, Point]]) -> None:
    """Draw a line for each method through its points (x: bytes, y: retention); bytes are on a logarithmic axis."""
    for method in dict.fromkeys(method for method, _ in points if method != "dense"):
        line = [point for name, point in points if name == method]
        draw_line(axes, line, label=method, **_STYLES.get(method, _OWN_STYLE))
    set_log_axis(axes, {point.x for method, point in points if method != "dense"})
    axes.set_xlabel("bytes stored for a document", fontsize=_FONT)


def draw_line(axes: Any, points: Sequence[Point], **style: Any) -> None:
    """Draw a line from left to right, with a bar at every point that has an interval.

    Scores that are no number have no place, as correlations of what is constant.
    """
    points = sorted(point for point in points if all(map(math.isfinite, point)))
    if not points:
        return
    # A resampled interval need not hold the score itself.
    below = [max(point.y - point.low, 0) for point in points]
    above = [max(point.high - point.y, 0) for point in points]
    bars = {"yerr": (below, above), "elinewidth": 1, "capsize": 2} if any([*below, *above]) else {}
    axes.errorbar([point.x for point in points], [point.y for point in points], **bars, **style)


def draw_level(axes: Any, value: float, label: str) -> None:
    """Draw a dashed line across the panel, and write above it what it is."""
    axes.axhline(value, color="black", linewidth=1, linestyle="--", label=label)
    axes.annotate(
        label,
        xy=(0.5, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=_FONT - 1,
    )


def set_log_axis(axes: Any, values: set[float]) -> None:
    """Make the x axis logarithmic, with ticks at these values, as far as their numbers have room; the last has one."""
    ticks: list[float] = []
    for value in sorted(values, reverse=True):
        if not ticks or ticks[-1] >= _APART * value:
            ticks.append(value)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks[::-1], [f"{tick:,.6g}" for tick in ticks[::-1]])
    axes.set_xticks([], minor=True)


def set_title(axes: Any, title: str, below: str) -> None:
    """Write a title, and in a second line what the figures stand on."""
    axes.set_title(f"{title}\n{below}" if below else title, fontsize=_FONT + 1, wrap=True)


def finish_axes(axes: Any, *, has_error_bars: bool, bars: str = "95 % confidence") -> None:
    """Keep the axis of a share at or above 0, name every line at both of its ends, and explain the bars."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), high + 0.04 * (high - low))
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=_FONT, labelbottom=True, labelleft=True)
    axes.yaxis.label.set_size(_FONT)
    if has_error_bars:
        axes.text(0.99, 0.02, f"bars: {bars}", transform=axes.transAxes, ha="right", fontsize=_FONT - 2)
    label_ends(axes)


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png")
