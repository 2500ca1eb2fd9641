"""Contestants timed in turns on the same machine, and what is written about it."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from csr_hf.plumbing.atomic import written_whole
from csr_hf.runs.recipe import versions

if TYPE_CHECKING:
    from rich.table import Table

_PAGE = 4096


@dataclass(frozen=True)
class Contestant:
    """One way to do the work."""

    name: str
    run: Callable[[], float]
    """Do the work once; seconds it took."""
    work: int | None = None
    """Units of work in one measurement, where it is not what the others do."""


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
        work: units of work in one measurement, for those who do not say.
        progress: show a bar.
    """
    from tqdm.auto import tqdm

    timings = [Timing(contestant.name, [], contestant.work or work) for contestant in contestants]
    with tqdm(total=(repeats + 1) * len(contestants), unit="run", disable=not progress) as bar:
        for turn in range(repeats + 1):
            for contestant, timing in zip(contestants, timings, strict=True):
                bar.set_description(contestant.name)
                seconds = contestant.run()
                if turn:
                    timing.seconds.append(seconds)
                bar.update()
    return timings


def touch_memory(nbytes: int) -> None:
    """Have so much memory at hand, at most half of what is free, for what is timed next.

    A virtual machine may be given its memory only as it is first touched, and gives it back seconds after it is freed:
    a quick build would be timed doing little else. It is to be called before each contestant.
    """
    block = np.empty(min(nbytes, psutil.virtual_memory().available // 2), np.uint8)
    block[::_PAGE] = 1


class PeakMemory:
    """Memory that a block of code takes at most beyond what was there before: `with PeakMemory() as peak: ...`.

    Pages of mapped files are left out: the system takes them back when it wants. Memory that earlier work freed and
    the process kept may be used again and then does not show.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._largest = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def mb(self) -> float:
        """MB so far."""
        return (self._largest - self._before) / (1 << 20)

    def __enter__(self) -> PeakMemory:
        self._before = self._largest = self._held()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self._largest = max(self._largest, self._held())

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._largest = max(self._largest, self._held())

    def _held(self) -> int:
        info = self._process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))


class Cost(NamedTuple):
    """What a build takes."""

    seconds: float
    peak_mb: float
    """Memory beyond what was there before it."""


def cost_of(build: Callable[[], None], nbytes: int) -> Cost:
    """Build, with so much memory at hand that was touched before, see `touch_memory`: that is no part of the cost."""
    gc.collect()
    touch_memory(nbytes)
    with PeakMemory() as peak:
        began = time.perf_counter()
        build()
        seconds = time.perf_counter() - began
    return Cost(seconds, peak.mb)


def conditions(packages: Sequence[str] = ()) -> dict[str, Any]:
    """The machine, and the versions of what a result depends on.

    Args:
        packages: more of them, as pip names them; those that are not installed are left out.
    """
    found = versions()
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = psutil.virtual_memory().total / (1 << 30)
    parts = [found.pop("machine"), _processor(), f"{memory:.0f} GiB"]
    return {"machine": ", ".join(part for part in parts if part), "versions": found}


def _processor() -> str:
    """Its model, where Linux says; else nothing."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
