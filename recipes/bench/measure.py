"""Measure systems side by side: time in turns, peak memory, the cost of a build, and the machine."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from csr_hf.plumbing.logs import progress_bar
from csr_hf.plumbing.provenance import provenance

_PAGE = 4096


def time_in_turns(runs: Sequence[tuple[str, Callable[[], float]]], turns: int) -> list[list[float]]:
    """Run everything once to warm up, then `turns` times, each turn in the same order.

    Whatever slows the machine down for a while so slows all systems down alike.

    Args:
        runs: what is timed, by name; a run returns the seconds it took.
        turns: measurements of each.

    Returns:
        Seconds of each run, by turn.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    with progress_bar(desc="timing", unit="run", total=(turns + 1) * len(runs)) as bar:
        for turn in range(turns + 1):
            for (name, run), taken in zip(runs, seconds, strict=True):
                bar.set_description(name)
                once = run()
                if turn:
                    taken.append(once)
                bar.update()
    return seconds


def ratio_by_turn(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute how many times longer the second took: the median of the ratios within each turn."""
    return float(np.median([b / a for a, b in zip(first, second, strict=True)]))


def touch_memory(nbytes: int) -> None:
    """Touch memory, at most half of what is free, so that what is timed next finds it at hand.

    A virtual machine may be given its memory only as it is first touched, and loses it seconds after it is freed: a
    quick build would spend most of its time on that.
    """
    block = np.empty(min(nbytes, psutil.virtual_memory().available // 2), np.uint8)
    block[::_PAGE] = 1


class PeakMemory:
    """Memory that a block of code takes at most beyond what was in use before: `with PeakMemory() as peak: ...`.

    Pages of mapped files are left out: the system takes them back when it wants. Memory that earlier work freed is
    given back first where the C library can (glibc); elsewhere it may be used again and then does not show.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._largest = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def mb(self) -> float:
        """The peak so far, in MB."""
        return (self._largest - self._before) / (1 << 20)

    def __enter__(self) -> PeakMemory:
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)
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
    """Memory beyond what was in use before, in MB."""

    def after(self, earlier: Cost) -> Cost:
        """Return the cost of two steps, one after the other."""
        return Cost(self.seconds + earlier.seconds, max(self.peak_mb, earlier.peak_mb))


def cost_of(build: Callable[[], Any], nbytes: int) -> Cost:
    """Build, and measure what that takes.

    Args:
        build: what is measured.
        nbytes: memory to touch before, see `touch_memory`; that is no part of the cost.
    """
    gc.collect()
    touch_memory(nbytes)
    with PeakMemory() as peak:
        began = time.perf_counter()
        build()
        seconds = time.perf_counter() - began
    return Cost(seconds, peak.mb)


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Keep this process on `threads` cores, and torch to as many threads: it holds for packages that ask nobody.

    Raises:
        ValueError: for fewer than 1, or more than there are cores.
    """
    import torch

    # Which cores a process may use, Linux alone knows.
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    if not 1 <= threads <= len(cores):
        raise ValueError(f"`--threads` ({threads}) must be between 1 and the cores of this machine ({len(cores)}).")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)


def conditions(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Describe command, machine and versions, as `provenance` does, with processor, memory and further packages.

    Args:
        packages: as pip names them; those that are not installed are left out.
    """
    found = provenance()
    for name in packages:
        try:
            found["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = psutil.virtual_memory().total / (1 << 30)
    found["machine"] = ", ".join(filter(None, [found["machine"], _processor(), f"{memory:.0f} GiB"]))
    return found


def _processor() -> str:
    """Return the processor's model where Linux tells it, else nothing."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
