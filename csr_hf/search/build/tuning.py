"""Measure on documents of the index how many partitions and candidates find what is nearest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from csr_hf.search.build.partitions import unit_rows
from csr_hf.search.kernels.scan import FRONT

_ASKED, _TOP_K = 1000, 10
# A little above the 0.95 that is promised: documents that ask find their like more easily than questions do.
_RECALL = 0.955
_FEWEST = 2000
_CANDIDATES = (50, 100, 200, 400)
_CHUNK = 32_768
# Nanoseconds of a document that is scanned, and of one that is reranked.
_SCANNED, _RERANKED = 2.0, 300.0

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

    def find_least(self, recall: Callable[[float], float], goal: float) -> int:
        """Find the fewest partitions, off by 1 % at most, with which a recall by margin reaches a goal; else all."""
        low, high = 1, self.partitions
        while high - low > high // 100:
            middle = (low + high) // 2
            low, high = (low, middle) if recall(self.at(middle)) >= goal else (middle + 1, high)
        return high


def choose_settings(
    embeddings: np.ndarray, search: Search, centers: np.ndarray, *, unit: bool, seed: int
) -> dict[str, Any]:
    """Find the least work with which documents find 0.95 of the ten others that are nearest to them.

    Args:
        embeddings: of all documents, shape (n, dim).
        search: of the index.
        centers: of the partitions, float32, shape (partitions, dim).
        unit: whether cosines count.
        seed: of the sample.

    Returns:
        "margin", "nprobe", which is how many partitions are visited on average, "candidates" and the "recall" that was
        measured; the best that there is where 0.95 cannot be had. For few documents no settings, which means all
        partitions.
    """
    n = len(embeddings)
    if n < _FEWEST:
        return {}
    asked = np.sort(np.random.default_rng(seed).permutation(n)[:_ASKED])
    queries = unit_rows(embeddings[asked], unit=True)
    nearest = find_nearest(embeddings, queries, asked, unit=unit)
    margins = Margins(queries, centers)

    def recall(margin: float, candidates: int) -> float:
        found = search(queries, _TOP_K + 1, margin, candidates)
        return measure_recall(found, nearest, asked)

    best: tuple[float, dict[str, Any]] | None = None
    most = 0.0
    for candidates in _CANDIDATES:
        reached = recall(margins.at(len(centers)), candidates)
        goal = min(_RECALL, reached - 0.003)
        if goal < most - 0.002:
            continue
        nprobe = margins.find_least(functools.partial(recall, candidates=candidates), goal)
        cost = nprobe * n / len(centers) * _SCANNED + candidates * _RERANKED
        if best is None or goal > most + 0.002 or cost < best[0]:
            margin = margins.at(nprobe)
            found = {"nprobe": nprobe, "margin": margin, "candidates": candidates}
            best = cost, {**found, "recall": round(recall(margin, candidates), 4)}
        most = max(most, goal)
    return {} if best is None else best[1]


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
