"""Blocks of similar documents."""

import itertools

import numpy as np
import pytest

from csr_hf.search.clustering import similar_blocks


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
