"""How far a long step is: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
_WARM_UP = 3.0


class Pace:
    """Steps a second once a task has warmed up: what is compiled or loaded at its start says nothing of the rest."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._since: tuple[float, float] | None = None

    def observe(self, done: float) -> None:
        """Take note of how much is done."""
        now = time.monotonic()
        if self._since is None and now - self._began >= _WARM_UP:
            self._since = now, done

    def rate(self, done: float) -> float:
        """Return the steps a second since the warm-up; 0 while it is not known."""
        if self._since is None:
            return 0.0
        seconds, steps = time.monotonic() - self._since[0], done - self._since[1]
        return steps / seconds if seconds >= 1 else 0.0


class Bar(tqdm):
    """A bar of tqdm whose estimate of what is left begins after the warm-up."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._pace = Pace()
        super().__init__(*args, **options)

    def __iter__(self) -> Iterator[Any]:
        for value in self.iterable:
            yield value
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Count steps, and draw the bar if it is time."""
        self._pace.observe(self.n + (n or 0))
        drawn: bool | None = super().update(n)
        return drawn

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar shows."""
        return {**super().format_dict, "rate": self._pace.rate(self.n)}


class LoggedProgress:
    """A line in the log every few seconds, for what is no terminal; used like a bar of tqdm.

    Args:
        iterable: what to loop over; None where it is updated by hand.
        desc: what is being done.
        unit: what is counted.
        total: how many there are; default the length of `iterable`.
        initial: how many are done before.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        initial: int = 0,
    ) -> None:
        self.n: float = initial
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self._iterable, self._desc, self._unit = iterable, desc, unit
        self._pace, self._logged = Pace(), time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for value in self._iterable or ():
            yield value
            self.update()

    def __enter__(self) -> LoggedProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """Count steps, and log a line if it is time."""
        self.n += n
        self._pace.observe(self.n)
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = time.monotonic()
            logger.info("%s", self.describe())

    def describe(self) -> str:
        """Say how much is done: `embedding text: 12,288 of 50,000 (25%), 01:10 left`."""
        if not self.total:
            return f"{self._desc}: {self.n:,} {self._unit}s"
        rate, share = self._pace.rate(self.n), int(100 * self.n / self.total)
        left = f", {tqdm.format_interval((self.total - self.n) / rate)} left" if rate else ""
        return f"{self._desc}: {self.n:,} of {self.total:,} ({share}%){left}"

    def set_description(self, desc: str) -> None:
        """Say what is being done from now on."""
        self._desc = desc

    def set_postfix(self, ordered_dict: Mapping[str, Any] | None = None, **values: Any) -> None:
        """Ignore figures: the log of the training has them."""

    def close(self) -> None:
        """End; nothing is logged."""
