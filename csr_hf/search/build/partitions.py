"""Divide embeddings into partitions of similar ones: spherical k-means on a sample, in matrix products."""

from __future__ import annotations

import itertools

import numpy as np

_SAMPLED, _ROUNDS = 20, 6
"""Embeddings of the sample for a partition, and rounds of k-means."""
_FEWEST = 32
"""Documents of a partition on average, at least."""
_CHUNK = 4096
_LARGEST_VALUE = 1e12
_NORMS = 10_000
_NEAR_ONE = 1e-3
_SMALLEST_NORM = 1e-12


def count_partitions(n: int) -> int:
    """Return how many partitions serve n documents."""
    return max(1, min(int(4 * n**0.5), n // _FEWEST))


def find_typical_norm(embeddings: np.ndarray) -> float:
    """Return the median norm of an even sample of embeddings; 1 for embeddings that are of unit norm, or zeros."""
    rows = np.linspace(0, len(embeddings) - 1, min(len(embeddings), _NORMS)).astype(np.int64)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(np.asarray(embeddings[rows], np.float64), axis=1)
    norms = norms[(norms > 0) & np.isfinite(norms)]
    norm = float(np.median(norms)) if len(norms) else 1.0
    return 1.0 if abs(norm - 1) < _NEAR_ONE else float(np.clip(norm, _SMALLEST_NORM, 1 / _SMALLEST_NORM))


def fit_partitions(embeddings: np.ndarray, partitions: int, seed: int, *, unit: bool = False) -> np.ndarray:
    """Find centers by spherical k-means.

    Embeddings count by their directions alone, so that no long one draws a center away from the others. A center lies
    as far out as half of its embeddings.

    Args:
        embeddings: shape (n, dim), finite floats, may be memory-mapped.
        partitions: how many.
        seed: of the sample.
        unit: whether embeddings are brought to unit norm before they are compared with centers.

    Returns:
        centers, float32, shape (at most `partitions`, dim).
    """
    n, dim = embeddings.shape
    if not n:
        return np.zeros((1, dim), np.float32)
    chosen = np.random.default_rng(seed).permutation(n)[: _SAMPLED * partitions]
    raw = unit_rows(embeddings[np.sort(chosen)], unit=unit)
    norms, sample = np.linalg.norm(raw, axis=1), unit_rows(raw, unit=True)
    centers = sample[np.random.default_rng(seed).permutation(len(sample))[:partitions]].copy()
    own = np.zeros(len(sample), np.int64)
    for _ in range(_ROUNDS):
        own = assign(sample, centers)
        centers = _unit(_sum_by(sample, own, len(centers)), centers)
    order = np.argsort(own, kind="stable")
    lengths = np.ones(len(centers), np.float32)
    begins = np.searchsorted(own[order], np.arange(len(centers) + 1))
    for number, (first, stop) in enumerate(itertools.pairwise(begins)):
        if stop > first:
            members = order[first:stop]
            # The mean of unit vectors is shorter than they are; a median is moved by no single one.
            length = 1 if unit else np.median(norms[members])
            lengths[number] = length * np.median(sample[members] @ centers[number])
    return centers * np.maximum(lengths, 0)[:, None]


def unit_rows(rows: np.ndarray, start: int = 0, *, unit: bool) -> np.ndarray:
    """Return embeddings in float32, of unit norm where cosines count.

    Args:
        rows: shape (n, input_dim).
        start: number of the first, for messages.
        unit: divide by norms; zeros stay.

    Raises:
        ValueError: if one is not finite, or so large that inner products would not be.
    """
    with np.errstate(over="ignore"):
        found: np.ndarray = np.array(rows, np.float32)
    largest = np.abs(found).max(axis=1, initial=0, keepdims=True)
    if not np.isfinite(largest).all():
        row = start + int(np.argmin(np.isfinite(largest[:, 0])))
        raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that text, or embed it in float32.")
    if unit:
        found /= np.where(largest > 0, largest, 1)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        found /= np.where(norms > 0, norms, 1)
    elif len(largest) and largest.max() > _LARGEST_VALUE:
        row = start + int(np.argmax(largest))
        raise ValueError(f"`embeddings[{row}]` holds values above {_LARGEST_VALUE:g}. Scale all of them down.")
    return found


def assign(embeddings: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Find the nearest center of each embedding by direction, int64, shape (n,)."""
    found = np.empty(len(embeddings), np.int64)
    norms = np.linalg.norm(centers, axis=1, keepdims=True)
    directions = np.ascontiguousarray((centers / np.where(norms > 0, norms, 1)).T)
    for start in range(0, len(embeddings), _CHUNK):
        found[start : start + _CHUNK] = (embeddings[start : start + _CHUNK] @ directions).argmax(axis=1)
    return found


def _sum_by(rows: np.ndarray, own: np.ndarray, partitions: int) -> np.ndarray:
    """Add up the rows of each partition."""
    order = np.argsort(own, kind="stable")
    numbers, begins = np.unique(own[order], return_index=True)
    sums = np.zeros((partitions, rows.shape[1]), np.float32)
    sums[numbers] = np.add.reduceat(rows[order], begins, axis=0)
    return sums


def _unit(sums: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Bring sums to unit norm; who has none stays where it was."""
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(norms > 1e-6, sums / np.where(norms > 1e-6, norms, 1), before)
