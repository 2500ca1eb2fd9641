"""The index: what is found, added, deleted, saved, and what is refused."""

import pickle
import threading

import numpy as np
import pytest
import torch

from csr_hf.coding.coder import Coder
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.sparse_codes import SparseCodes

DIM, LATENTS = 24, 96
ALL = SearchParams(nprobe=None, candidates=100_000)


def make_coder(*, residual=12, seed=0):
    torch.manual_seed(seed)
    head = CSRModel(CSRConfig(input_dim=DIM, hidden_dim=LATENTS, k=8)).eval()
    coder = Coder(head, row_bytes=14)
    rows = make_rows(600, seed=9)
    if residual:
        coder.residual = ScalarQuantizer.fit(rows - coder.decode(coder.encode(rows)), residual)
    return coder


def make_rows(n, seed=0, *, unit=True):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(100).normal(size=(12, DIM))
    rows = (centers[rng.integers(12, size=n)] + 0.5 * rng.normal(size=(n, DIM))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows


@pytest.fixture(scope="module")
def coder():
    return make_coder()


def rank(coder, rows, queries, *, unit=True):
    """Scores of all documents, from what the coder decodes."""
    decoded = coder.decode(coder.encode(rows))
    if unit:
        decoded = decoded / np.linalg.norm(decoded, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ decoded.T


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_hits_are_those_of_all_decoded_documents(coder, similarity):
    unit = similarity == "cosine"
    rows, queries = make_rows(700, unit=unit), make_rows(20, 1, unit=unit)
    index = InvertedIndex.build(rows, coder, similarity=similarity)
    scores = rank(coder, rows, queries, unit=unit)
    hits = index.search(queries, 7, ALL)
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :7], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.take_along_axis(scores, hits.positions, 1), hits.scores, rtol=2e-3, atol=2e-3)
    assert (hits.ids == hits.positions).all()


def test_float16_copies_rank_by_the_embeddings(coder):
    rows, queries = make_rows(500), make_rows(10, 1)
    index = InvertedIndex.build(rows, coder, copies=["float16"])
    hits = index.search(queries, 5, ALL)
    np.testing.assert_allclose(hits.scores, -np.sort(-(queries @ rows.T), axis=1)[:, :5], atol=2e-3)
    by_codes = index.search(queries, 5, SearchParams(nprobe=None, candidates=500, rerank="codes"))
    np.testing.assert_allclose(by_codes.scores, -np.sort(-rank(coder, rows, queries), axis=1)[:, :5], atol=2e-3)


def test_fewer_documents_than_asked_for_are_fewer_hits(coder):
    index = InvertedIndex.build(make_rows(3), coder, ["a", "b", "c"])
    index.delete(["b"])
    hits = index.search(make_rows(2, 1), 2**62, ALL)
    assert [sorted(hit[0] for hit in row) for row in hits.rows()] == [["a", "c"]] * 2
    assert (hits.positions[:, 2:] == -1).all()
    empty = InvertedIndex.build(make_rows(0), coder)
    assert empty.search(make_rows(2, 1)).rows() == [[], []]


def test_what_is_allowed_or_deleted_decides_who_is_found(coder):
    rows, queries = make_rows(400), make_rows(8, 1)
    index = InvertedIndex.build(rows[:300], coder)
    index.add(rows[300:], coder)
    index.delete(range(0, 400, 3))
    chosen = np.random.default_rng(2).random(400) < 0.3
    scores = np.where(chosen & (np.arange(400) % 3 > 0), rank(coder, rows, queries), -np.inf)
    for allowed in (chosen, np.flatnonzero(chosen).tolist()):
        hits = index.search(queries, 5, ALL, allowed=allowed)
        np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :5], atol=2e-3)
    index.compact()
    assert index.segments == 1 and len(index) == 266
    hits = index.search(queries, 5, ALL, allowed=np.flatnonzero(chosen))
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :5], atol=2e-3)


def test_replaced_documents_are_found_once(coder):
    index = InvertedIndex.build(make_rows(50), coder, [f"d{i}" for i in range(50)])
    row = make_rows(1, 7)
    index.add(row, coder, ["d3"], replace=True)
    assert len(index) == 50 and index.search(row, 1, ALL).ids.tolist() == [["d3"]]
    with pytest.raises(ValueError, match="in use"):
        index.add(row, coder, ["d3"])
    assert index.delete(["d3", "x"], missing_ok=True) == 1
    with pytest.raises(ValueError, match="no document"):
        index.delete(["d3"])


def test_exact_search_ranks_by_codes_alone(coder):
    rows = make_rows(300)
    index = InvertedIndex.build(rows, coder)
    codes = SparseCodes(np.tile(np.arange(5, dtype=np.uint16), (6, 1)), np.ones((6, 5), np.float32), LATENTS)
    packed = coder.encode(rows)
    plain = make_coder(residual=0)
    norms = np.linalg.norm(plain.decode(packed.with_residual(None)), axis=1)
    scores = codes.to_scipy() @ packed.unpack().to_scipy().T / norms
    hits = index.search_codes(codes, 4)
    expected = -np.sort(-scores.toarray(), axis=1)[:, :4]
    np.testing.assert_allclose(hits.scores, np.where(expected > 0, expected, -np.inf), rtol=1e-3)


def test_saved_indices_answer_as_before(coder, tmp_path):
    rows, queries = make_rows(400), make_rows(8, 1)
    index = InvertedIndex.build(rows, coder, [f"d{i}" for i in range(400)], copies=["float16"])
    index.delete(["d3"])
    index.save(tmp_path / "index")
    expected = index.search(queries)
    for other in (
        InvertedIndex.load(tmp_path / "index"),
        InvertedIndex.load(tmp_path / "index", mmap=False),
        pickle.loads(pickle.dumps(index)),
    ):
        hits = other.search(queries)
        assert (hits.ids == expected.ids).all() and (hits.scores == expected.scores).all()
        assert len(other) == 399 and "d3" not in other and "d4" in other
        other.add(rows[:1], coder, ["new"])


def test_another_coder_is_refused(coder):
    index = InvertedIndex.build(make_rows(300), coder)
    with pytest.raises(ValueError, match="coder"):
        index.add(make_rows(3, 1), make_coder(seed=1))


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((2, DIM + 1), np.float32), "shape"),
        (np.zeros(DIM, np.float32), "shape"),
        (np.zeros((1, DIM), np.int64), "floats"),
        (np.full((1, DIM), np.nan, np.float32), "NaN"),
        (np.full((1, DIM), 1e300), "infinity"),
    ],
)
def test_queries_that_mean_nothing_are_refused(coder, queries, message):
    index = InvertedIndex.build(make_rows(300), coder)
    with pytest.raises(ValueError, match=message):
        index.search(queries)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "3"])
def test_top_k_is_a_count(coder, top_k):
    with pytest.raises(ValueError, match="top_k"):
        InvertedIndex.build(make_rows(10), coder).search(make_rows(1), top_k)


def test_a_search_sees_the_index_as_it_was(coder):
    index = InvertedIndex.build(make_rows(300), coder)
    queries, stop, faults = make_rows(4, 1), threading.Event(), []

    def ask():
        while not stop.is_set():
            hits = index.search(queries, 300, ALL)
            if not np.isfinite(hits.scores[:, :299]).all():
                faults.append(hits)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        index.add(make_rows(1, turn + 50), coder, [1000 + turn])
        index.delete([1000 + turn])
        index.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults and len(index) == 300


def test_lists_of_segments_that_are_gone_are_given_back(coder):
    index = InvertedIndex.build(make_rows(50), coder)
    exact = SearchParams(exact=True)
    for start in range(50, 80, 10):
        index.add(make_rows(10, seed=start), coder)
        index.search(make_rows(1), 3, exact)
        index.compact()
        before = index.search(make_rows(1), 3, exact)
        index.relabel(np.arange(len(index)) + 1, None)
        again = index.search(make_rows(1), 3, exact)
        np.testing.assert_array_equal(again.positions, before.positions)
        assert len(index._lists) == index.segments == 1


def test_codes_of_segments_of_any_size_are_those_of_their_documents():
    torch.manual_seed(3)
    coder = Coder(CSRModel(CSRConfig(input_dim=DIM, hidden_dim=LATENTS, k=8)).eval(), row_bytes=20)
    rows = make_rows(120, seed=4)
    index = InvertedIndex.build(rows[:60], coder)
    for row in range(60, 120):
        index.add(rows[row : row + 1], coder)
    assert len({segment.packed.k for segment in index._segments}) > 1
    dense = index.codes.to_scipy().toarray()
    assert dense.shape == (120, LATENTS)
    for position in range(120):
        np.testing.assert_array_equal(index.decode(position)[0].to_scipy().toarray()[0], dense[position])


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "requires_grad"])
def test_tensors_of_every_kind_are_embeddings(coder, kind):
    rows = torch.from_numpy(make_rows(40))
    rows = rows.requires_grad_() if kind == "requires_grad" else rows.to(getattr(torch, kind))
    array = rows.detach().float().numpy()
    hits = InvertedIndex.build(rows, coder).search(rows[:5], 3, ALL)
    np.testing.assert_array_equal(hits.ids, InvertedIndex.build(array, coder).search(array[:5], 3, ALL).ids)
