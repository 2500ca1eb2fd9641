"""The recall of a run's index, against a search written out."""

import logging

import numpy as np
import pytest

from csr_hf import InvertedIndex, Results, RunData, RunRecipe, SearchParams, Source, fit_index_coder
from csr_hf.runs.index_recall import describe_size, measure_index
from tests.conftest import make_head


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((90, 4)) @ rng.standard_normal((4, 12))).astype(np.float32)
    source = Source.from_arrays({"embedding": rows}, name="rows")
    source.held_out[::3] = True
    return RunData(None, [source])


def build(head, data, copies=()):
    rows = data.documents()
    return InvertedIndex.build(rows, fit_index_coder(head, rows, row_bytes=8, residual_bytes=0), copies=copies)


def measure(tmp_path, data, copies=(), **search):
    recipe = RunRecipe.from_dict({"output_dir": str(tmp_path), "search": search})
    head, results = make_head(), Results([])
    measure_index(recipe, data, head, build(head, data, copies), results)
    return results.details["index"]


def test_exact_copies_of_all_candidates_find_all(tmp_path, data):
    found = measure(tmp_path, data, ["float16"], nprobe=None, candidates=90)
    assert (found["score"], found["interval"]) == (pytest.approx(1, abs=0.01), pytest.approx((1, 1), abs=0.02))
    assert (found["n_queries"], found["n_documents"]) == (30, 90)
    assert Results.load(tmp_path).details["index"]["n_queries"] == 30


@pytest.mark.parametrize("search", [{}, {"nprobe": None, "candidates": 12}, {"exact": True}])
def test_recall_is_that_of_a_search_written_out(tmp_path, data, caplog, search):
    with caplog.at_level(logging.INFO):
        found = measure(tmp_path, data, **search)
    rows = data.documents()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index, shares = build(make_head(), data), []
    for query in range(0, 90, 3):
        hits = [position for _, position, _ in index.search(rows[[query]], 11, SearchParams(**search)).rows()[0]]
        true = [row for row in np.argsort(-(unit @ unit[query])) if row != query][:10]
        shares.append(len(set(true) & set([row for row in hits if row != query][:10])) / 10)
    # Which of equally good candidates are reranked may differ between many queries and one.
    assert found["score"] == pytest.approx(np.mean(shares), abs=0.02)
    assert 0.1 < found["score"] < 1
    assert f"recall     of the index: {found['score']:.3f} of the dense top 10" in caplog.text


def test_many_queries_are_sampled(tmp_path, data, monkeypatch):
    monkeypatch.setattr("csr_hf.runs.index_recall._MOST_QUERIES", 7)
    assert measure(tmp_path, data)["n_queries"] == 7


def test_nothing_is_measured_without_held_out_rows_or_results(tmp_path, data):
    recipe, head = RunRecipe(output_dir=str(tmp_path)), make_head()
    measure_index(recipe, data, head, build(head, data), None)
    data.sources[0].held_out[:] = False
    measure_index(recipe, data, head, build(head, data), Results([]))
    assert not list(tmp_path.iterdir())


def test_the_size_of_a_document_does_not_depend_on_how_many_there_are(data):
    index = build(make_head(), data, ["float16"])
    stored = (index.nbytes - index.table_bytes) / 90
    # Signs of 12 dimensions, two halves of float32, the position, a code, its scale, and the copy.
    assert stored == pytest.approx(2 + 4 + 4 + 8 + 2 + 24, abs=1)
    size = describe_size(index)
    expected = f"{stored:.0f} bytes a document (8 of them its code, 24 a float16 copy)"
    assert size == f"{expected}, and {index.table_bytes:,} of tables"
    assert index.table_bytes > 0
