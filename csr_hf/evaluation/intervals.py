"""How sure a score is: its confidence interval by the bootstrap, on resamples of its queries, pairs or draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

RESAMPLES = 1_000
"""Times that the queries of a task are drawn again."""

_SEED = 0
_PERCENTILES = (2.5, 97.5)
_NUMBERS_AT_A_TIME = 1 << 23

Interval: TypeAlias = tuple[float, float]
"""Low and high end of a 95 % confidence interval."""


def half_width(interval: Interval | None) -> float:
    """Return what tables show behind ±; 0 where there is no interval."""
    return 0.0 if interval is None else (interval[1] - interval[0]) / 2


@dataclass(frozen=True, eq=False)
class Resampled:
    """A score, and what it is on every resample."""

    score: float
    count: int
    """Queries, pairs or draws that it stands on."""
    resamples: np.ndarray
    """Its value on each resample, float64, shape (RESAMPLES,)."""
    unit: str = "queries"
    """What is counted: "queries", "pairs" or "draws"."""

    def interval(self) -> Interval | None:
        """Return the 95 % confidence interval of the score; None if some resample has no score."""
        return _interval(self.resamples)

    def interval_of_share(self, reference: Resampled) -> Interval | None:
        """Return that of its share of another score, resample by resample, where both stand on the same queries.

        Returns:
            None if they do not, or the other score is 0 on some resample.
        """
        if self.count != reference.count or not (reference.resamples > 0).all():
            return None
        return _interval(self.resamples / reference.resamples)


def resample_means(scores: Sequence[np.ndarray], stream: int = 0) -> list[Resampled]:
    """Compute means over queries, and those of every resample; all scores see the same resamples.

    Args:
        scores: of single queries, each of shape (n_queries,).
        stream: of draws, see `draw`.

    Returns:
        One for each of `scores`.

    Raises:
        ValueError: if they are of different lengths, or of none.
    """
    if not scores:
        return []
    lengths = sorted({len(each) for each in scores})
    if len(lengths) > 1 or lengths[0] == 0:
        raise ValueError(f"`scores` are of {lengths} queries. Give one for each query, the same queries for all.")
    columns = np.stack([np.asarray(each, np.float64) for each in scores], axis=1)
    count, exact = len(columns), columns.mean(axis=0)
    means = np.concatenate([_count_draws(drawn, count) @ columns for drawn in draw(count, stream)]) / count
    return [Resampled(float(exact[number]), count, means[:, number]) for number in range(len(scores))]


def draw(count: int, stream: int = 0) -> Iterator[np.ndarray]:
    """Draw `count` of `count` queries with replacement, for every resample; each call gives the same.

    Args:
        count: of the queries.
        stream: number of these draws among those that are independent of each other.

    Yields:
        Positions of queries, int64, shape (some resamples, count).
    """
    rng = np.random.default_rng([_SEED, stream])
    block = max(1, min(RESAMPLES, _NUMBERS_AT_A_TIME // max(1, count)))
    for start in range(0, RESAMPLES, block):
        yield rng.integers(0, count, (min(block, RESAMPLES - start), count))


def _count_draws(drawn: np.ndarray, count: int) -> np.ndarray:
    """Count how often each query was drawn, float64, shape (resamples, count)."""
    return np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def _interval(resamples: np.ndarray) -> Interval | None:
    if not np.isfinite(resamples).all():
        return None
    low, high = np.percentile(resamples, _PERCENTILES)
    return float(low), float(high)
