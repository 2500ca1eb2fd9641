"""Similarities, against those of sentence-transformers."""

import numpy as np
import pytest
from sentence_transformers import SimilarityFunction

from csr_hf.evaluation.neighbors import top_neighbors
from csr_hf.evaluation.similarity import compare_rows, compare_with, rows_for

SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]


@pytest.fixture
def rows():
    """Queries and documents of very different norms, far from the origin."""
    rng = np.random.default_rng(0)
    made = rng.standard_normal((60, 24)) * rng.uniform(0.1, 5, (60, 1)) + rng.standard_normal(24)
    return made[:10].astype(np.float32), made[10:].astype(np.float32)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarities_are_those_of_sentence_transformers(rows, similarity):
    queries, documents = (rows_for(side, similarity) for side in rows)
    expected = SimilarityFunction.to_similarity_fn(similarity)(*rows).numpy()
    np.testing.assert_allclose(compare_rows(queries, documents, similarity), expected, rtol=1e-5, atol=1e-5)
    found = np.stack([compare_with(query, documents, similarity) for query in queries])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_neighbors_are_the_most_similar(rows, similarity):
    queries, documents = (rows_for(side, similarity) for side in rows)
    expected = SimilarityFunction.to_similarity_fn(similarity)(*rows).numpy()
    found = top_neighbors(queries, documents, 7, similarity)
    assert np.array_equal(found, np.argsort(-expected, axis=1, kind="stable")[:, :7])


def test_near_rows_keep_their_order_by_distance():
    """In float32, the difference of the squares of such rows would be noise."""
    documents = np.full((8, 4), 300, np.float32)
    documents[:, 0] += np.array([5, 1, 7, 3, 2, 6, 4, 8]) / 100
    query = np.full((1, 4), 300, np.float32)
    assert top_neighbors(query, documents, 8, "euclidean").tolist() == [[1, 4, 3, 6, 0, 5, 2, 7]]
