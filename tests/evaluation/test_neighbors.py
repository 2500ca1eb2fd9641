import math

import numpy as np
import pytest

from csr_hf.evaluation import neighbors
from csr_hf.evaluation.neighbors import ndcg_at, neighbor_recall, top_neighbors


@pytest.mark.parametrize("memory", [1, 1000, 1 << 26])
def test_top_neighbors_equal_a_full_sort(monkeypatch, memory):
    monkeypatch.setattr(neighbors, "_SCORES_IN_MEMORY", memory)
    rng = np.random.default_rng(0)
    # Small integers give many ties.
    queries, documents = rng.integers(-2, 3, (17, 6)), rng.integers(-2, 3, (60, 6))
    found = top_neighbors(queries, documents, 60)
    for query, positions in zip(queries, found, strict=True):
        expected = sorted(range(60), key=lambda row: (-int(query @ documents[row]), row))
        assert list(positions) == expected
    scores = np.take_along_axis(queries @ documents.T, top_neighbors(queries, documents, 7), axis=1)
    assert np.array_equal(scores, np.sort(queries @ documents.T, axis=1)[:, :-8:-1])


def test_fewer_documents_than_wanted():
    assert top_neighbors(np.ones((2, 3)), np.ones((4, 3)), 10).shape == (2, 4)


def test_ndcg_follows_its_formula():
    found = np.array([[5, 1, 2], [0, 5, 1], [1, 2, 3]])
    relevant = np.array([5, 1, 9])
    assert ndcg_at(found, relevant, 3).mean() == pytest.approx((1 + 1 / math.log2(4) + 0) / 3)
    assert ndcg_at(found, relevant, 2).mean() == pytest.approx(1 / 3)


def test_recall_counts_shared_neighbors():
    truth = np.array([[1, 2], [3, 4]])
    assert neighbor_recall(np.array([[2, 1], [4, 9]]), truth).mean() == 0.75
    # Only as many as there are neighbors count, and -1 pads what an index did not find.
    assert neighbor_recall(np.array([[2, 7, 1], [-1, -1, -1]]), truth).mean() == 0.25
