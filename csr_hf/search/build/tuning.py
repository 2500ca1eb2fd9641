"""Measure on documents of the index how many partitions and candidates find what is nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from csr_hf.search.build.partitions import unit_rows

_ASKED, _TOP_K = 500, 10
# A little above the 0.95 that is promised: documents that ask find their like more easily than questions do.
_RECALL = 0.955
_FEWEST = 2000
_CANDIDATES = (50, 100, 200, 400)
_CHUNK = 32_768
# Nanoseconds of a document that is scanned, and of one that is reranked.
_SCANNED, _RERANKED = 2.0, 300.0

Search = Callable[[np.ndarray, int, int, int], np.ndarray]
"""Returns positions of hits, given queries, hits, partitions to visit and candidates."""


def choose_settings(
    embeddings: np.ndarray, search: Search, partitions: int, *, unit: bool, seed: int
) -> dict[str, Any]:
    """Find the least work with which documents find 0.95 of the ten others that are nearest to them.

    Args:
        embeddings: of all documents, shape (n, dim).
        search: of the index.
        partitions: of the index.
        unit: whether cosines count.
        seed: of the sample.

    Returns:
        "nprobe", "candidates" and the "recall" that was measured; the best that there is where 0.95 cannot be had. For
        few documents no settings, which means all partitions.
    """
    n = len(embeddings)
    if n < _FEWEST:
        return {}
    asked = np.sort(np.random.default_rng(seed).permutation(n)[:_ASKED])
    queries = unit_rows(embeddings[asked], unit=True)
    nearest = find_nearest(embeddings, queries, asked, unit=unit)

    def recall(nprobe: int, candidates: int) -> float:
        found = search(queries, _TOP_K + 1, nprobe, candidates)
        return measure_recall(found, nearest, asked)

    best: tuple[float, dict[str, Any]] | None = None
    most = 0.0
    for candidates in _CANDIDATES:
        reached = recall(partitions, candidates)
        goal = min(_RECALL, reached - 0.003)
        if goal < most - 0.002:
            continue
        low, high = 1, partitions
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if recall(middle, candidates) >= goal else (middle + 1, high)
        cost = low * n / partitions * _SCANNED + candidates * _RERANKED
        if best is None or goal > most + 0.002 or cost < best[0]:
            best = cost, {"nprobe": low, "candidates": candidates, "recall": round(recall(low, candidates), 4)}
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
