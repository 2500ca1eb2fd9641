"""An index that has grown gets new partitions by `compact`, and finds as much with less work."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from csr_hf.search import searcher
from csr_hf.search.build.tuning import GOALS, Curve, Margins
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from tests.search.test_index import ALL, make_coder

DIM, N = 24, 6000


def make_rows(n, seed):
    """Rows in 300 groups, of which the first rows know few."""
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(100).normal(size=(300, DIM))[rng.integers(300, size=n)] + 0.4 * rng.normal(
        size=(n, DIM)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def coder():
    return make_coder()


def recall(index, rows, ids, queries, params=SearchParams()):
    nearest = np.argsort(-queries @ rows.T, axis=1)[:, :10]
    found = index.search(queries, 10, params).ids
    return np.mean(
        [len(set(a) & {ids[at] for at in b}) / 10 for a, b in zip(found.tolist(), nearest.tolist(), strict=True)]
    )


@pytest.mark.parametrize("copies", [(), ("float16",)])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_grown_index_gets_new_partitions_and_keeps_everything_else(coder, tmp_path, copies, similarity):
    rows, queries, ids = make_rows(N, 0), make_rows(100, 1), [f"d{at}" for at in range(N)]
    tables = [pa.table({"text": ids[:2100]}), pa.table({"text": ids[2100:]})]
    index = InvertedIndex.build(
        rows[:2100], coder, ids[:2100], copies=copies, similarity=similarity, documents=tables[0]
    )
    index.add(rows[2100:], coder, ids[2100:], documents=tables[1])
    index.delete([f"d{at}" for at in range(0, N, 10)])
    left = np.arange(N) % 10 > 0
    before, everything = index.partitions, index.search(queries, 20, ALL)
    found_before = recall(index, rows[left], np.array(ids)[left], queries)
    codes = index.codes.to_scipy().toarray()[left]
    index.compact()
    assert index.partitions > 1.4 * before and index.settings["fitted"] == len(index) == left.sum()
    assert index.segments == 1
    # All that is stored of documents is what it was, at the positions that are left.
    assert (index.codes.to_scipy().toarray() == codes).all()
    assert index.documents["text"].to_pylist() == np.array(ids)[left].tolist()
    assert index.ids_of(np.arange(len(index))).tolist() == np.array(ids)[left].tolist()
    again = index.search(queries, 20, ALL)
    assert (again.ids == everything.ids).all()
    np.testing.assert_allclose(again.scores, everything.scores, rtol=1e-5)
    assert recall(index, rows[left], np.array(ids)[left], queries) > found_before - 0.02
    # Fewer documents are scanned for that.
    assert index.nprobe / index.partitions < 0.6 and index.settings["measured"][-1][3] > 0
    index.add(make_rows(1, 5), coder, ["new"], documents=pa.table({"text": ["new"]}))
    index.save(tmp_path / "index")
    loaded = InvertedIndex.load(tmp_path / "index", verify=True, documents=True)
    assert (loaded.search(queries, 20).ids == index.search(queries, 20).ids).all()
    assert loaded.search(make_rows(1, 5), 1).ids.tolist() == [["new"]]


def test_an_index_that_has_not_doubled_keeps_its_partitions(coder):
    index = InvertedIndex.build(make_rows(1000, 0), coder)
    index.add(make_rows(999, 1), coder)
    name, settings = index.head_name, index.settings
    index.compact()
    assert (index.head_name, index.settings) == (name, settings)
    index.add(make_rows(1, 2), coder)
    index.compact()
    assert index.partitions == 62 and index.settings["fitted"] == 2000


def test_partitions_that_were_asked_for_stay_as_many(coder):
    index = InvertedIndex.build(make_rows(500, 0), coder, partitions=3)
    index.add(make_rows(1500, 1), coder)
    index.compact()
    assert index.partitions == 3 and index.settings["fitted"] == 2000


@pytest.mark.parametrize("n", [0, 1, 40])
def test_small_indexes_grow(coder, n):
    index = InvertedIndex.build(make_rows(n, 0), coder)
    index.add(make_rows(200, 1), coder)
    index.add(make_rows(200, 2), coder)
    index.compact()
    assert index.partitions == (400 + n) // 32 and len(index) == 400 + n
    assert index.search(make_rows(200, 1)[:5], 1, ALL).positions[:, 0].tolist() == [n, n + 1, n + 2, n + 3, n + 4]


def test_queries_visit_as_many_partitions_on_average_as_a_margin_says():
    queries, centers = make_rows(200, 0), make_rows(50, 1)
    margins = Margins(queries, centers, front=4)
    scores = queries @ centers.T
    fourth = -np.sort(-scores, axis=1)[:, 3:4]
    for nprobe in (4, 5, 20, 49, 50):
        visited = (scores >= fourth - np.float32(margins.at(nprobe))).sum(axis=1)
        assert visited.mean() == pytest.approx(nprobe, abs=0.02) and visited.min() >= 4
    assert margins.at(1) == 0


def test_partitions_are_found_between_those_that_were_measured():
    queries, centers = make_rows(200, 0), make_rows(50, 1)
    margins = Margins(queries, centers, front=4)
    widest = margins.at(50)
    curve = Curve(margins, lambda margin: margin / widest)
    assert curve.nprobes.tolist() == [4, 6, 9, 14, 20, 30, 46, 50] and curve.most == 1
    for nprobe in (6, 9, 13, 25, 40):
        assert curve.find_least(margins.at(nprobe) / widest) == pytest.approx(nprobe, abs=2)
    assert curve.find_least(0) == 4 and curve.find_least(2) == 50
    flat = Curve(margins, lambda margin: 0.5)
    assert (flat.find_least(0.5), flat.find_least(0.6)) == (4, 50)


@pytest.mark.parametrize("recall", [0.8, 0.95])
def test_the_few_documents_that_may_be_found_are_all_found(coder, recall):
    rows, queries = make_rows(4000, 0), make_rows(20, 1)
    index = InvertedIndex.build(rows, coder)
    allowed = np.argsort(rows @ queries.mean(axis=0))[[0, 1, 2000, 3999]]
    found = index.search(queries, 4, SearchParams(recall=recall), allowed=allowed)
    assert (np.sort(found.ids, axis=1) == np.sort(allowed)).all()


def test_as_many_hits_are_found_as_are_asked_for(coder):
    index = InvertedIndex.build(make_rows(4000, 0), coder)
    for top_k in (10, 300, 2500, 4000):
        found = index.search(make_rows(20, 1), top_k, SearchParams(recall=0.8))
        assert (found.positions >= 0).all() and found.positions.shape == (20, top_k)


def test_searches_by_the_margin_of_an_index_find_what_searches_of_all_partitions_find(coder, monkeypatch):
    rows, queries = make_rows(4000, 0), make_rows(200, 1)
    index = InvertedIndex.build(rows, coder)
    found, everything = index.search(queries, 10), index.search(queries, 10, SearchParams(nprobe=None))
    same = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(found.ids.tolist(), everything.ids.tolist(), strict=True)]
    )
    assert 0.9 < same
    measured = index.settings["measured"]
    assert [row[0] for row in measured] == list(GOALS) and all(row[1] > 0.5 for row in measured)
    # Who asks for less visits less.
    assert measured[0][2] < measured[5][2] <= measured[-1][2]
    visited = [index.search(queries, 10, SearchParams(recall=recall)).ids for recall in (0.8, 0.95)]
    assert not (visited[0] == visited[1]).all() and (visited[1] == found.ids).all()
    # One after the other, and where several threads share a query, they visit the same partitions.
    for threads, long in ((1, 10**9), (2, 0)):
        monkeypatch.setattr(searcher, "_LONG", long)
        params = SearchParams(threads=threads, candidates=4000)
        alone = [index.search(query[None], 10, params).ids[0].tolist() for query in queries[:50]]
        assert alone == index.search(queries[:50], 10, replace(params, threads=1)).ids.tolist()
