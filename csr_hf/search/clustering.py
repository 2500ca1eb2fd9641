"""An order of documents in which neighbours are similar: spherical k-means over their codes, on two levels.

A code has few active latents, so comparing it with 64 centroids takes as many short vector additions. Two levels of
about the square root of the clusters each need a fraction of the comparisons of one level.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import jit
from csr_hf.threads import available_threads, run

_ROUNDS = 6
_SAMPLE = 64
"""Documents a cluster that centroids are learnt from."""
_CHUNK = 16_384


def similarity_order(indices: np.ndarray, values: np.ndarray, dim: int, size: int) -> np.ndarray:
    """Rows in an order that brings similar documents together; the same for the same codes.

    Args:
        indices: latents, shape (n, k).
        values: uint8, shape (n, k); only their proportions within a row matter.
        dim: length of the latents axis.
        size: documents wanted in a cluster, on average.

    Returns:
        int32, shape (n,).
    """
    n = len(indices)
    clusters = n // size
    if clusters < 4:
        return np.arange(n, dtype=np.int32)
    outer = round(clusters**0.5)
    rows = np.arange(n, dtype=np.int32)
    threads = available_threads()
    coarse = _cluster(indices, values, rows, outer, dim, 0, threads)
    members = np.split(np.argsort(coarse, kind="stable").astype(np.int32), np.cumsum(np.bincount(coarse))[:-1])

    def arrange(number: int, group: np.ndarray) -> np.ndarray:
        inner = max(round(len(group) / size), 1)
        if inner == 1:
            return group
        return group[np.argsort(_cluster(indices, values, group, inner, dim, number + 1, 1), kind="stable")]

    return np.concatenate(run(arrange, list(enumerate(members)), threads))


def _cluster(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, clusters: int, dim: int, seed: int, threads: int
) -> np.ndarray:
    """Cluster of every row, int32, shape (len(rows),)."""
    rng = np.random.default_rng(seed)
    sample = rng.choice(rows, min(len(rows), _SAMPLE * clusters), replace=False)
    labels = np.full(len(sample), -1, np.int32)
    labels[:clusters] = np.arange(clusters)
    for _ in range(_ROUNDS):
        centroids = _centroids(indices, values, sample, labels, clusters, dim)
        _parallel_assign(indices, values, sample, centroids, labels, threads)
        # A cluster that lost all its documents starts anew from any one of them.
        empty = np.flatnonzero(np.bincount(labels, minlength=clusters) == 0)
        labels[rng.choice(len(sample), len(empty), replace=False)] = empty
    result = np.empty(len(rows), np.int32)
    centroids = _centroids(indices, values, sample, labels, clusters, dim)
    _parallel_assign(indices, values, rows, centroids, result, threads)
    return result


def _centroids(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, labels: np.ndarray, clusters: int, dim: int
) -> np.ndarray:
    """Of unit norm, float32, shape (dim, clusters): the transpose makes one latent of all centroids one vector."""
    centroids = np.zeros((dim, clusters), np.float32)
    _add(indices, values, rows, labels, centroids)
    centroids /= np.maximum(np.sqrt(np.einsum("lc,lc->c", centroids, centroids)), np.float32(1e-12))
    return centroids


def _parallel_assign(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, centroids: np.ndarray, labels: np.ndarray, threads: int
) -> None:
    def work(start: int) -> None:
        chunk = slice(start, start + _CHUNK)
        _assign(indices, values, rows[chunk], centroids, labels[chunk])

    run(work, [(start,) for start in range(0, len(rows), _CHUNK)], threads)


@jit()
def _add(indices: np.ndarray, values: np.ndarray, rows: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> None:
    for i in range(rows.shape[0]):
        if labels[i] >= 0:
            row, total = rows[i], np.float32(1e-12)
            for j in range(indices.shape[1]):
                total += np.float32(values[row, j]) * np.float32(values[row, j])
            scale = np.float32(1) / np.sqrt(total)
            for j in range(indices.shape[1]):
                centroids[indices[row, j], labels[i]] += np.float32(values[row, j]) * scale


@jit()
def _assign(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, centroids: np.ndarray, labels: np.ndarray
) -> None:
    """The centroid of the largest cosine, for every row."""
    scores = np.empty(centroids.shape[1], np.float32)
    for i in range(rows.shape[0]):
        row = rows[i]
        scores[:] = 0
        for j in range(indices.shape[1]):
            value = np.float32(values[row, j])
            if value > 0:
                shares = centroids[indices[row, j]]
                for c in range(scores.shape[0]):
                    scores[c] += value * shares[c]
        best = 0
        for c in range(1, scores.shape[0]):
            if scores[c] > scores[best]:
                best = c
        labels[i] = best
