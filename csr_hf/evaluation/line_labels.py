"""Names at both ends of the lines of a plot: no legend has to be searched, and none hides a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_FONT = 9
# Inches of a letter and of a line of this font, and of the gap between a line and its name.
_LETTER, _LINE, _GAP = 0.078, 0.17, 0.22
_MOST_ROOM = 0.36


class _End(NamedTuple):
    """Where a line begins or ends, and its name."""

    x: float
    y: float
    name: str
    color: Any


def label_ends(axes: Any) -> None:
    """Write the name of each line left of its first point and right of its last one, none upon another.

    A line of one point has its name at the right. The axis is widened on both sides to make room.

    Args:
        axes: with lines of `errorbar`; scale and limits of the y axis are final.
    """
    lines = [(each.get_label(), each.lines[0]) for each in axes.containers if hasattr(each, "has_yerr")]
    named = [(str(name), line.get_xydata(), line.get_color()) for name, line in lines if len(line.get_xydata())]
    if not named:
        return
    starts = [_End(points[0, 0], points[0, 1], name, color) for name, points, color in named if len(points) > 1]
    ends = [_End(points[-1, 0], points[-1, 1], name, color) for name, points, color in named]
    width, height = _panel_inches(axes)
    rooms = [_room_for(found, width) for found in (starts, ends)]
    xs = np.concatenate([points[:, 0] for _, points, _ in named])
    _widen(axes, float(xs.min()), float(xs.max()), rooms)
    gap = _GAP / 2 / width
    for found, place, side in ((starts, rooms[0] - gap, "right"), (ends, 1 - rooms[1] + gap, "left")):
        _write_names(axes, found, place, side, _LINE / height)


def spread(places: Sequence[float], apart: float) -> np.ndarray:
    """Move ascending numbers in [0, 1] as little as may be, so that neighbors are so far apart as there is room for.

    Args:
        places: ascending, shape (n,).
        apart: wanted between neighbors.
    """
    count = len(places)
    apart = min(apart, 1 / max(count, 1))
    # What is left when the gaps are taken away must ascend: the means of neighbors that do not (isotonic regression).
    groups: list[list[float]] = []
    for number, place in enumerate(places):
        groups.append([place - number * apart, 1])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            mean, size = groups.pop()
            groups[-1] = [(groups[-1][0] * groups[-1][1] + mean * size) / (groups[-1][1] + size), groups[-1][1] + size]
    level = np.repeat([mean for mean, _ in groups], [int(size) for _, size in groups])
    return np.clip(level, apart / 2, 1 - (count - 0.5) * apart) + apart * np.arange(count)


def _panel_inches(axes: Any) -> tuple[float, float]:
    """Estimate the size of a panel without the numbers and words around it."""
    figure, grid = axes.get_figure(), axes.get_subplotspec().get_gridspec()
    width, height = figure.get_size_inches()
    return width / grid.ncols - 0.9, height / grid.nrows - 1.1


def _room_for(ends: Sequence[_End], width: float) -> float:
    """Say which share of the width the longest name takes."""
    longest = max((len(end.name) for end in ends), default=0)
    return min((longest * _LETTER + _GAP) / width, _MOST_ROOM) if longest else 0.04


def _widen(axes: Any, low: float, high: float, rooms: Sequence[float]) -> None:
    """Set the limits of the x axis so that there is room on both sides of the points, as shares of the width."""
    is_log = axes.get_xscale() == "log"
    low, high = (np.log2([low, high]) if is_log else np.array([low, high])).tolist()
    span = (high - low or 1.0) / (1 - sum(rooms))
    left, right = low - rooms[0] * span, high + rooms[1] * span
    axes.set_xlim(*(np.exp2([left, right]) if is_log else (left, right)))


def _write_names(axes: Any, ends: Sequence[_End], place: float, side: str, apart: float) -> None:
    """Write names in a column, each joined with the end of its line."""
    bottom, top = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end.y)
    heights = [min(max((end.y - bottom) / (top - bottom), 0), 1) for end in ends]
    for end, height in zip(ends, spread(heights, apart), strict=True):
        axes.annotate(
            end.name,
            xy=(end.x, end.y),
            xytext=(place, height),
            textcoords="axes fraction",
            ha=side,
            va="center",
            color=end.color,
            fontsize=_FONT,
            annotation_clip=False,
            # A level that passes behind a name does not strike it out.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            arrowprops={"arrowstyle": "-", "color": end.color, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1},
        )
