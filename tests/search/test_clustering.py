"""Blocks of similar documents."""

import itertools

import numpy as np
import pytest

from csr_hf.search import clustering
from csr_hf.search.clustering import similar_blocks
from csr_hf.search.row_sums import WIDTH, shift_of


def topics(n, topics, dim, seed, k=8):
    """Documents of well separated topics, shuffled: values (uint8), latents, and the topic of each."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, topics, n)
    pools = rng.permutation(dim)[: topics * 2 * k].reshape(topics, 2 * k)
    indices = np.stack([rng.choice(pools[topic], k, replace=False) for topic in own]).astype(np.uint16)
    return indices, rng.integers(1, 256, (n, k)).astype(np.uint8), own


@pytest.mark.parametrize(("n", "size"), [(0, 8), (1, 8), (31, 8), (32, 8), (700, 256), (5_000, 64)])
def test_every_row_is_in_one_block_of_at_most_the_size(n, size):
    indices, values, _ = (
        topics(n, 10, 400, 0) if n else (np.zeros((0, 4), np.uint16), np.zeros((0, 4), np.uint8), None)
    )
    rows, ends = similar_blocks(indices, values, 400, size)
    assert np.array_equal(np.sort(rows), np.arange(n))
    assert ends[0] == 0 and ends[-1] == n
    assert n == 0 or (1 <= np.diff(ends).min() and np.diff(ends).max() <= size)


def test_blocks_hold_documents_of_one_topic():
    indices, values, own = topics(6_000, 20, 800, 1)
    rows, ends = similar_blocks(indices, values, 800, 100)
    purity = [np.bincount(own[rows[a:b]]).max() / (b - a) for a, b in itertools.pairwise(ends)]
    assert np.average(purity, weights=np.diff(ends)) > 0.9
    again, _ = similar_blocks(indices, values, 800, 100)
    np.testing.assert_array_equal(rows, again)


def test_copies_of_one_document_and_empty_ones():
    indices, values = np.zeros((3_000, 4), np.uint16) + np.arange(4, dtype=np.uint16), np.full((3_000, 4), 9, np.uint8)
    values[::3] = 0
    for _ in range(5):
        rows, ends = similar_blocks(indices, values, 4, 64)
        assert len(rows) == 3_000 and np.diff(ends).max() <= 64


def centroids_of(indices, values, labels, dim, before=None, sums=None):
    """Sums of documents by cluster, rounded, and the step, after whatever was summed up before."""
    weights = np.empty(values.shape, np.uint16)
    clustering._weigh(values, weights)
    before = np.full(len(labels), -1, np.int32) if before is None else before
    sums = np.zeros((dim, WIDTH), np.int32) if sums is None else sums
    clustering._move(indices, weights, before, labels, sums)
    return sums, *clustering._centroids(sums), before


def test_centroids_are_unit_means_of_the_documents_that_are_there_now():
    indices, values, _ = topics(300, 6, 120, 3)
    first, second = (np.random.default_rng(seed).integers(-1, 5, 300).astype(np.int32) for seed in (0, 1))
    sums, _, _, before = centroids_of(indices, values, first, 120)
    moved, rounded, step, _ = centroids_of(indices, values, second, 120, before, sums)
    np.testing.assert_array_equal(moved, centroids_of(indices, values, second, 120)[0])
    dense = np.zeros((300, 120))
    np.put_along_axis(dense, indices.astype(int), values.astype(float), axis=1)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    for cluster in range(5):
        mean = dense[second == cluster].sum(axis=0)
        np.testing.assert_allclose(rounded[:, cluster] * step, mean / np.linalg.norm(mean), atol=0.01)
    assert not rounded[:, 5:].any()
    assert rounded.max() == 255


def test_the_nearest_come_first_and_none_that_is_much_farther():
    indices, values, _ = topics(200, 6, 120, 4)
    labels = (np.arange(200) % 20).astype(np.int32)
    _, rounded, _, _ = centroids_of(indices, values, labels, 120)
    near = np.empty((200, 4), np.int32)
    shift = shift_of(indices.shape[1])
    clustering._nearest(indices, values, rounded, shift, near)
    products = values[:, :, None].astype(int) * rounded[indices].astype(int) >> int(shift)
    sums = products.sum(axis=1)
    for row in range(200):
        wanted = np.argsort(-sums[row], kind="stable")[:4]
        wanted[sums[row, wanted] < clustering._CLOSER * sums[row].max()] = -1
        np.testing.assert_array_equal(near[row], wanted)
    assert 0 < (near < 0).sum() < near[:, 1:].size
