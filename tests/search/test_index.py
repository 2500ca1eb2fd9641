"""The inverted index against brute force over the same codes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from csr_hf.codes import decoded_norms, encode_embeddings, project_queries
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.sparse_codes import QueryProjections, SparseCodes


def random_codes(n, k, dim, seed, head=None, levels=None):
    """Codes with distinct latents; few `levels` of values make ties, and some rows have fewer than k latents."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.choice(dim, k, replace=False) for _ in range(n)]) if n else np.zeros((0, k), np.int64)
    values = rng.integers(1, levels + 1, (n, k)) / levels if levels else rng.gamma(1.0, 1.0, (n, k)) + 1e-3
    values = -np.sort(-values, axis=1)
    values[:: max(n // 5, 1), k // 2 :] = 0
    return stored(SparseCodes(indices, values, dim, head))


def stored(documents):
    """Codes as the index rounds them: multiples of 1/255 of a document's largest value, none of them 0."""
    values = documents.values.astype(np.float64)
    steps = np.maximum(values.max(axis=1, keepdims=True, initial=0), 1e-30) / 255
    levels = np.where(values > 0, np.maximum(np.rint(values / steps), 1), 0)
    return SparseCodes(
        documents.indices, (levels * steps).astype(np.float32), documents.dim, documents.head_fingerprint
    )


def brute_force(documents, queries, top_k):
    """Cosines with the stored codes; scores and positions, padded."""
    values = documents.values.astype(np.float64)
    norms = np.sqrt((values**2).sum(1))
    scale = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    raw = queries.values.astype(np.float64)
    lengths = np.sqrt((raw**2).sum(1, keepdims=True))
    unit = raw / np.where(lengths > 0, lengths, 1)
    scores = np.full((len(queries), top_k), -np.inf, np.float32)
    positions = np.full((len(queries), top_k), -1)
    for q in range(len(queries)):
        dense = np.zeros(queries.dim)
        active = unit[q] > 0
        dense[queries.indices[q][active]] = unit[q][active]
        total = np.zeros(len(documents))
        for j in range(documents.k):
            total += dense[documents.indices[:, j]] * values[:, j]
        total *= scale
        order = np.argsort(-total, kind="stable")[:top_k]
        order = order[total[order] > 0]
        scores[q, : len(order)], positions[q, : len(order)] = total[order], order
    return scores, positions


def assert_brute_force(result, documents, queries, top_k):
    scores, positions = brute_force(documents, queries, top_k)
    np.testing.assert_allclose(result.scores, scores, rtol=3e-6, atol=1e-6)
    # Only what is level but for rounding may change places.
    finite = np.maximum(scores, -1)
    clear = np.abs(np.diff(finite, axis=1, prepend=9, append=-9)) > 3e-6
    clear = clear[:, :-1] & clear[:, 1:]
    clear |= np.isneginf(scores)
    np.testing.assert_array_equal(result.positions[clear], positions[clear])


@pytest.mark.parametrize(
    ("n", "dim", "k"),
    [(2_500, 200, 8), pytest.param(2_500, 70_000, 16, marks=pytest.mark.slow), (100, 200, 8), (700, 1_500, 300)],
)
def test_ranking_equals_brute_force(n, dim, k):
    documents, queries = random_codes(n, k, dim, 0), random_codes(37, k, dim, 1)
    queries = SparseCodes.concatenate([queries, documents[:5]])
    index = InvertedIndex.build(documents)
    for threads in (1, 3, None):
        assert_brute_force(index.search(queries, 15, params=SearchParams(threads=threads)), documents, queries, 15)
    assert_brute_force(index.search(queries[3], 15), documents, queries[3], 15)


def test_scores_are_the_cosines_that_scipy_computes():
    documents, queries = random_codes(3_000, 8, 300, 2), random_codes(20, 8, 300, 3)
    left = queries.astype("float32").normalize().to_scipy()
    right = documents.astype("float32").normalize().to_scipy()
    cosines = (left @ right.T).toarray()
    result = InvertedIndex.build(documents).search(queries, 20)
    np.testing.assert_allclose(result.scores, -np.sort(-cosines, axis=1)[:, :20], atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, result.positions, 1), result.scores, atol=2e-6)


@pytest.mark.parametrize("top_k", [1, 100, 3_000])
def test_ties_are_broken_by_position(top_k):
    documents, queries = random_codes(20_000, 4, 30, 4, levels=2), random_codes(5, 4, 30, 5, levels=2)
    result = InvertedIndex.build(documents).search(queries, top_k)
    assert_brute_force(result, documents, queries, top_k)
    tied = np.diff(result.scores, axis=1) == 0
    assert (np.diff(result.positions, axis=1)[tied] > 0).all()


def test_copies_of_one_document_beyond_every_buffer():
    one = random_codes(1, 8, 100, 6)
    documents = SparseCodes(np.repeat(one.indices, 30_000, 0), np.repeat(one.values, 30_000, 0), 100)
    result = InvertedIndex.build(documents).search(one, 50)
    assert result.positions.tolist() == [list(range(50))]


def test_a_query_may_keep_more_latents_and_query_k_truncates_it():
    documents, queries = random_codes(2_000, 8, 300, 7), random_codes(10, 100, 300, 8)
    index = InvertedIndex.build(documents)
    assert_brute_force(index.search(queries, 10), documents, queries, 10)
    assert_brute_force(index.search(queries, 10, params=SearchParams(query_k=4)), documents, queries.truncate(4), 10)


def test_tiny_components_still_count():
    """A value far below one step is kept as one step, so that its latent still makes a hit."""
    documents = SparseCodes(np.array([[0, 1], [0, 2]]), np.array([[255.0, 1e-6], [1, 1]]), 3)
    queries = SparseCodes(np.array([[1]]), np.array([[1.0]]), 3)
    result = InvertedIndex.build(documents).search(queries, 2)
    assert result.positions.tolist() == [[0, -1]]
    assert result.scores[0, 0] == pytest.approx(1 / np.hypot(255, 1))


def test_too_few_hits_are_padded():
    documents = SparseCodes(np.array([[0], [1], [0]]), np.array([[2.0], [1.0], [1.0]]), 4)
    queries = SparseCodes(np.array([[0], [3]]), np.ones((2, 1)), 4)
    for ids, none in ((None, -1), (["a", "bb", "c"], ""), ([7, 8, 9], -1)):
        result = InvertedIndex.build(documents, ids).search(queries, 5)
        known = np.arange(3) if ids is None else ids
        assert result.positions.tolist() == [[0, 2, -1, -1, -1], [-1] * 5]
        assert result.ids.tolist() == [[known[0], known[2], none, none, none], [none] * 5]
        np.testing.assert_array_equal(result.scores[0], [1, 1, -np.inf, -np.inf, -np.inf])


def test_empty_index_empty_batch_and_zero_queries():
    documents = random_codes(50, 4, 20, 9)
    empty = InvertedIndex.build(documents[:0], ids=[])
    assert len(empty) == 0
    assert empty.search(documents[:2], 3).positions.tolist() == [[-1] * 3] * 2
    index = InvertedIndex.build(documents)
    assert index.search(documents[:0], 3).ids.shape == (0, 3)
    zeros = SparseCodes(np.zeros((2, 4), int), np.zeros((2, 4)), 20)
    result = index.search(zeros, 3)
    assert (result.positions == -1).all() and np.isneginf(result.scores).all()
    assert (InvertedIndex.build(zeros).search(documents[:1], 3).positions == -1).all()


@pytest.fixture(scope="module")
def modelled():
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(input_dim=24, hidden_dim=96, k=8)).eval()
    with torch.no_grad():
        head.pre_bias.normal_(std=0.05)
    rng = np.random.default_rng(10)
    embeddings = rng.normal(size=(900, 24)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    documents = stored(encode_embeddings(head, embeddings[:870]))
    index = InvertedIndex.build(documents, decoded_norms=decoded_norms(head, documents))
    return head, embeddings[870:], documents, index


@pytest.mark.parametrize("threads", [1, 2])
def test_self_rescoring_is_the_cosine_of_query_and_decoded_document(modelled, threads):
    head, dense, documents, index = modelled
    queries, projections = encode_embeddings(head, dense, 16), project_queries(head, dense)
    result = index.search(
        queries, 10, params=SearchParams(rescore="self", candidates=40, threads=threads), projections=projections
    )
    with torch.no_grad():
        values = torch.from_numpy(documents.values.astype(np.float32))
        decoded = head.decode(values, torch.from_numpy(documents.indices.astype(np.int64)))
        cosines = torch.nn.functional.cosine_similarity(
            torch.from_numpy(dense)[:, None], decoded[None], dim=-1
        ).numpy()
    first = index.search(queries, 40).positions
    scores = np.take_along_axis(cosines, first, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    np.testing.assert_allclose(result.scores, np.take_along_axis(scores, order, 1), atol=1e-5)
    np.testing.assert_array_equal(result.positions, np.take_along_axis(first, order, 1))


def test_with_decoded_norms_scores_are_parts_of_the_cosine_with_the_decoded_document(modelled):
    head, dense, documents, index = modelled
    projections = project_queries(head, dense)
    queries = projections.codes(16)
    result = index.search(queries, 10)
    rows = documents.to_scipy()
    norms = decoded_norms(head, documents)
    scores = (queries.to_scipy() @ rows.T).toarray() / norms
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    np.testing.assert_allclose(result.scores, np.take_along_axis(scores, order, 1), atol=1e-5)
    np.testing.assert_array_equal(result.positions, order)


def test_documents_far_longer_than_their_decoding_keep_the_order_exact():
    """Codes may be longer than what they decode to: lists hold them scaled down, scores are not."""
    documents, queries = random_codes(2_000, 8, 100, 21), random_codes(20, 30, 100, 22)
    norms = np.random.default_rng(23).uniform(0.01, 3, 2_000).astype(np.float32)
    norms[7] = 0
    result = InvertedIndex.build(documents, decoded_norms=norms).search(queries, 10)
    scores = (queries.to_scipy() @ documents.astype("float32").to_scipy().T).toarray()
    scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    np.testing.assert_allclose(result.scores, -np.sort(-scores, axis=1)[:, :10], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, result.positions, 1), result.scores, rtol=1e-4)
    assert 7 not in result.positions


def test_self_rescoring_orders_negative_scores():
    documents = SparseCodes(np.array([[0], [1], [2]]), np.ones((3, 1)), 3)
    queries = SparseCodes(np.array([[0, 1, 2]]), np.array([[3.0, 2.0, 1.0]]), 3)
    projections = QueryProjections(np.array([[-3.0, -1.0, 0.5]], np.float32), np.zeros(1, np.float32))
    index = InvertedIndex.build(documents, decoded_norms=np.array([1, 1, 2], np.float32))
    result = index.search(queries, 3, params=SearchParams(rescore="self", candidates=3), projections=projections)
    assert result.positions.tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(result.scores, [[0.25, -1, -3]], rtol=1e-6)


def test_searches_from_several_threads_agree():
    documents, queries = random_codes(5_000, 8, 200, 11), random_codes(64, 8, 200, 12)
    index = InvertedIndex.build(documents)
    expected = index.search(queries, 10, params=SearchParams(threads=1))
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda i: index.search(queries, 10, params=SearchParams(threads=1 + i % 3)), range(40)):
            np.testing.assert_array_equal(result.positions, expected.positions)
            np.testing.assert_array_equal(result.scores, expected.scores)


def test_build_accepts_float32_and_does_not_keep_the_callers_arrays():
    codes = random_codes(40, 4, 50, 13)
    wide = codes.astype("float32")
    index = InvertedIndex.build(wide)
    expected = index.search(codes[:3], 5)
    wide.values[:] = 0
    np.testing.assert_array_equal(index.search(codes[:3], 5).scores, expected.scores)


def test_statistics():
    documents = SparseCodes(np.array([[0, 1], [0, 2]]), np.ones((2, 2)), 3, "abc")
    index = InvertedIndex.build(documents, ["x", "y"], decoded_norms=np.ones(2))
    assert (len(index), index.k, index.dim, index.head) == (2, 2, 3, "abc")
    assert index.postings_per_query == pytest.approx(1 + 0.25 + 0.25)
    # Of 2 documents: 4 postings; 3 lists in one block, of 8 + 2 bytes for their bits, with 4 offsets and 2 + 2 ends;
    # one tile of summaries; two ends of rows; scales and positions.
    assert index.first_stage_bytes_per_vector == (4 * 2 + 8 + 2 + 4 * 2 + 4 * 8 + 3 * 64 + 2 * 8 + 2 * (4 + 4)) / 2
    # Codes: 2 + 1 bytes for each of two latents, and a step.
    assert index.bytes_per_vector == index.first_stage_bytes_per_vector + 2 * (2 + 1) + 4
    assert index.nbytes == 2 * index.bytes_per_vector + 8
    assert "n=2, k=2, dim=3" in repr(index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": [1, 2]}, "`ids` holds 2 ids, but there are 3 documents"),
        ({"ids": [1, 2, 2]}, "`ids` must be unique.*2"),
        ({"ids": ["a", "b", "a"]}, "`ids` must be unique.*a"),
        ({"ids": [1.0, 2.0, 3.0]}, "`ids` must be all integers, all strings"),
        ({"ids": [1, 2, "c"]}, "`ids` must be all integers, all strings"),
        ({"ids": [True, False, 2]}, "`ids` must be all integers, all strings"),
        ({"copies": ["int7"], "embeddings": np.ones((3, 2))}, "`copies` names 'int7'"),
        ({"copies": ["int8"]}, "a copy 'int8' needs the documents' `embeddings`"),
        (
            {"copies": ["int8"], "embeddings": np.ones((2, 5))},
            r"`embeddings` has the shape \(2, 5\) instead of \(3, 5\)",
        ),
        ({"copies": ["int8"], "embeddings": np.full((3, 5), np.nan)}, r"`embeddings\[0\]` holds NaN"),
        ({"decoded_norms": np.ones(2)}, r"`decoded_norms`.*\(2,\)"),
        ({"decoded_norms": np.array([1, np.nan, 1])}, "`decoded_norms` must be finite"),
    ],
)
def test_build_errors(options, message):
    with pytest.raises(ValueError, match=message):
        InvertedIndex.build(random_codes(3, 2, 10, 14), **options)


def test_build_refuses_codes_it_cannot_store():
    def codes(indices, values):
        return SparseCodes(np.array(indices), np.array(values, np.float32), 10, check=False)

    with pytest.raises(ValueError, match=r"`codes\[1\]` names a latent twice"):
        InvertedIndex.build(codes([[1, 2], [3, 3]], [[2, 1], [2, 1]]))
    with pytest.raises(ValueError, match=r"`codes\[1\]` holds a value"):
        InvertedIndex.build(codes([[1, 2], [3, 4]], [[2, 1], [np.inf, 1]]))
    with pytest.raises(ValueError, match=r"`codes\[0\]` holds a value"):
        InvertedIndex.build(codes([[1, 2]], [[2, -1]]))
    with pytest.raises(ValueError, match=r"`codes.indices` must lie in \[0, 10\)"):
        InvertedIndex.build(codes([[1, 12]], [[2, 1]]))


def projections_of(n, dim):
    return QueryProjections(np.ones((n, dim), np.float32), np.zeros(n, np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"`top_k` \(0\)"),
        ({"query_k": 5}, r"`query_k` \(5\).*\(4\)"),
        ({"query_k": 0}, r"`query_k` \(0\)"),
        ({"threads": 0}, r"`threads` \(0\)"),
        ({"nprobe": 0}, r"`nprobe` \(0\)"),
        ({"rescore": "int7"}, "`rescore` \\('int7'\\) is unknown"),
        ({"rescore": "self"}, "needs `projections`"),
        ({"rescore": "binary"}, '`rescore="binary"` needs such copies.*has int8'),
        ({"rescore": "int8"}, "Pass `embeddings`"),
        (
            {"rescore": "int8", "embeddings": np.ones((2, 6))},
            r"`embeddings` has the shape \(2, 6\) instead of \(2, 7\)",
        ),
        ({"rescore": "int8", "embeddings": np.full((2, 7), np.inf)}, r"`embeddings\[0\]` holds NaN or infinity"),
        ({"allowed": np.ones(19, bool)}, r"`allowed` has the shape \(19,\), but there are 20 positions"),
        ({"rescore": "self", "candidates": 9, "projections": projections_of(2, 50)}, r"`candidates` \(9\)"),
        ({"rescore": "self", "projections": projections_of(3, 50)}, r"`projections.latents`.*\(3, 50\).*\(2, 50\)"),
        ({"rescore": "self", "projections": projections_of(2, 49)}, r"`projections.latents`.*\(2, 49\)"),
        (
            {"rescore": "self", "projections": projections_of(2, 50)._replace(offset=np.zeros(1))},
            r"`projections.offset`.*\(1,\)",
        ),
        (
            {"rescore": "self", "projections": projections_of(2, 50)._replace(offset=np.array([0, np.nan]))},
            "`projections.offset` holds NaN",
        ),
    ],
)
def test_search_errors(options, message):
    codes = random_codes(20, 4, 50, 15)
    index = InvertedIndex.build(codes, decoded_norms=np.ones(20), embeddings=np.ones((20, 7)), copies=["int8"])
    given = {name: options[name] for name in ("top_k", "projections", "embeddings", "allowed") if name in options}
    params = {name: value for name, value in options.items() if name not in given}
    with pytest.raises(ValueError, match=message):
        index.search(codes[:2], params=SearchParams(**params), **given)


def test_search_refuses_foreign_queries():
    codes = random_codes(20, 4, 50, 16, head="one")
    index = InvertedIndex.build(codes)
    with pytest.raises(ValueError, match=r"two.*one"):
        index.search(random_codes(2, 4, 50, 17, head="two"))
    assert index.search(random_codes(2, 4, 50, 17)).positions.shape == (2, 10)
    with pytest.raises(ValueError, match=r"`codes.dim` \(51\)"):
        index.search(random_codes(2, 4, 51, 17))
    with pytest.raises(ValueError, match="norms of the decoded documents"):
        index.search(codes[:2], params=SearchParams(rescore="self"), projections=projections_of(2, 50))
    decoded = InvertedIndex.build(codes, decoded_norms=np.ones(20))
    foreign = projections_of(2, 50)._replace(head_fingerprint="two")
    with pytest.raises(ValueError, match=r"`projections.head_fingerprint` \(two\) is not the head .* \(one\)"):
        decoded.search(codes[:2], 3, params=SearchParams(rescore="self"), projections=foreign)
    twice = SparseCodes(np.array([[1, 2], [3, 3]]), np.ones((2, 2)), 50)
    with pytest.raises(ValueError, match="query 1 names a latent twice"):
        index.search(twice)
    for indices, values in (([[1, 50]], [[1, 1]]), ([[1, 2]], [[1, np.nan]]), ([[1, 2]], [[1, -1]])):
        with pytest.raises(ValueError, match=r"`codes\.(indices|values)`"):
            index.search(SparseCodes(np.array(indices), np.array(values, float), 50, check=False))


def test_nprobe_visits_the_most_promising_blocks():
    """All blocks are the exact search; fewer lose some of the best, and never find what is not there."""
    documents, queries = random_codes(20_000, 8, 300, 31), random_codes(40, 16, 300, 32)
    index = InvertedIndex.build(documents)
    exact = index.search(queries, 10)
    recalls = []
    for nprobe in (1, 10, 40, 10_000):
        result = index.search(queries, 10, params=SearchParams(nprobe=nprobe))
        one = index.search(queries[7], 10, params=SearchParams(nprobe=nprobe))
        np.testing.assert_array_equal(one.positions, result.positions[7:8])
        recalls.append(np.mean([np.isin(b, a).mean() for a, b in zip(result.positions, exact.positions, strict=True)]))
        for row, positions in enumerate(result.positions):
            same = np.isin(positions, exact.positions[row])
            assert set(result.scores[row][same]) <= set(exact.scores[row])
    assert recalls == sorted(recalls) and recalls[0] < recalls[2] and recalls[-1] == 1
    # 40 of about 104 blocks: more than their share of the best.
    assert recalls[2] > 0.6


def test_filters_and_deleted_documents_are_passed_over_in_every_block():
    documents, queries = random_codes(9_000, 8, 200, 33), random_codes(30, 8, 200, 34)
    index = InvertedIndex.build(documents)
    allowed = np.random.default_rng(35).random(9_000) < 0.3
    chosen = np.flatnonzero(allowed)
    some = SparseCodes(documents.indices[chosen], documents.values[chosen], 200)
    alone = InvertedIndex.build(some).search(queries, 12)
    for result in (
        index.search(queries, 12, allowed=allowed),
        index.search(queries, 12, params=SearchParams(nprobe=999), allowed=allowed),
    ):
        np.testing.assert_array_equal(result.scores, alone.scores)
