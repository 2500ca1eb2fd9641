"""Blocks of similar documents: spherical k-means over their codes.

A code has few active latents, so comparing it with 64 centroids takes as many short vector additions. Centroids are
learnt on two levels, about the square root of their number in each, and a document is compared with those of its few
nearest cells: nearly as good as comparing it with all of them, at a tenth of the work.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit, prefetch
from csr_hf.plumbing.threads import available_threads, run
from csr_hf.search.routing import by_block
from csr_hf.search.row_sums import WIDTH, shift_of, sum_rows

_ROUNDS = 5
_SAMPLE = 64
"""Documents a cluster that centroids are learnt from."""
_CELLS = 4
"""Cells of the first level whose clusters a document is compared with: the nearest cluster is often next door."""
_CLOSER = 0.7
"""Of its largest cosine, what those with its other cells must reach."""
_CHUNK = 16_384
_UNIT = 4096
"""Norm of the documents that are summed up: whole numbers, so that what is taken away again leaves nothing."""
_AHEAD = 16
"""Documents whose memory is asked for in advance: those around a cell lie anywhere."""
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
    # numpy sorts 16 bits by radix, which takes a fraction of the time.
    short = labels.astype(np.uint16) if clusters <= 2**16 else labels
    order = np.argsort(short, kind="stable").astype(np.int32)
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
    centroids, _ = _learn(indices, values, np.arange(n), cells, dim, 0, threads)
    near = np.empty((n, min(_CELLS, cells)), np.int32)
    _in_parallel(indices, values, centroids, near, threads)
    own = np.bincount(near[:, 0], minlength=cells)
    inner = np.maximum(np.rint(own * (clusters / n)).astype(np.int64), 1)
    first = np.cumsum(inner) - inner
    visits = np.count_nonzero(near >= 0, axis=1)
    visitors, ends = by_block(near, visits, np.zeros_like(visits), 1, cells)
    # Nobody's nearest cell has no clusters, and keeps these cosines where it is somebody's second.
    shift = shift_of(indices.shape[1])
    nearest, cosines = np.zeros(len(visitors), np.int32), np.full(len(visitors), -1, np.float32)

    def settle(cell: int) -> None:
        around = slice(ends[cell], ends[cell + 1])
        members = visitors[around][near[visitors[around], 0] == cell]
        if len(members):
            learnt, step = _learn(indices, values, members, int(inner[cell]), dim, cell + 1, 1)
            _compare(indices, values, visitors[around], learnt, step, shift, nearest[around], cosines[around])
            nearest[around] += first[cell]

    run(settle, [(cell,) for cell in range(cells)], threads)
    labels = np.zeros(n, np.int32)
    _choose(visitors, nearest, cosines, labels)
    return labels


def _learn(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, clusters: int, dim: int, seed: int, threads: int
) -> tuple[np.ndarray, np.float32]:
    """Centroids of some documents; see `_centroids`."""
    rng = np.random.default_rng(seed)
    sample = rng.choice(rows, min(len(rows), _SAMPLE * clusters), replace=False)
    # Side by side in memory: every round reads them.
    indices, values = indices[sample], values[sample]
    weights = np.empty(values.shape, np.uint16)
    _weigh(values, weights)
    sums = np.zeros((dim, -(-clusters // WIDTH) * WIDTH), np.int32)
    labels, before = np.full((len(sample), 1), -1, np.int32), np.full(len(sample), -1, np.int32)
    labels[:clusters, 0] = np.arange(min(clusters, len(sample)))
    for _ in range(_ROUNDS):
        _move(indices, weights, before, labels[:, 0], sums)
        centroids, _ = _centroids(sums)
        _in_parallel(indices, values, centroids, labels, threads)
        # A cluster that lost all its documents starts anew from any one of them.
        empty = np.flatnonzero(np.bincount(labels[:, 0], minlength=clusters) == 0)[: len(sample)]
        labels[rng.choice(len(sample), len(empty), replace=False), 0] = empty
    _move(indices, weights, before, labels[:, 0], sums)
    return _centroids(sums)


def _centroids(sums: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Centroids of unit norm in eight bits, given the sums of their documents, and what a step of these is.

    uint8, shape (dim, clusters): the transpose makes one latent of all centroids one vector. Columns of zeros round
    their number up to a multiple of `WIDTH`.
    """
    rounded = np.empty(sums.shape, np.uint8)
    return rounded, _round(sums, rounded)


def _in_parallel(
    indices: np.ndarray, values: np.ndarray, centroids: np.ndarray, labels: np.ndarray, threads: int
) -> None:
    def work(start: int) -> None:
        chunk = slice(start, start + _CHUNK)
        _nearest(indices[chunk], values[chunk], centroids, shift_of(indices.shape[1]), labels[chunk])

    run(work, [(start,) for start in range(0, len(labels), _CHUNK)], threads)


@jit()
def _weigh(values: np.ndarray, weights: np.ndarray) -> None:
    """Values of every document at a norm of `_UNIT`, rounded."""
    for row in range(values.shape[0]):
        total = np.float32(1e-12)
        for j in range(values.shape[1]):
            total += np.float32(values[row, j]) * np.float32(values[row, j])
        scale = np.float32(_UNIT) / np.sqrt(total)
        for j in range(values.shape[1]):
            weights[row, j] = np.uint16(np.float32(values[row, j]) * scale + np.float32(0.5))


@jit()
def _move(indices: np.ndarray, weights: np.ndarray, before: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> None:
    """Take documents from the cluster they were in, -1 for none, to the one that they are in now."""
    for row in range(labels.shape[0]):
        old, new = before[row], labels[row]
        if old != new:
            before[row] = new
            for j in range(indices.shape[1]):
                if old >= 0:
                    sums[indices[row, j], old] -= weights[row, j]
                if new >= 0:
                    sums[indices[row, j], new] += weights[row, j]


@jit()
def _round(sums: np.ndarray, rounded: np.ndarray) -> np.float32:
    """Divide columns by their norms and round them to 1/255 of the largest number of all; gives that step."""
    squares, largest = np.full(sums.shape[1], np.float32(1e-12)), np.zeros(sums.shape[1], np.int32)
    for latent in range(sums.shape[0]):
        row = sums[latent]
        for c in range(row.shape[0]):
            squares[c] += np.float32(row[c]) * np.float32(row[c])
            largest[c] = max(largest[c], row[c])
    step = np.float32(1e-12)
    for c in range(largest.shape[0]):
        step = max(step, np.float32(largest[c]) / np.sqrt(squares[c]) / np.float32(255))
    factors = np.float32(1) / (np.sqrt(squares) * step)
    for latent in range(sums.shape[0]):
        row, own = sums[latent], rounded[latent]
        for c in range(row.shape[0]):
            own[c] = np.uint8(np.float32(row[c]) * factors[c] + np.float32(0.5))
    return step


@jit()
def _largest(scores: np.ndarray) -> np.int64:
    """Where the largest of fewer than 65,536 scores is, the first of them on a tie; without a branch."""
    best = np.uint32(0)
    for c in range(scores.shape[0]):
        best = max(best, (np.uint32(scores[c]) << np.uint32(16)) | np.uint32(0xFFFF - c))
    return 0xFFFF - np.int64(best & np.uint32(0xFFFF))


@jit()
def _nearest(
    indices: np.ndarray, values: np.ndarray, centroids: np.ndarray, shift: np.uint16, labels: np.ndarray
) -> None:
    """The centroids of the largest cosines, best first, for every document; int32, shape (n, wanted).

    -1 from the first on whose cosine is less than `_CLOSER` times that of the nearest.
    """
    scores = np.empty(centroids.shape[1], np.uint16)
    for row in range(labels.shape[0]):
        sum_rows(indices, values, row, centroids, shift, scores)
        labels[row], least = -1, np.float32(0)
        for place in range(labels.shape[1]):
            best = _largest(scores)
            if scores[best] < least:
                break
            labels[row, place], least = best, max(least, np.float32(_CLOSER) * np.float32(scores[best]))
            scores[best] = 0


@jit()
def _ask_for(row: np.ndarray) -> None:
    """Ask for a row, which may begin in one cache line and end in another."""
    prefetch(row, 0)
    prefetch(row, row.shape[0] - 1)


@jit()
def _compare(
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    centroids: np.ndarray,
    step: np.float32,
    shift: np.uint16,
    nearest: np.ndarray,
    cosines: np.ndarray,
) -> None:
    """The centroid of the largest cosine, and that times what does not depend on the centroid, for some documents."""
    products = np.empty(centroids.shape[1], np.uint16)
    for i in range(rows.shape[0]):
        if i + _AHEAD < rows.shape[0]:
            _ask_for(indices[rows[i + _AHEAD]])
            _ask_for(values[rows[i + _AHEAD]])
        sum_rows(indices, values, rows[i], centroids, shift, products)
        nearest[i] = _largest(products)
        cosines[i] = np.float32(products[nearest[i]]) * step


@jit()
def _choose(rows: np.ndarray, nearest: np.ndarray, cosines: np.ndarray, labels: np.ndarray) -> None:
    """Of several centroids that were compared with a document, the one of the largest cosine."""
    largest = np.full(labels.shape[0], -1, np.float32)
    for i in range(rows.shape[0]):
        if cosines[i] > largest[rows[i]]:
            largest[rows[i]], labels[rows[i]] = cosines[i], nearest[i]
