"""What a search contest found: tables, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.plumbing.atomic import written_whole

if TYPE_CHECKING:
    from rich.table import Table

OURS = "csr_hf"
RECALLS = (0.95, 0.98)
"""At which contestants are compared."""


@dataclass
class Measured:
    """A contestant at one setting."""

    contestant: str
    setting: dict[str, Any]
    recall: float
    """Share of the dense exact top 10 that was found."""
    queries: int
    """In a batch."""
    batch_ms: list[float]
    """Of a query in a batch, turn by turn."""
    single_ms: list[list[float]]
    """Of every query that was asked alone, turn by turn."""
    bytes_per_vector: float
    build_seconds: float
    """Without the encoding, where it is built from codes."""
    build_peak_mb: float
    """Of all that the contestant builds: with several copies that rank, their indices together."""
    ndcg: float | None = None
    """nDCG@10 on the real task."""

    @property
    def label(self) -> str:
        """The setting in words."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items())

    @property
    def batch(self) -> float:
        """Median ms of a query in a batch."""
        return float(np.median(self.batch_ms))

    def single(self, percentile: float) -> float:
        """Percentile over all queries asked alone, ms."""
        return float(np.percentile(np.concatenate(self.single_ms), percentile))


def fastest_at(
    results: Sequence[Measured], recall: float, speed: Callable[[Measured], float]
) -> dict[str, Measured | None]:
    """The fastest setting of each contestant among those that reach a recall; None for who reaches it with none.

    Args:
        results: of all contestants.
        recall: to be reached; nothing is interpolated.
        speed: ms of a query.
    """
    found: dict[str, Measured | None] = {}
    for name in dict.fromkeys(one.contestant for one in results):
        reaching = [one for one in results if one.contestant == name and one.recall >= recall]
        found[name] = min(reaching, key=speed, default=None)
    return found


def turn_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """How many times longer the second took: the median of the ratios within each turn."""
    return float(np.median([b / a for a, b in zip(first, second, strict=True)]))


def matched(results: Sequence[Measured], recall: float) -> dict[str, dict[str, Any] | None]:
    """The fastest of each contestant at a recall, in batches and alone, and how many times longer than ours it takes.

    Returns:
        By contestant: None where no setting reaches the recall, else for "batch" and "single" the setting, its recall,
        ms of a query (p50 when single), and `times_ours`, which is None where ours does not reach it.
    """
    found: dict[str, dict[str, Any] | None] = {}
    speeds: dict[str, Callable[[Measured], float]] = {
        "batch": lambda one: one.batch,
        "single": lambda one: one.single(50),
    }
    turns: dict[str, Callable[[Measured], list[float]]] = {
        "batch": lambda one: one.batch_ms,
        "single": lambda one: [float(np.median(turn)) for turn in one.single_ms],
    }
    for kind, speed in speeds.items():
        fastest = fastest_at(results, recall, speed)
        ours = fastest.get(OURS)
        for name, one in fastest.items():
            if one is None:
                found[name] = None
                continue
            ratio = None if ours is None else turn_ratio(turns[kind](ours), turns[kind](one))
            entry = {"setting": one.label, "recall": one.recall, "ms": speed(one), "times_ours": ratio}
            found[name] = {**(found.get(name) or {}), kind: entry}
    return found


@dataclass
class SearchContest:
    """All that was measured, and the conditions."""

    results: list[Measured]
    skipped: dict[str, str]
    """Contestants that are not there, and why."""
    details: dict[str, Any]
    task: str | None = None
    """Where the nDCG was measured."""

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all: also medians, percentiles, and who is fastest at the same recall."""
        results = [
            {
                **{name: value for name, value in asdict(one).items() if name != "single_ms"},
                "label": one.label,
                "batch_ms_median": one.batch,
                "single_queries": len(one.single_ms[0]),
                "single_ms_median": [float(np.median(turn)) for turn in one.single_ms],
                "single_ms_p50": one.single(50),
                "single_ms_p99": one.single(99),
            }
            for one in self.results
        ]
        content = {
            "details": self.details,
            "task": self.task,
            "skipped": self.skipped,
            "results": results,
            "matched_recall": {str(recall): matched(self.results, recall) for recall in RECALLS},
        }
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def to_tables(self) -> list[Table]:
        """For the terminal: all settings, then the fastest of each contestant at the same recall."""
        return [self._all(), *(self._matched(recall) for recall in RECALLS)]

    def _all(self) -> Table:
        from rich.table import Table

        few = {one.contestant: one.queries for one in self.results if one.queries < self.details["queries"]}
        notes = [f"{name}: batches of {count} queries" for name, count in few.items()]
        notes.append(f"builds without the encoding of the codes, {self.details['encoding_seconds']:,.0f} s")
        notes += [f"without {name}: {reason}" for name, reason in self.skipped.items()]
        table = Table(title=f"{self.details['documents']:,} documents, ms a query", caption="\n".join(notes))
        table.add_column("")
        table.add_column("setting")
        columns = ["batch", "alone p50", "p99", "recall@10", "bytes", "build s", "peak MB"]
        for column in [*columns, *([f"nDCG@10 {self.task}"] if self.task else [])]:
            table.add_column(column, justify="right")
        for one in self.results:
            ndcg = [] if self.task is None else ["" if one.ndcg is None else f"{one.ndcg:.4f}"]
            table.add_row(
                one.contestant,
                one.label,
                *(f"{milliseconds:.3f}" for milliseconds in (one.batch, one.single(50), one.single(99))),
                f"{one.recall:.3f}",
                f"{one.bytes_per_vector:,.0f}",
                f"{one.build_seconds:,.1f}",
                f"{one.build_peak_mb:,.0f}",
                *ndcg,
            )
        return table

    def _matched(self, recall: float) -> Table:
        from rich.table import Table

        table = Table(
            title=f"the fastest with a recall of {recall} or more", caption=f"times: of {OURS}, turn by turn"
        )
        table.add_column("")
        for kind in ("batch", "alone"):
            table.add_column(f"{kind}: setting")
            for column in ("recall", "ms", "times"):
                table.add_column(column, justify="right")
        for name, found in matched(self.results, recall).items():
            cells = []
            for kind in ("batch", "single"):
                one = (found or {}).get(kind)
                if one is None:
                    cells += ["not reached", "", "", ""]
                    continue
                times = "" if one["times_ours"] is None else f"{one['times_ours']:.2f}"
                cells += [one["setting"], f"{one['recall']:.3f}", f"{one['ms']:.3f}", times]
            table.add_row(name, *cells)
        return table


def plot_search(contest: SearchContest, path: str | Path) -> None:
    """Draw recall against ms a query, in batches and alone, a line each contestant, as PNG.

    A line joins the settings that no other of the same contestant beats in both; the others are faint points.

    Args:
        contest: what was measured.
        path: the file to write, whole or not at all.

    Raises:
        ImportError: if matplotlib is missing, with the line to type.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "csr_hf[plots]"') from error
    figure = Figure(figsize=(13, 5.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    speeds: dict[str, Callable[[Measured], float]] = {
        "in batches": lambda one: one.batch,
        "alone, p50": lambda one: one.single(50),
    }
    for number, (title, speed) in enumerate(speeds.items(), 1):
        axes = figure.add_subplot(1, 2, number)
        for color, name in enumerate(dict.fromkeys(one.contestant for one in contest.results)):
            points = sorted((speed(one), one.recall) for one in contest.results if one.contestant == name)
            width = 2.6 if name == OURS else 1.4
            # Beyond ten contestants colors repeat, markers do not.
            marker = "os^"[color // 10 % 3]
            axes.plot(*zip(*frontier(points), strict=True), f"C{color % 10}{marker}-", linewidth=width, label=name)
            axes.plot(*zip(*points, strict=True), f"C{color % 10}.", alpha=0.35)
        axes.set_xscale("log")
        axes.set_xlabel(f"ms a query, {title}")
        axes.set_ylabel("recall of the dense exact top 10")
        axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{contest.details['documents']:,} documents, {contest.details['threads']} threads")
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (ms, recall) in ascending order of ms, those with more recall than all before them."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept
