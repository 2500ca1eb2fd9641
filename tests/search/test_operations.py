"""Any sequence of operations on an index, against a list of documents that is searched by brute force."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from tests.search.test_index import ALL, make_coder, make_rows

QUERIES = make_rows(3, 77)
POOL = make_rows(400, 5)


@pytest.fixture(scope="module")
def coder():
    return make_coder()


@pytest.fixture(scope="module")
def scores(coder):
    decoded = coder.decode(coder.encode(POOL))
    return QUERIES @ (decoded / np.linalg.norm(decoded, axis=1, keepdims=True)).T


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 60)),
        st.tuples(st.just("delete"), st.integers(0, 399)),
        st.tuples(st.just("replace"), st.integers(0, 399)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("reload"), st.just(0)),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=st.integers(0, 80), steps=operations, top_k=st.integers(1, 500), seed=st.integers(0, 99))
def test_hits_are_those_of_brute_force_after_any_operations(
    coder, scores, tmp_path_factory, first, steps, top_k, seed
):
    index, count = InvertedIndex.build(POOL[:first], coder), first
    there = dict(enumerate(range(first)))
    for name, number in steps:
        if name == "add" and count + number <= len(POOL):
            index.add(POOL[count : count + number], coder, range(count, count + number))
            there |= {i: i for i in range(count, count + number)}
            count += number
        elif name == "delete" and number in there:
            assert index.delete([number]) == 1
            del there[number]
        elif name == "replace":
            index.add(POOL[number : number + 1], coder, [number], replace=True)
            there[number] = number
            count = max(count, number + 1)
        elif name == "compact":
            index.compact()
        elif name == "reload":
            folder = tmp_path_factory.mktemp("index") / "index"
            index.save(folder)
            index = InvertedIndex.load(folder)
    assert len(index) == len(there)
    chosen = np.random.default_rng(top_k).random(len(POOL)) < 0.5
    for allowed in (None, np.flatnonzero(chosen).tolist()):
        found = index.search(QUERIES, top_k, ALL, allowed=allowed)
        wanted = [i for i in there if allowed is None or chosen[i]]
        for row, own in zip(found.rows(), scores, strict=True):
            assert len(row) == min(top_k, len(wanted))
            assert len({hit[0] for hit in row}) == len(row) and {hit[0] for hit in row} <= set(wanted)
            expected = np.sort(own[wanted])[::-1][: len(row)] if wanted else []
            np.testing.assert_allclose([hit[2] for hit in row], expected, atol=2e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10])
def test_scales_of_embeddings_and_queries_do_not_count_for_cosines(coder, scale):
    index = InvertedIndex.build(POOL, coder, copies=["float16"])
    by_codes = SearchParams(rerank="codes")
    scaled = QUERIES.astype(np.float64) * scale
    expected = index.search(QUERIES, 5, by_codes).scores
    np.testing.assert_allclose(index.search(scaled, 5, by_codes).scores, expected, atol=1e-3)
    # Copies are of unit norm, whatever the coder makes of such embeddings.
    other = InvertedIndex.build(POOL.astype(np.float64) * scale, coder, copies=["float16"])
    np.testing.assert_allclose(other.search(scaled, 5).scores, index.search(QUERIES, 5).scores, atol=1e-3)


def test_equal_documents_are_found_in_order_of_position(coder):
    index = InvertedIndex.build(np.repeat(POOL[:1], 700, axis=0), coder)
    hits = index.search(QUERIES, 9, SearchParams(nprobe=None, candidates=20))
    assert (hits.positions == np.arange(9)).all()


def test_zeros_spoil_nothing(coder):
    rows = POOL.copy()
    rows[::7] = 0
    index = InvertedIndex.build(rows, coder)
    hits = index.search(np.concatenate([QUERIES, np.zeros((1, 24), np.float32)]), 30, ALL)
    assert np.isfinite(hits.scores).all() and (hits.positions[:3] % 7 > 0).mean() > 0.8


def test_one_long_document_leaves_others_where_they_are(coder):
    rows = make_rows(600, unit=False)
    queries = make_rows(20, 1, unit=False)
    params = SearchParams(nprobe=4, candidates=100)
    before = InvertedIndex.build(rows, coder, similarity="dot", partitions=16).search(queries, 10, params)
    rows[17] *= 1e6
    after = InvertedIndex.build(rows, coder, similarity="dot", partitions=16).search(queries, 11, params)
    shared = [len(set(a) & set(b)) for a, b in zip(before.ids.tolist(), after.ids.tolist(), strict=True)]
    assert np.mean(shared) > 7
