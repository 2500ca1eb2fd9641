"""What was measured, as JSON, a table and a plot.

`search.json` holds

- `details`: command, machine, versions, threads, turns, seed, data (files, documents, queries, dim), head (sizes),
  the packages' versions among `versions`;
- `skipped`: reason by system that could not be built;
- `results`: one entry for each system and setting, with
  `system`, `setting` (parameters by name; null is no limit), `label` (the same in words),
  `recall` (share of the exact dense top 10), `queries` (of a batch),
  `batch_ms` (ms a query in a batch, by turn) and `batch_ms_median`,
  `single_queries`, `single_ms_median` (by turn), `single_ms_p50` and `single_ms_p99` (over all turns),
  `bytes_per_document`, `build_seconds` (from embeddings, encoding included) and `build_peak_mb`;
- `matched_recall`: for "0.9", "0.95" and "0.98", by system, `batch` and `single`: the fastest setting that reaches
  this recall (`setting`, `recall`, `ms`, `times_csr_hf`: how many times as long as csr_hf's fastest it takes, turn by
  turn), and between neighboring settings `interpolated_ms`, with `interpolated_times_csr_hf`. Null where no setting
  reaches it. csr_hf stands for the first of its systems that reaches the recall;
- `filters`: by system with filters, a line for each share of the documents that may be found, see `filters.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from csr_hf.evaluation.plots import finish_axes, make_figure, save_figure, set_log_axis, set_title
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.redaction import shareable
from measure import ratio_by_turn

RECALLS = (0.90, 0.95, 0.98)
"""At which systems are compared."""
_TICKS = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 3)]
OURS = "csr_hf"
"""How the names of csr_hf's systems begin."""


@dataclass
class Measured:
    """A system at one setting."""

    system: str
    setting: dict[str, Any]
    recall: float
    """Share of the exact dense top 10 that was found."""
    queries: int
    """In a batch."""
    batch_ms: list[float]
    """Of a query in a batch, by turn."""
    single_ms: list[list[float]]
    """Of every query that was searched alone, by turn."""
    bytes_per_document: float
    build_seconds: float
    """From embeddings, the encoding included."""
    build_peak_mb: float

    @property
    def label(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items())

    @property
    def batch_ms_median(self) -> float:
        """Median of the turns."""
        return float(np.median(self.batch_ms))

    @property
    def single_ms_median(self) -> list[float]:
        """Median of the queries, by turn."""
        return [float(np.median(turn)) for turn in self.single_ms]

    def single(self, percentile: float) -> float:
        """Return a percentile over all queries searched alone, ms."""
        return float(np.percentile(np.concatenate(self.single_ms), percentile))


_SPEEDS: dict[str, tuple[Callable[[Measured], float], Callable[[Measured], list[float]]]] = {
    "batch": (lambda one: one.batch_ms_median, lambda one: one.batch_ms),
    "single": (lambda one: one.single(50), lambda one: one.single_ms_median),
}
"""ms a query, altogether and by turn."""


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep those (ms, recall) that no faster one equals in recall, in ascending order."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def interpolated_ms(points: Sequence[tuple[float, float]], recall: float) -> float | None:
    """Interpolate ms on the frontier of (ms, recall), on a logarithmic scale; None where the recall is not reached.

    Where all points have more recall the fastest counts as it is.
    """
    line = frontier(points)
    if not line or line[-1][1] < recall:
        return None
    milliseconds, recalls = zip(*line, strict=True)
    return float(np.exp(np.interp(recall, recalls, np.log(milliseconds))))


def match_recall(results: Sequence[Measured], recall: float) -> dict[str, dict[str, Any] | None]:
    """Compare systems at the same recall; the module's docstring describes what is returned."""
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(one.system for one in results)
    for kind, (speed, turns) in _SPEEDS.items():
        reaching = [one for one in results if one.system.startswith(OURS) and one.recall >= recall]
        own = [one for one in results if reaching and one.system == reaching[0].system]
        ours = min((one for one in own if one.recall >= recall), key=speed, default=None)
        ours_between = interpolated_ms([(speed(one), one.recall) for one in own], recall)
        for name in found:
            of_it = [one for one in results if one.system == name]
            fastest = min((one for one in of_it if one.recall >= recall), key=speed, default=None)
            between = interpolated_ms([(speed(one), one.recall) for one in of_it], recall)
            if fastest is None or between is None:
                continue
            entry = {
                "setting": fastest.label,
                "recall": fastest.recall,
                "ms": speed(fastest),
                "times_csr_hf": None if ours is None else ratio_by_turn(turns(ours), turns(fastest)),
                "interpolated_ms": between,
                "interpolated_times_csr_hf": None if ours_between is None else between / ours_between,
            }
            found[name] = {**(found[name] or {}), kind: entry}
    return found


@dataclass
class Report:
    """All that was measured, and the conditions."""

    details: dict[str, Any]
    skipped: dict[str, str]
    results: list[Measured]
    filters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON without paths of this machine, whole or not at all."""
        results = []
        for one in self.results:
            figures = asdict(one) | {"label": one.label, "batch_ms_median": one.batch_ms_median}
            singles = {"single_queries": len(one.single_ms[0]), "single_ms_median": one.single_ms_median}
            figures |= singles | {"single_ms_p50": one.single(50), "single_ms_p99": one.single(99)}
            del figures["single_ms"]
            results.append({name: _rounded(value) for name, value in figures.items()})
        matched = {str(recall): match_recall(self.results, recall) for recall in RECALLS}
        content = {
            "details": shareable(self.details),
            "skipped": shareable(self.skipped),
            "results": results,
            "matched_recall": _rounded(matched),
            "filters": _rounded(self.filters),
        }
        with write_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def to_tables(self) -> list[Table]:
        """Make tables for the terminal: all settings, and the systems at the same recall."""
        data = self.details["data"]
        caption = "\n".join(f"without {name}: {reason}" for name, reason in self.skipped.items())
        title = f"{data['documents']:,} documents, {data['dim']} dimensions, ms a query"
        table = Table(title=title, caption=caption)
        for column in ("system", "setting"):
            table.add_column(column)
        for column in ("batch", "alone p50", "p99", "recall@10", "bytes", "build s", "peak MB"):
            table.add_column(column, justify="right")
        for one in self.results:
            speeds = (one.batch_ms_median, one.single(50), one.single(99))
            costs = (f"{one.build_seconds:,.1f}", f"{one.build_peak_mb:,.0f}")
            row = [*(f"{ms:.3f}" for ms in speeds), f"{one.recall:.3f}", f"{one.bytes_per_document:,.0f}", *costs]
            table.add_row(one.system, one.label, *row)
        return [table, *(self._matched(recall) for recall in RECALLS), *([self._filtered()] if self.filters else [])]

    def _filtered(self) -> Table:
        table = Table(title="among a part of the documents", caption="times: of the same search among all")
        for column in ("system", "share", "recall", "batch", "times", "alone", "times"):
            table.add_column(column, justify="left" if column == "system" else "right")
        for name, entries in self.filters.items():
            for one in entries:
                speeds = [f"{one[f'{kind}_{unit}']:.3f}" for kind in _SPEEDS for unit in ("ms", "times")]
                table.add_row(name, f"{one['share']:.0%}", f"{one['recall']:.3f}", *speeds)
        return table

    def _matched(self, recall: float) -> Table:
        table = Table(title=f"the fastest with a recall of {recall} or more", caption="times: of csr_hf's fastest")
        table.add_column("system")
        for kind in ("batch", "alone"):
            table.add_column(f"{kind}: setting")
            for column in ("recall", "ms", "times", "interpolated"):
                table.add_column(column, justify="right")
        for name, found in match_recall(self.results, recall).items():
            cells: list[str] = []
            for one in (found or {}).values():
                ratios = (one["times_csr_hf"], one["interpolated_times_csr_hf"])
                times = ("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
                cells += [one["setting"], f"{one['recall']:.3f}", f"{one['ms']:.3f}", *times]
            table.add_row(name, *(cells or ["not reached"]))
        return table

    def plot(self, path: Path) -> None:
        """Draw recall against ms a query, in batches and alone, a line for each system, as PNG.

        A line joins the settings that no other of the same system beats in both, with bars from the fastest to the
        slowest turn; the others are faint points.

        Raises:
            ImportError: if matplotlib is missing, with the line to type.
        """
        figure = make_figure(16, 6.4)
        names = {"batch": "in batches", "single": "alone, p50"}
        data = self.details["data"]
        stands_on = f"{data['documents']:,} documents of {data['dim']} dimensions, {data['queries']:,} queries, "
        stands_on += f"{self.details['threads']} threads"
        for number, (kind, (speed, turns)) in enumerate(_SPEEDS.items(), 1):
            axes = figure.add_subplot(1, 2, number)
            for place, name in enumerate(dict.fromkeys(one.system for one in self.results)):
                found = [one for one in self.results if one.system == name]
                points = [(speed(one), one.recall) for one in found]
                ranges = {point: (min(turns(one)), max(turns(one))) for point, one in zip(points, found, strict=True)}
                best = frontier(points)
                style = {"color": f"C{place % 10}", "marker": "os^Dv"[place % 5], "markersize": 5}
                style |= {"linewidth": 2.6 if name.startswith(OURS) else 1.4, "linestyle": "-" if place < 10 else "--"}
                bars = [[max(ms - ranges[ms, recall][0], 0) for ms, recall in best]]
                bars += [[max(ranges[ms, recall][1] - ms, 0) for ms, recall in best]]
                axes.errorbar(*zip(*best, strict=True), xerr=bars, elinewidth=1, capsize=2, label=name, **style)
                axes.plot(*zip(*points, strict=True), f"C{place % 10}.", alpha=0.35)
            fastest, slowest = (choose(speed(one) for one in self.results) for choose in (min, max))
            set_log_axis(axes, {tick for tick in _TICKS if fastest / 2 <= tick <= slowest * 2})
            axes.set_xlabel(f"ms a query, {names[kind]}")
            axes.set_ylabel("recall of the exact dense top 10")
            set_title(axes, f"{data['embeddings']}: queries {names[kind]}", stands_on)
            finish_axes(axes, has_error_bars=True, bars="fastest and slowest turn")
        save_figure(figure, path)


def _rounded(value: Any) -> Any:
    """Round floats in nested values to six significant digits, more than any clock has."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
