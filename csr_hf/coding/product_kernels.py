"""Compiled loops of product quantization: 256 centroids of a part by k-means, and the nearest of them."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

CENTROIDS = 256
"""Of a part: its code is a byte."""
_APART = np.float32(1 / 1024)


@jit(fastmath={"contract", "reassoc", "nsz", "nnan"}, inline="always")
def _nearest(values: np.ndarray, centroids: np.ndarray, lengths: np.ndarray, closeness: np.ndarray) -> int:
    """Return the nearest of 256 centroids, shape (width, 256): the largest product less half the squared norm."""
    for code in range(CENTROIDS):
        closeness[code] = -lengths[code]
    for axis in range(centroids.shape[0]):
        value = values[axis]
        for code in range(CENTROIDS):
            closeness[code] += value * centroids[axis, code]
    most = closeness[0]
    for code in range(CENTROIDS):
        most = max(most, closeness[code])
    found = np.int32(CENTROIDS)
    for code in range(CENTROIDS):
        found = min(found, np.int32(code) if closeness[code] >= most else np.int32(CENTROIDS))
    return min(int(found), CENTROIDS - 1)


@jit()
def encode_parts(
    rows: np.ndarray, starts: np.ndarray, centroids: np.ndarray, lengths: np.ndarray, codes: np.ndarray
) -> None:
    """Write the nearest centroid of each part of each row.

    Args:
        rows: float32, shape (n, dim).
        starts: where parts begin, and the dim, int64, shape (parts + 1,).
        centroids: float32, shape (parts, widest, 256), zeros beyond the width of a part.
        lengths: half their squared norms, shape (parts, 256).
        codes: receives uint8, shape (n, parts).
    """
    closeness = np.empty(CENTROIDS, np.float32)
    for row in range(rows.shape[0]):
        for part in range(codes.shape[1]):
            first, stop = starts[part], starts[part + 1]
            own = centroids[part, : stop - first]
            codes[row, part] = _nearest(rows[row, first:stop], own, lengths[part], closeness)


@jit()
def _move_unused(centroids: np.ndarray, counts: np.ndarray) -> None:
    """Move each centroid of no rows beside that of the most rows, so that they share these."""
    for code in range(CENTROIDS):
        if counts[code]:
            continue
        fullest = int(np.argmax(counts))
        for axis in range(centroids.shape[0]):
            value = centroids[axis, fullest]
            centroids[axis, code] = value * (1 + _APART)
            centroids[axis, fullest] = value * (1 - _APART)
        counts[code] = counts[fullest] // 2
        counts[fullest] -= counts[code]


@jit()
def fit_part(rows: np.ndarray, centroids: np.ndarray, rounds: int) -> None:
    """Move centroids to the means of the rows that are nearest to them, round after round (Lloyd).

    Args:
        rows: one part of all residuals, float32, shape (n, width).
        centroids: first ones, shape (width, 256); receives the last ones.
        rounds: how often.
    """
    n, width = rows.shape
    closeness, lengths = np.empty(CENTROIDS, np.float32), np.empty(CENTROIDS, np.float32)
    for _ in range(rounds):
        for code in range(CENTROIDS):
            lengths[code] = (centroids[:, code] ** 2).sum() / 2
        sums, counts = np.zeros((width, CENTROIDS), np.float64), np.zeros(CENTROIDS, np.int64)
        for row in range(n):
            code = _nearest(rows[row], centroids, lengths, closeness)
            counts[code] += 1
            for axis in range(width):
                sums[axis, code] += rows[row, axis]
        for code in range(CENTROIDS):
            for axis in range(width):
                if counts[code]:
                    centroids[axis, code] = np.float32(sums[axis, code] / counts[code])
        _move_unused(centroids, counts)
