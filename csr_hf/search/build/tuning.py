"""Measure on documents of the index how many partitions and candidates find what is nearest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from csr_hf.search.build.partitions import unit_rows
from csr_hf.search.kernels.scan import FRONT
from csr_hf.search.params import Measured

GOALS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
"""Recalls that settings are measured for."""
_ASKED, _TOP_K = 1000, 10
# Of what a goal leaves, this much more is found: documents that ask find their like more easily than questions do.
_ABOVE = 0.2
# Less than the most there is, which nearly all partitions have to be visited for.
_BELOW = 0.003
_FEWEST = 2000
_GROWTH = 1.5
_CANDIDATES = (50, 100, 200, 400)
_CHUNK = 32_768
# Nanoseconds of a document that is scanned, and of one that is reranked.
_SCANNED, _RERANKED = 1.2, 200.0

Search = Callable[[np.ndarray, int, float, int], np.ndarray]
"""Returns positions of hits, given queries, hits, the margin of partitions (see `kernels.probing`) and candidates."""


class Margins:
    """How far behind their first partitions some queries go, to visit so many on average.

    Args:
        queries: float32, shape (n, dim).
        centers: of the partitions, float32, shape (partitions, dim).
        front: partitions that are visited in any case.
    """

    def __init__(self, queries: np.ndarray, centers: np.ndarray, front: int = FRONT) -> None:
        scores = -np.sort(-(queries @ centers.T), axis=1)
        self.partitions, self._asked = len(centers), len(queries)
        self._gaps = np.sort((scores[:, min(front, len(centers)) - 1 :][:, :1] - scores).ravel())

    def at(self, nprobe: int) -> float:
        """Return the margin with which queries visit so many partitions on average."""
        return max(float(self._gaps[nprobe * self._asked - 1]), 0.0)


class Curve:
    """What is found where ever more partitions are visited.

    Args:
        margins: of the queries.
        recall: what is found by a margin.
    """

    def __init__(self, margins: Margins, recall: Callable[[float], float]) -> None:
        steps = range(math.ceil(math.log(max(margins.partitions / FRONT, 1), _GROWTH)) + 1)
        visited = {min(round(FRONT * _GROWTH**step), margins.partitions) for step in steps}
        self.nprobes = np.array(sorted(visited))
        found = [recall(margins.at(nprobe)) for nprobe in self.nprobes.tolist()]
        self.recalls = np.maximum.accumulate(found)

    @property
    def most(self) -> float:
        """Return what is found in all partitions."""
        return float(self.recalls[-1])

    def find_least(self, goal: float) -> int:
        """Find the fewest partitions with which a goal is reached, between those that were measured; else all."""
        at = int(np.searchsorted(self.recalls, goal))
        if at == len(self.recalls):
            return int(self.nprobes[-1])
        if at == 0 or self.recalls[at] <= self.recalls[at - 1]:
            return int(self.nprobes[at])
        share = (goal - self.recalls[at - 1]) / (self.recalls[at] - self.recalls[at - 1])
        fewer, more = np.log(self.nprobes[at - 1 : at + 1])
        return math.ceil(np.exp(fewer + share * (more - fewer)))


def choose_settings(
    embeddings: np.ndarray, search: Search, centers: np.ndarray, *, unit: bool, seed: int
) -> list[Measured]:
    """Find the least work with which documents find a share of the ten others that are nearest to them.

    Args:
        embeddings: of all documents, shape (n, dim).
        search: of the index.
        centers: of the partitions, float32, shape (partitions, dim).
        unit: whether cosines count.
        seed: of the sample.

    Returns:
        settings for each of `GOALS`; nearly the best that there is for those that cannot be reached. For few documents
        none, which means all partitions.
    """
    n = len(embeddings)
    if n < _FEWEST:
        return []
    asked = np.sort(np.random.default_rng(seed).permutation(n)[:_ASKED])
    queries = unit_rows(embeddings[asked], unit=True)
    nearest = find_nearest(embeddings, queries, asked, unit=unit)
    margins = Margins(queries, centers)

    def recall(margin: float, candidates: int) -> float:
        return measure_recall(search(queries, _TOP_K + 1, margin, candidates), nearest, asked)

    curves = {count: Curve(margins, functools.partial(recall, candidates=count)) for count in _CANDIDATES}
    most = max(curve.most for curve in curves.values()) - _BELOW
    found = []
    for goal in GOALS:
        wanted = min(goal + _ABOVE * (1 - goal), most)
        reaching = {count: curve.find_least(wanted) for count, curve in curves.items() if curve.most >= wanted}
        costs = {count: nprobe * n / len(centers) * _SCANNED + count * _RERANKED for count, nprobe in reaching.items()}
        count = min(costs, key=costs.__getitem__)
        margin = margins.at(reaching[count])
        found.append(Measured(goal, round(recall(margin, count), 4), reaching[count], margin, count))
    return found


def find_nearest(embeddings: np.ndarray, queries: np.ndarray, asked: np.ndarray, *, unit: bool) -> np.ndarray:
    """Find the ten nearest documents of some, themselves left out, int64, shape (n_queries, 10)."""
    scores = np.full((len(queries), _TOP_K), -np.inf, np.float32)
    nearest = np.full((len(queries), _TOP_K), -1, np.int64)
    for start in range(0, len(embeddings), _CHUNK):
        rows = unit_rows(embeddings[start : start + _CHUNK], start, unit=unit)
        found = queries @ rows.T
        inside = (asked >= start) & (asked < start + len(rows))
        found[np.flatnonzero(inside), asked[inside] - start] = -np.inf
        chosen = np.argpartition(-found, min(_TOP_K, len(rows) - 1), axis=1)[:, :_TOP_K]
        scores = np.concatenate([scores, np.take_along_axis(found, chosen, 1)], axis=1)
        nearest = np.concatenate([nearest, chosen + start], axis=1)
        kept = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP_K]
        scores, nearest = np.take_along_axis(scores, kept, 1), np.take_along_axis(nearest, kept, 1)
    return nearest


def measure_recall(found: np.ndarray, nearest: np.ndarray, asked: np.ndarray) -> float:
    """Return the share of nearest documents that are among the first ten hits, those who ask left out."""
    shares = []
    for hits, wanted, own in zip(found, nearest, asked, strict=True):
        kept = [hit for hit in hits if hit != own][:_TOP_K]
        shares.append(len(np.intersect1d(kept, wanted)) / _TOP_K)
    return float(np.mean(shares))
