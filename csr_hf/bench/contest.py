"""Contestants timed in turns on the same machine, and what is written about it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.atomic import written_whole

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Contestant:
    """One way to do the work."""

    name: str
    run: Callable[[], float]
    """Do the work once; seconds it took."""


@dataclass
class Timing:
    """Repeated measurements of a contestant."""

    name: str
    seconds: list[float]
    work: int
    """Units of work in one measurement, for example training examples."""
    peak_mb: float | None = None
    """Memory that the work took beyond what was there before it, in MB."""

    @property
    def rate(self) -> float:
        """Median units of work a second."""
        return self.work / statistics.median(self.seconds)


@dataclass
class Contest:
    """All timings, and the conditions."""

    title: str
    unit: str
    """What the work is counted in."""
    timings: list[Timing]
    details: dict[str, Any] = field(default_factory=dict)

    def ratio(self, name: str, other: str) -> float:
        """How many times faster than another: the median of the ratios within each turn."""
        first, second = (next(t for t in self.timings if t.name == wanted) for wanted in (name, other))
        turns = zip(first.seconds, second.seconds, strict=True)
        return statistics.median(b / a for a, b in turns) * first.work / second.work

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        ratios = {t.name: self.ratio(self.timings[0].name, t.name) for t in self.timings[1:]}
        content = {**asdict(self), "rates": {t.name: t.rate for t in self.timings}, "times_faster": ratios}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def to_table(self) -> Table:
        """For the terminal: the first contestant is what the others are compared with."""
        from rich.table import Table

        table = Table(title=self.title, caption=f"times slower: than {self.timings[0].name}, turn by turn")
        table.add_column("")
        for column in (f"{self.unit} a second", "slowest", "fastest", "times slower", "peak MB"):
            table.add_column(column, justify="right")
        for timing in self.timings:
            ratio = self.ratio(self.timings[0].name, timing.name)
            rates = [timing.work / seconds for seconds in timing.seconds]
            table.add_row(
                timing.name,
                f"{timing.rate:,.0f}",
                f"{min(rates):,.0f}",
                f"{max(rates):,.0f}",
                f"{ratio:.2f}",
                "" if timing.peak_mb is None else f"{timing.peak_mb:,.0f}",
            )
        return table


def compete(contestants: Sequence[Contestant], repeats: int, work: int, *, progress: bool = True) -> list[Timing]:
    """Time every contestant `repeats` times, in turns, after one run of each that does not count.

    Args:
        contestants: to be compared.
        repeats: measurements of each.
        work: units of work in one measurement.
        progress: show a bar.
    """
    from tqdm.auto import tqdm

    timings = [Timing(contestant.name, [], work) for contestant in contestants]
    with tqdm(total=(repeats + 1) * len(contestants), unit="run", disable=not progress) as bar:
        for turn in range(repeats + 1):
            for contestant, timing in zip(contestants, timings, strict=True):
                bar.set_description(contestant.name)
                seconds = contestant.run()
                if turn:
                    timing.seconds.append(seconds)
                bar.update()
    return timings
