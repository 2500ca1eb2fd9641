from csr_hf.evaluation.baselines import Binary, DenseMethod, Truncation
from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.results import Row


def test_retention_is_the_share_of_the_first_score():
    scores = {"dense": {"a": 0.8, "b": 0.0}, "truncation": {"a": 0.6, "b": 0.5}, "binary": {"a": 0.9}}
    methods = [DenseMethod(12), Truncation(4), Binary(12)]
    assert compare_methods("t", methods, lambda method: scores[method.name]) == [
        Row("t", "a", "dense", None, 48, 0.8, 1.0),
        Row("t", "b", "dense", None, 48, 0.0, 0.0),
        Row("t", "a", "truncation", None, 8, 0.6, 0.6 / 0.8),
        Row("t", "b", "truncation", None, 8, 0.5, 0.0),
        Row("t", "a", "binary", None, 2, 0.9, 0.9 / 0.8),
    ]
