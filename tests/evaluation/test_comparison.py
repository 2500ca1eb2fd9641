import numpy as np
import pytest

from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.prefixes import Truncation, choose_format
from csr_hf.evaluation.results import Row
from csr_hf.evaluation.scalar_quantizers import Binary
from csr_hf.evaluation.vector_method import DenseMethod


def test_retention_is_the_share_of_the_first_score():
    scores = {"dense": {"a": 0.8, "b": 0.0}, "truncation": {"a": 0.6, "b": 0.5}, "binary": {"a": 0.9}}
    methods = [DenseMethod(12), Truncation(choose_format(8, 12, "cosine")), Binary(12)]
    assert compare_methods("t", methods, lambda method: scores[method.name]) == [
        Row("t", "a", "dense", None, 48, 0.8, 1.0),
        Row("t", "b", "dense", None, 48, 0.0, 0.0),
        Row("t", "a", "truncation", None, 8, 0.6, 0.6 / 0.8),
        Row("t", "b", "truncation", None, 8, 0.5, 0.0),
        Row("t", "a", "binary", None, 2, 0.9, 0.9 / 0.8),
    ]


def test_scores_of_single_queries_bring_their_number_and_intervals():
    dense = np.random.default_rng(0).random(50)
    scores = {"dense": {"a": dense}, "truncation": {"a": dense / 2}, "binary": {"a": 1 - dense}}
    methods = [DenseMethod(12), Truncation(choose_format(8, 12, "cosine")), Binary(12)]
    rows = compare_methods("t", methods, lambda method: scores[method.name], n_documents=70)
    assert {(row.n_queries, row.n_documents) for row in rows} == {(50, 70)}
    first, half, other = rows
    assert first.score == pytest.approx(dense.mean())
    assert first.interval[0] < first.score < first.interval[1]
    assert first.retention_interval == (1, 1)
    # Both are drawn together: what keeps half of each query keeps half.
    assert half.retention_interval == pytest.approx((0.5, 0.5))
    assert half.interval == pytest.approx(tuple(np.array(first.interval) / 2))
    assert other.retention_interval[0] < other.retention < other.retention_interval[1]
