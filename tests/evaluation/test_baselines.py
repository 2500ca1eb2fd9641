import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.evaluation.baselines import make_baselines
from csr_hf.evaluation.names import FITTED
from csr_hf.evaluation.vector_method import DenseMethod
from tests.evaluation.conftest import unit

SIMPLE = ["truncate", "pca", "int8", "binary", "rotated"]


def sizes_of(methods):
    return [(method.name, method.bytes_per_vector) for method in methods]


def test_searches_compare_unit_queries_with_what_is_stored(skewed):
    for method in make_baselines(SIMPLE, skewed, 24, [5]):
        searcher = method.index(3 * skewed[:40])
        queries = skewed[40:45]
        expected = method.query(queries) @ method.store(skewed[:40]).T
        hits = searcher.search(5 * queries, 7)
        np.testing.assert_allclose(hits.scores, -np.sort(-expected, axis=1)[:, :7], atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(expected, hits.positions, axis=1), hits.scores, atol=1e-5)
        np.testing.assert_allclose(searcher.score(queries[0], np.array([9, 3])), expected[0, [9, 3]], atol=1e-5)
        np.testing.assert_allclose(method.vectors(2 * queries), method.store(queries), atol=1e-2)


def test_dense_vectors_stay_as_they_are(skewed):
    method = DenseMethod(24)
    assert method.vectors(3 * skewed).tobytes() == (3 * skewed).tobytes()
    assert method.bytes_per_vector == 96
    np.testing.assert_allclose(method.index(3 * skewed).search(skewed[:3], 1).scores, 1, rtol=1e-5)


def test_fitted_baselines_are_told_apart_by_what_they_were_fitted_on(skewed):
    one, same, other = (
        [(method.name, method.settings) for method in make_baselines(SIMPLE, rows, 24, [10])]
        for rows in (skewed, skewed.copy(), skewed[::-1])
    )
    assert one == same
    differing = {first[0] for first, second in zip(one, other, strict=True) if first != second}
    assert differing == {"PCA", "int8", "rotated signs"}


def test_without_training_embeddings_only_what_needs_no_fit_is_made(skewed):
    assert sizes_of(make_baselines([*FITTED, "truncate", "binary"], None, 24, [10])) == [
        ("truncation", 10),
        ("binary", 3),
    ]


def test_pca_keeps_no_more_directions_than_there_are_training_rows(skewed):
    (method,) = make_baselines(["pca"], skewed[:6], 24, [40])
    assert (method.bytes_per_vector, method.settings["dims"]) == (12, 6)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"baseline 'truncat' is unknown\. Did you mean `truncate`\?"):
        make_baselines(["truncat"], None, 24, [10])


def test_each_takes_its_largest_setting_within_each_budget_once(skewed):
    pytest.importorskip("faiss", reason="pip install faiss-cpu")
    names = [*SIMPLE, "pq", "rabitq"]
    found = sizes_of(make_baselines(names, skewed, 24, [9, 5, 10, 20, 1000], always_whole=False))
    expected = [(name, size) for name in ("truncation", "PCA") for size in (5, 9, 10, 20, 48)]
    # PQ: divisors of 24. RaBitQ: 3, 6, 9 or 12 bytes of bits, 8 bytes of factors for one bit and 20 for several.
    expected += [("PQ", size) for size in (4, 8, 12, 24)]
    expected += [("RaBitQ", size) for size in (11, 32)]
    assert found == [*expected, ("int8", 24), ("binary", 3), ("rotated signs", 3)]


@settings(deadline=None, max_examples=20)
@given(budgets=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_nothing_is_above_the_largest_budget_or_made_twice(budgets):
    rows = unit(np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32))
    made = make_baselines(SIMPLE, rows, 12, budgets, always_whole=False)
    assert all(method.bytes_per_vector <= max(budgets) for method in made)
    assert len({str(method.settings) for method in made}) == len(made)


def test_methods_of_one_size_stay_where_sizes_follow_from_k(skewed):
    found = sizes_of(make_baselines(["int8", "binary", "rotated"], skewed, 24, [2]))
    assert found == [("int8", 24), ("binary", 3), ("rotated signs", 3)]
    assert make_baselines(["int8", "binary", "rotated"], skewed, 24, [2], always_whole=False) == []


def test_no_adapter_is_made_where_manhattan_distances_compare(skewed):
    assert make_baselines(["adapter"], skewed, 24, [10], "manhattan") == []
    assert sizes_of(make_baselines(["adapter"], skewed, 24, [10, 12])) == [("adapter", 10), ("adapter", 12)]
