"""Plots of sweeps: scores and dead latents against what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from csr_hf.evaluation.plots import (
    Point,
    count_queries,
    draw_level,
    draw_line,
    finish_axes,
    make_figure,
    save_figure,
    set_log_axis,
    set_title,
)
from csr_hf.evaluation.results import Results, Row

_AXES = ("k", "hidden_dim", "max_steps")
_SWEPT = (*_AXES, "preset")
_STYLES = ({"marker": "o", "linestyle": "-"}, {"marker": "s", "linestyle": "--"}, {"marker": "^", "linestyle": ":"})


class SweepPoint(NamedTuple):
    """A method at one combination of a sweep."""

    method: str
    """Its name, without what the combination sets."""
    settings: dict[str, Any]
    """What the combination sets."""
    run: dict[str, Any]
    """The line of the combination in `details["runs"]`."""
    row: Row
    """Its score by the first metric."""

    def label(self, keys: Sequence[str]) -> str:
        """Name some settings, as far as the combination has them."""
        return ", ".join(_name_setting(key, self.settings[key]) for key in keys if key in self.settings)


def plot_sweep(results: Results, path: str | Path) -> None:
    """Draw a sweep as PNG: the score against k, hidden_dim and training time, and dead latents, as far as they vary.

    These are the paper's figures 1b and 4, 5, 1c and 8 (arXiv 2503.01776). Every method at every setting is a line of
    its own. Where nothing that has an axis varies, the combinations stand side by side.

    Args:
        results: of `csr_hf.runs.sweep.sweep`.
        path: the file to write, whole or not at all.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    points = sweep_points(results)
    varied = find_varied(points)
    on_axes: list[str | None] = [key for key in _AXES if any(len(line) > 1 for line in _lines(points, key))]
    panels = [(key, False) for key in on_axes or [None]]
    panels += [(key, True) for key in on_axes[:1] if key != "max_steps"]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    # Names of many combinations need room below the axis.
    wide = 0 if on_axes else 0.3 * len(results.details["runs"])
    figure = make_figure(8 * columns + wide, 5 * lines + wide / 2)
    for number, (key, is_dead) in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, number)
        if is_dead:
            _draw_dead(axes, points, str(key), varied)
        else:
            _draw_scores(axes, points, key, varied)
            _draw_dense(axes, results, points[0].row)
        set_title(axes, points[0].row.task, count_queries([points[0].row]))
        finish_axes(axes, has_error_bars=not is_dead and any(point.row.interval for point in points))
    save_figure(figure, path)


def shorten_names(results: Results) -> Results:
    """Name the rows of a sweep by what differs between its combinations, for a table; `k` has a column of its own."""
    points = sweep_points(results)
    varied = [key for key in find_varied(points) if key != "k"]
    endings = {f", {name_settings(point.settings)}": point.label(varied) for point in points}
    rows = []
    for row in results.rows:
        ending = next((ending for ending in endings if row.method.endswith(ending)), "")
        parts = (row.method.removesuffix(ending), endings.get(ending, ""))
        rows.append(replace(row, method=", ".join(filter(None, parts))))
    return replace(results, rows=rows)


def sweep_points(results: Results) -> list[SweepPoint]:
    """Find the rows of each combination of a sweep, by the metric that it was judged by."""
    points = []
    for run in results.details["runs"]:
        settings = swept_settings(run)
        ending = f", {name_settings(settings)}"
        points += [
            SweepPoint(row.method.removesuffix(ending), settings, run, row)
            for row in results.select(k=run["k"], metric=run["metric"])
            if row.method.endswith(ending)
        ]
    return points


def swept_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line of `details["runs"]` says of its combination: keys of variants have dots."""
    return {key: value for key, value in run.items() if key in _SWEPT or "." in key}


def name_settings(settings: Mapping[str, Any]) -> str:
    """Say in the name of a method what a combination of a sweep sets; rows have `k` in a column of their own."""
    steps = f"{settings['max_steps']} steps"
    more = [f"{key.rpartition('.')[2]} {value}" for key, value in settings.items() if key not in _AXES]
    return ", ".join([f"hidden_dim {settings['hidden_dim']}", steps, *more])


def find_varied(points: Sequence[SweepPoint]) -> list[str]:
    """Find the settings that differ, without those that another one decides, as presets do the steps."""
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    varied = [key for key in keys if _count_values(points, [key]) > 1]
    for key in ("max_steps", "hidden_dim"):
        others = [other for other in varied if other != key]
        if key in varied and others and _count_values(points, others) == _count_values(points, varied):
            varied = others
    return varied


def _count_values(points: Sequence[SweepPoint], keys: Sequence[str]) -> int:
    return len({tuple(str(point.settings.get(key)) for key in keys) for point in points})


def _name_setting(key: str, value: Any) -> str:
    if key == "preset":
        return str(value)
    return f"{value} steps" if key == "max_steps" else f"{key.rpartition('.')[2]} {value}"


def _lines(points: Sequence[SweepPoint], key: str | None) -> list[list[SweepPoint]]:
    """Group points of one method that differ in one setting alone; for None, all points of a method."""
    lines: dict[Any, list[SweepPoint]] = {}
    for point in points:
        others = {name: value for name, value in point.settings.items() if name != key} if key else {}
        lines.setdefault((point.method, str(sorted(others.items()))), []).append(point)
    return list(lines.values())


def _draw_scores(axes: Any, points: Sequence[SweepPoint], key: str | None, varied: Sequence[str]) -> None:
    """Draw a line for each method and setting over the axis of `key`; for None, points over names of combinations."""
    methods = list(dict.fromkeys(point.method for point in points))
    named = [name for name in varied if key and name != key]
    # Over an axis a color is a setting, and a line style a method; without one, a color is a method.
    colors = list(dict.fromkeys(point.label(named) for point in points)) if key else methods
    places = list(dict.fromkeys(point.label(varied) for point in points))
    for line in _lines(points, key):
        first = line[0]
        style = _STYLES[methods.index(first.method) % len(_STYLES)] | ({} if key else {"linestyle": ""})
        color = colors.index(first.label(named) if key else first.method)
        drawn = []
        for point in line:
            x = _place_on_axis(point, key) if key else places.index(point.label(varied))
            drawn.append(Point(x, point.row.score, *(point.row.interval or (point.row.score, point.row.score))))
        label = ", ".join(filter(None, (first.method, first.label(named))))
        draw_line(axes, drawn, label=label, color=f"C{color % 10}", **style)
    if not key:
        axes.set_xticks(range(len(places)), places, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    _label_axis(axes, points, key)
    axes.set_ylabel(points[0].row.metric)


def _draw_dead(axes: Any, points: Sequence[SweepPoint], key: str, varied: Sequence[str]) -> None:
    """Draw the share of dead latents over the axis of `key`; it is that of the head, so the same for all methods."""
    named = [name for name in varied if name != key]
    for line in _lines([point for point in points if point.method == points[0].method], key):
        label = line[0].label(named) or "all methods"
        shares = [Point(_place_on_axis(point, key), *[point.run["dead_fraction"]] * 3) for point in line]
        draw_line(axes, shares, label=label, marker="o")
    _label_axis(axes, points, key)
    axes.set_ylabel("share of dead latents")
    axes.set_ylim(bottom=0)


def _place_on_axis(point: SweepPoint, key: str) -> float:
    return float(point.run["seconds"] if key == "max_steps" else point.settings[key])


def _label_axis(axes: Any, points: Sequence[SweepPoint], key: str | None) -> None:
    if key in ("k", "hidden_dim"):
        set_log_axis(axes, {point.settings[key] for point in points})
    axes.set_xlabel("seconds of training" if key == "max_steps" else key or "")


def _draw_dense(axes: Any, results: Results, row: Row) -> None:
    for dense in results.select(method="dense", metric=row.metric, task=row.task):
        draw_level(axes, dense.score, f"dense float32, {dense.bytes_per_vector:,} bytes")
