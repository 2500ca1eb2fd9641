"""Indexes that change: adding, deleting, compacting, filters, and searches meanwhile."""

import threading

import numpy as np
import pytest

from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.sparse_codes import QueryProjections, SparseCodes
from tests.search.test_index import random_codes


@pytest.fixture(scope="module")
def documents():
    return random_codes(900, 8, 150, 30)


@pytest.fixture(scope="module")
def queries():
    return random_codes(25, 12, 150, 31)


def assert_same(result, expected, *, positions=True):
    np.testing.assert_array_equal(result.ids, expected.ids)
    np.testing.assert_array_equal(result.scores, expected.scores)
    if positions:
        np.testing.assert_array_equal(result.positions, expected.positions)


def in_parts(documents, *, decoded=False):
    norms = np.random.default_rng(1).uniform(0.2, 2, len(documents)).astype(np.float32) if decoded else None

    def chosen(rows):
        return {} if norms is None else {"decoded_norms": norms[rows]}

    index = InvertedIndex.build(documents[:400], **chosen(slice(0, 400)))
    index.add(documents[400:401], **chosen(slice(400, 401)))
    index.add(documents[401:], **chosen(slice(401, None)))
    return index, InvertedIndex.build(documents, **chosen(slice(None)))


@pytest.mark.parametrize("decoded", [False, True])
def test_segments_are_searched_as_one(documents, queries, decoded):
    index, whole = in_parts(documents, decoded=decoded)
    assert (index.segments, len(index), index.k, index.dim) == (3, 900, 8, 150)
    for top_k in (1, 10, 450, 1000):
        assert_same(index.search(queries, top_k), whole.search(queries, top_k))
    np.testing.assert_array_equal(index.codes.indices, whole.codes.indices)
    assert index.postings_per_query == pytest.approx(whole.postings_per_query)


@pytest.mark.parametrize("decoded", [False, True])
def test_deleted_documents_are_never_found_and_compacting_changes_no_answer(documents, queries, decoded):
    index, _ = in_parts(documents, decoded=decoded)
    best = np.unique(index.search(queries, 5).ids)
    assert index.delete(best) == len(best)
    assert len(index) == 900 - len(best)
    kept = np.setdiff1d(np.arange(900), best)
    norms = np.random.default_rng(1).uniform(0.2, 2, 900).astype(np.float32)[kept]
    expected = InvertedIndex.build(documents[kept], kept, **({"decoded_norms": norms} if decoded else {}))
    result = index.search(queries, 20)
    assert_same(result, expected.search(queries, 20), positions=False)
    np.testing.assert_array_equal(result.positions, result.ids)
    assert best[0] not in index and kept[0] in index
    index.compact()
    assert (index.segments, len(index)) == (1, 900 - len(best))
    assert_same(index.search(queries, 20), expected.search(queries, 20))
    index.add(documents[best[:1]], **({"decoded_norms": norms[:1]} if decoded else {}))
    assert np.setdiff1d(index.search(documents[best[0]], 900).ids, kept).max() == kept.max() + 1


def test_everything_can_be_deleted_and_added_again(documents, queries):
    index = InvertedIndex.build(documents[:30])
    index.delete(range(30))
    assert len(index) == 0
    assert (index.search(queries, 4).positions == -1).all()
    index.compact()
    assert (len(index), index.k) == (0, 8)
    assert (index.search(queries, 4).ids == -1).all()
    index.add(documents[:30], np.arange(30))
    assert_same(index.search(queries, 4), InvertedIndex.build(documents[:30]).search(queries, 4))


@pytest.mark.parametrize(
    "ids",
    [
        [f"document {i}" for i in range(900)],
        np.arange(900)[::-1] * 7 - 50,
        [("a", i) for i in range(900)],
        [frozenset({i}) for i in range(900)],
    ],
    ids=["strings", "integers", "tuples", "sets"],
)
def test_ids_of_every_type(documents, queries, ids):
    index = InvertedIndex.build(documents[:500], ids[:500])
    index.add(documents[500:], ids[500:])
    positions = InvertedIndex.build(documents).search(queries, 6).positions
    found = index.search(queries, 6)
    assert [[ids[at] for at in row] for row in positions] == found.ids.tolist()
    index.delete([ids[3], ids[700]])
    assert ids[3] not in index and ids[700] not in index and ids[4] in index
    index.compact()
    assert len(index) == 898
    chosen = [ids[9], ids[600]]
    assert set(index.search(queries, 900, allowed=chosen).ids.ravel().tolist()) - {-1, "", None} <= set(chosen)


def test_what_is_not_there_is_not_found(documents):
    """Whatever the type of an id that is asked for."""
    strange = [("a", 1), "b", 2**70, 1.5, None, True, b"x"]
    for ids, known in (([5, 6], 5), (["b1", "b2"], "b1"), ([("a", 2), ("b", 3)], ("b", 3)), (None, 1)):
        index = InvertedIndex.build(documents[:2], ids)
        assert [one in index for one in strange] == [False] * len(strange)
        assert index.delete(strange, missing_ok=True) == 0
        found = index.search(documents[:2], 2, allowed=[*strange, known])
        assert {str(one) for one in found.ids.ravel().tolist()} - {"-1", "", "None"} <= {str(known)}
        assert known in index
    mixed = InvertedIndex.build(documents[:2], [("a", 1), "b"])
    assert "b" in mixed and mixed.delete(["b"]) == 1


def test_arguments_that_are_no_lists_of_ids(documents):
    index = InvertedIndex.build(documents[:2], ["a", "b"])
    with pytest.raises(ValueError, match=r"`ids` is one string, 'ab'"):
        index.delete("ab")
    with pytest.raises(ValueError, match=r"`allowed` is one string, 'ab'"):
        index.search(documents[:1], allowed="ab")
    assert index.search(documents[:1], 1, allowed=[False, True]).ids.tolist() in ([["b"]], [[""]])
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        InvertedIndex.build(documents[:1], [2**64])
    with pytest.raises(ValueError, match="ends in a zero character"):
        InvertedIndex.build(documents[:2], ["a", "a\0"])
    last = InvertedIndex.build(documents[:1], [2**63 - 1])
    with pytest.raises(ValueError, match="there is no number after"):
        last.add(documents[:1])
    with pytest.raises(ValueError, match=r"`codes.k` \(4\) is not the index's k \(8\)"):
        index.add(documents[:1].truncate(4), ["c"])
    for positions, message in ((np.zeros(3, int), "must be integers"), (np.full((1, 1), 2), r"must lie in \[-1, 2\)")):
        with pytest.raises(ValueError, match=message):
            index.rescore(positions, "self")


def test_an_empty_index_takes_ids_of_any_kind(documents):
    index = InvertedIndex.build(documents[:0])
    index.add(documents[:2], ["a", "b"])
    index.delete(["a", "b"])
    index.compact()
    index.add(documents[:2])
    assert index.search(documents[1], 1).ids.tolist() == [[1]]


def test_documents_that_decode_to_nothing_are_no_hits_and_harm_no_other(documents, queries):
    norms = np.ones(900, np.float32)
    norms[[3, 5]] = 1e-39, 0
    result = InvertedIndex.build(documents, decoded_norms=norms).search(queries, 900)
    assert not np.isin(result.ids, [3, 5]).any()
    assert (result.positions >= 0).sum() > 100


def test_ids_in_use_are_refused_or_replaced(documents):
    index = InvertedIndex.build(documents[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`ids`: 'b' is in use.*`replace=True`"):
        index.add(documents[3:5], ["d", "b"])
    assert len(index) == 3 and "d" not in index
    index.add(documents[3:5], ["d", "b"], replace=True)
    assert len(index) == 4
    assert index.search(documents[4], 1).ids.tolist() == [["b"]]
    with pytest.raises(ValueError, match=r"there is no document 'z'.*`missing_ok=True`"):
        index.delete(["a", "z"])
    assert "a" in index
    assert index.delete(["a", "z"], missing_ok=True) == 1
    with pytest.raises(ValueError, match="`ids` must be given: those of the index are strings"):
        index.add(documents[:1])
    with pytest.raises(ValueError, match="`ids` are integers, those of the index strings"):
        index.add(documents[:1], [1])
    with pytest.raises(ValueError, match="`ids` must be unique; 'x'"):
        index.add(documents[:2], ["x", "x"])
    with pytest.raises(ValueError, match="`decoded_norms` must not be given"):
        index.add(documents[:1], ["q"], decoded_norms=np.ones(1))
    with pytest.raises(ValueError, match=r"`codes.dim` \(9\)"):
        index.add(random_codes(1, 2, 9, 0), ["q"])
    assert len(index) == 3
    with pytest.raises(TypeError, match="unhashable"):
        index.add(documents[:1], [["q"]])


@pytest.mark.parametrize("share", [0.002, 0.1, 0.9])
def test_filters_lose_nothing(documents, queries, share):
    index, whole = in_parts(documents)
    allowed = np.random.default_rng(2).random(900) < share
    every = whole.search(queries, 900)
    for given in (allowed, np.flatnonzero(allowed), set(np.flatnonzero(allowed).tolist()) | {10_000}):
        result = index.search(queries, 10, allowed=given)
        for row, positions in enumerate(result.positions):
            expected = [at for at in every.positions[row] if at >= 0 and allowed[at]][:10]
            assert positions[positions >= 0].tolist() == expected
    index.delete(np.flatnonzero(allowed)[:1])
    assert np.flatnonzero(allowed)[0] not in index.search(queries, 900, allowed=allowed).ids
    assert (index.search(queries, 5, allowed=[]).positions == -1).all()


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(5)
    return rng.standard_normal((900, 21)).astype(np.float32) * 3, rng.standard_normal((25, 21)).astype(np.float32)


def stored(kind, rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if kind == "binary":
        return np.where(units > 0, 1, -1) / np.sqrt(21)
    if kind == "float16":
        return units.astype(np.float16).astype(np.float32)
    step = np.abs(units).max(axis=1, keepdims=True) / 127
    return np.rint(units / step) * step


@pytest.mark.parametrize("kind", ["binary", "int8", "float16"])
def test_copies_rank_the_candidates(documents, queries, dense, kind):
    rows, asked = dense
    index = InvertedIndex.build(
        documents[:300], embeddings=rows[:300].astype(np.float64), copies=["int8", kind][kind == "int8" :]
    )
    index.add(documents[300:], embeddings=rows[300:])
    first = index.search(queries, 60)
    scores = asked @ stored(kind, rows).T
    for _ in range(2):
        result = index.search(queries, 10, params=SearchParams(rescore=kind, candidates=60), embeddings=asked)
        for row, positions in enumerate(result.positions):
            candidates = first.positions[row][first.positions[row] >= 0]
            expected = candidates[np.argsort(-scores[row, candidates], kind="stable")][:10]
            np.testing.assert_allclose(result.scores[row, : len(expected)], scores[row, expected], atol=1e-4)
            np.testing.assert_allclose(scores[row, positions[: len(expected)]], scores[row, expected], atol=1e-4)
        index.compact()
    assert kind in index.copies


def test_copies_cost_what_is_said(documents, dense):
    bare = InvertedIndex.build(documents).nbytes
    for kind, size in (("int8", 21 + 4), ("float16", 42)):
        copied = InvertedIndex.build(documents, embeddings=dense[0], copies=[kind])
        assert copied.nbytes - bare == 900 * size
    copied = InvertedIndex.build(documents, embeddings=dense[0], copies=["binary"])
    arrays = copied._parts[0].segment.arrays
    blocks, sub_blocks = len(arrays["rows"]) - 1, len(arrays["binary_rows"]) - 1
    assert blocks < sub_blocks < 900 / 12
    signs_and_centers, numbers = (900 + sub_blocks) * 3 + 2 * 64, 8 * (sub_blocks + 1 + blocks + 1)
    assert copied.nbytes - bare == signs_and_centers + numbers


def test_a_document_of_zeros_has_a_copy(documents):
    index = InvertedIndex.build(documents[:2], embeddings=np.zeros((2, 5)), copies=["int8", "binary", "float16"])
    for kind in index.copies:
        result = index.search(documents[:1], 1, params=SearchParams(rescore=kind), embeddings=np.ones((1, 5)))
        assert np.isfinite(result.scores).all()
    arrays = index._parts[0].segment.arrays
    assert not arrays["int8"].any()
    assert not arrays["float16"].any()


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e18])
def test_a_copy_does_not_depend_on_the_length_of_an_embedding(documents, dense, factor):
    one, other = (
        InvertedIndex.build(documents[:50], embeddings=rows.astype(np.float32), copies=["int8", "float16"])
        for rows in (dense[0][:50], dense[0][:50].astype(np.float64) * factor)
    )
    for kind in ("int8", "float16"):
        mine, theirs = (
            index.search(documents[:9], 5, params=SearchParams(rescore=kind), embeddings=dense[0][:9])
            for index in (one, other)
        )
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-5)


def test_self_rescoring_over_segments(documents, queries):
    index, whole = in_parts(documents, decoded=True)
    projections = QueryProjections(np.random.default_rng(3).normal(size=(25, 150)), np.ones(25))
    for _ in range(2):
        results = [
            one.search(queries, 9, params=SearchParams(rescore="self", candidates=50), projections=projections)
            for one in (index, whole)
        ]
        np.testing.assert_array_equal(results[0].ids, results[1].ids)
        np.testing.assert_allclose(results[0].scores, results[1].scores, rtol=1e-5)
        index.compact()


def test_searching_while_another_thread_writes(documents, queries):
    """Every answer is that of the index at some moment: all or none of each batch that was added."""
    index = InvertedIndex.build(documents[:300])
    marker = SparseCodes(np.full((30, 1), 149), np.ones((30, 1)), 150)
    padded = SparseCodes(np.repeat(marker.indices, 8, 1), np.eye(1, 8).repeat(30, 0), 150, check=False)
    probe = SparseCodes(np.array([[149]]), np.ones((1, 1)), 150)
    before = int((index.search(probe, 300).positions >= 0).sum())
    failures, done = [], threading.Event()

    def search():
        while not done.is_set():
            found = int((index.search(probe, 2000, params=SearchParams(threads=1)).positions >= 0).sum())
            if (found - before) % 30:
                failures.append(found)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for round_ in range(12):
        index.add(padded)
        if round_ % 3 == 2:
            index.compact()
        if round_ == 7:
            index.delete(np.arange(300, 330))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == 300 + 11 * 30


def test_inputs_without_order_or_range_are_refused():
    rng = np.random.default_rng(0)
    documents, dense = random_codes(5, 3, 16, 0), rng.standard_normal((5, 8)).astype(np.float32)
    with pytest.raises(ValueError, match=r"`ids` is a set, which has no order. Give a list"):
        InvertedIndex.build(documents, {"a", "b", "c", "d", "e"})
    with pytest.raises(ValueError, match="`ids` holds None, which stands for no document"):
        InvertedIndex.build(documents, [None] * 5)
    index = InvertedIndex.build(documents, embeddings=dense, copies=["binary", "int8"])
    with pytest.raises(ValueError, match=r"`codes` is a list, not SparseCodes. Encode first: encoder.encode_query"):
        index.search(["a text"])
    for bad in (1e300, np.nan):
        queries = dense[:2].astype(np.float64)
        queries[1, 3] = bad
        with np.errstate(all="raise"), pytest.raises(ValueError, match=r"`embeddings\[1\]` holds NaN or infinity"):
            index.search(documents[:2], 3, params=SearchParams(rescore="int8"), embeddings=queries)
