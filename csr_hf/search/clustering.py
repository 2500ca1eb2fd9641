"""Blocks of similar documents: spherical k-means over their codes.

A code has few active latents, so comparing it with 64 centroids takes as many short vector additions. Centroids are
learnt on two levels, about the square root of their number in each, and a document is compared with those of its few
nearest cells: nearly as good as comparing it with all of them, at a tenth of the work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from csr_hf.jit import jit
from csr_hf.threads import available_threads, run

_ROUNDS = 6
_SAMPLE = 64
"""Documents a cluster that centroids are learnt from."""
_CELLS = 4
"""Cells of the first level whose clusters a document is compared with: the nearest cluster is often next door."""
_CHUNK = 16_384
_FILL = 0.75
"""Of a block: clusters differ in size, and one a little too large would become two half full."""


def similar_blocks(indices: np.ndarray, values: np.ndarray, dim: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents in blocks of similar ones; the same for the same codes.

    Args:
        indices: latents, shape (n, k).
        values: uint8, shape (n, k); only their proportions within a row matter.
        dim: length of the latents axis.
        size: documents of a block at most.

    Returns:
        rows in order of the blocks, int32, shape (n,), and where blocks begin and the last ends, int64.
    """
    n = len(indices)
    clusters = round(n / (_FILL * size))
    if clusters < 4:
        return np.arange(n, dtype=np.int32), np.append(np.arange(0, n, size), n)
    labels = _labels(indices, values, dim, clusters)
    order = np.argsort(labels, kind="stable").astype(np.int32)
    counts = np.bincount(labels)
    # Clusters larger than a block become several of about the same size.
    parts = -(-counts // size)
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(np.cumsum(counts) - counts, parts)
    begins += within * np.repeat(counts, parts) // np.repeat(np.maximum(parts, 1), parts)
    return order, np.append(begins, n)


def _labels(indices: np.ndarray, values: np.ndarray, dim: int, clusters: int) -> np.ndarray:
    """Cluster of every document: of those of its few nearest cells, the nearest."""
    n, threads = len(indices), available_threads()
    cells = round(clusters**0.5)
    everyone = np.arange(n, dtype=np.int32)
    centroids = _learn(indices, values, everyone, cells, dim, 0, threads)
    near = np.empty((n, min(_CELLS, cells)), np.int32)
    _in_parallel(_nearest, indices, values, everyone, centroids, near, threads)
    # Nobody's nearest cell has no clusters, and keeps these scores where it is somebody's second.
    nearest, scores = np.zeros(near.shape, np.int32), np.full(near.shape, -1, np.float32)
    share = clusters / n
    own = np.bincount(near[:, 0], minlength=cells)
    inner = np.maximum(np.rint(own * share).astype(np.int64), 1)
    first = np.cumsum(inner) - inner

    def settle(cell: int) -> None:
        members = np.flatnonzero(near[:, 0] == cell).astype(np.int32)
        if len(members):
            learnt = _learn(indices, values, members, int(inner[cell]), dim, cell + 1, 1)
            _compare(indices, values, learnt, near, cell, int(first[cell]), nearest, scores)

    run(settle, [(cell,) for cell in range(cells)], threads)
    chosen = scores.argmax(axis=1)
    labels: np.ndarray = np.take_along_axis(nearest, chosen[:, None], axis=1)[:, 0]
    return labels


def _learn(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, clusters: int, dim: int, seed: int, threads: int
) -> np.ndarray:
    """Centroids of some documents, float32, shape (dim, clusters)."""
    rng = np.random.default_rng(seed)
    sample = rng.choice(rows, min(len(rows), _SAMPLE * clusters), replace=False)
    labels = np.full((len(sample), 1), -1, np.int32)
    labels[:clusters, 0] = np.arange(min(clusters, len(sample)))
    for _ in range(_ROUNDS):
        centroids = _centroids(indices, values, sample, labels[:, 0], clusters, dim)
        _in_parallel(_nearest, indices, values, sample, centroids, labels, threads)
        # A cluster that lost all its documents starts anew from any one of them.
        empty = np.flatnonzero(np.bincount(labels[:, 0], minlength=clusters) == 0)[: len(sample)]
        labels[rng.choice(len(sample), len(empty), replace=False), 0] = empty
    return _centroids(indices, values, sample, labels[:, 0], clusters, dim)


def _centroids(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, labels: np.ndarray, clusters: int, dim: int
) -> np.ndarray:
    """Of unit norm, float32, shape (dim, clusters): the transpose makes one latent of all centroids one vector."""
    centroids = np.zeros((dim, clusters), np.float32)
    _add(indices, values, rows, labels, centroids)
    centroids /= np.maximum(np.sqrt(np.einsum("lc,lc->c", centroids, centroids)), np.float32(1e-12))
    return centroids


def _in_parallel(
    kernel: Callable[..., None],
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    centroids: np.ndarray,
    labels: np.ndarray,
    threads: int,
) -> None:
    def work(start: int) -> None:
        chunk = slice(start, start + _CHUNK)
        kernel(indices, values, rows[chunk], centroids, labels[chunk])

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
def _score(indices: np.ndarray, values: np.ndarray, row: int, centroids: np.ndarray, scores: np.ndarray) -> None:
    """Inner products of a document and all centroids, float32, shape (clusters,)."""
    scores[:] = 0
    for j in range(indices.shape[1]):
        value = np.float32(values[row, j])
        if value > 0:
            shares = centroids[np.int64(indices[row, j])]
            for c in range(scores.shape[0]):
                scores[c] += value * shares[c]


@jit()
def _nearest(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, centroids: np.ndarray, labels: np.ndarray
) -> None:
    """The centroids of the largest cosines, best first, for every row; int32, shape (rows, wanted)."""
    scores = np.empty(centroids.shape[1], np.float32)
    for i in range(rows.shape[0]):
        _score(indices, values, rows[i], centroids, scores)
        for place in range(labels.shape[1]):
            best = 0
            for c in range(1, scores.shape[0]):
                if scores[c] > scores[best]:
                    best = c
            labels[i, place] = best
            scores[best] = -1


@jit()
def _compare(
    indices: np.ndarray,
    values: np.ndarray,
    centroids: np.ndarray,
    near: np.ndarray,
    cell: int,
    first: int,
    nearest: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Best cluster of a cell for all documents near it; clusters of a cell are numbered from `first`."""
    products = np.empty(centroids.shape[1], np.float32)
    for row in range(near.shape[0]):
        for place in range(near.shape[1]):
            if near[row, place] == cell:
                _score(indices, values, row, centroids, products)
                best = 0
                for c in range(1, products.shape[0]):
                    if products[c] > products[best]:
                        best = c
                nearest[row, place] = first + best
                scores[row, place] = products[best]
