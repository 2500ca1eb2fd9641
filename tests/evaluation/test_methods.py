import numpy as np
import pytest
import torch

from csr_hf.codes import encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.evaluation.csr_methods import CSRMethod, DecodedMethod
from csr_hf.evaluation.methods import all_methods
from tests.publishing.conftest import make_head


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def codes_of(method, embeddings, k):
    values, indices = method.head.encode(torch.from_numpy(np.ascontiguousarray(embeddings)), k)
    return torch.zeros(len(values), method.head.config.hidden_dim).scatter(1, indices, values).detach().numpy()


def stored_codes(method, documents):
    """Codes as a file of packed codes gives them back."""
    if isinstance(method, DecodedMethod):
        packed = Coder(method.head, k=method.k, bits=4).encode(documents)
    else:
        packed = encode_embeddings(method.head, documents, method.k, refine=True).pack(4)
    assert method.bytes_per_vector >= packed.row_bytes
    return packed.unpack().to_scipy().toarray()


def decode(method, documents):
    """Codes as they are stored, and what they decode to."""
    stored = stored_codes(method, documents)
    return stored, stored @ method.head.encoder.weight.detach().numpy() + method.head.pre_bias.detach().numpy()


def largest_projections(method, queries):
    atoms = method.head.encoder.weight.detach().numpy()
    projections = unit(queries) @ atoms.T
    kept = -np.sort(-projections, axis=1)[:, [method.query_k - 1]]
    return np.where(projections >= np.maximum(kept, 0), projections, 0)


def written_out(method, documents, queries):
    """Scores of all pairs, from the definition of each method."""
    if isinstance(method, DecodedMethod):
        return unit(queries) @ unit(decode(method, documents)[1]).T
    if not isinstance(method, CSRMethod):
        vectors = unit(queries) if method.name == "dense" else method.query(unit(queries))
        return vectors @ method.store(unit(documents)).T
    if method.plain:
        return unit(codes_of(method, queries, method.query_k)) @ unit(codes_of(method, documents, method.k)).T
    stored, decoded = decode(method, documents)
    return largest_projections(method, queries) @ stored.T / np.linalg.norm(decoded, axis=1)


def test_every_method_searches_and_scores_as_it_is_defined(minilm_head, searched):
    documents, queries = searched
    methods = all_methods(
        minilm_head,
        documents[::-1],
        ks=[8, 32],
        baselines=["truncate", "pca", "int8", "binary"],
    )
    methods.append(CSRMethod(minilm_head, 8, plain=True))
    assert len({str(method.settings) for method in methods}) == len(methods)
    for method in methods:
        searcher = method.index(documents)
        expected = written_out(method, documents, queries)
        hits = searcher.search(queries, 5)
        for row, positions in enumerate(hits.positions):
            np.testing.assert_allclose(expected[row, positions], np.sort(expected[row])[::-1][:5], atol=2e-3)
            np.testing.assert_allclose(hits.scores[row], expected[row, positions], atol=2e-3)
            chosen = np.array([3, 50, 97])
            np.testing.assert_allclose(searcher.score(queries[row], chosen), expected[row, chosen], atol=2e-3)


def test_bytes_are_those_that_are_stored(minilm_head, searched):
    methods = all_methods(minilm_head, searched[0], ks=[8, 5000])
    sizes = {(method.name, method.k): method.bytes_per_vector for method in methods}
    # A byte for the scale, and 14 for eight latents: 4 bits for each value, and 80 for their gaps.
    assert sizes == {
        ("dense", None): 1536,
        ("CSR", 8): 15,
        ("CSR, decoded", 8): 15,
        ("truncation", None): 15,
        ("PCA", None): 15,
        ("int8", None): 384,
        ("binary", None): 48,
    }
    assert CSRMethod(make_head(hidden_dim=100_000, k=8), 8).bytes_per_vector == 21
    # What sentence-transformers stores: two bytes for an index, two for a value, four for a norm.
    assert CSRMethod(minilm_head, 8, plain=True).bytes_per_vector == 36


def test_without_training_embeddings_fitted_baselines_are_left_out(minilm_head):
    methods = all_methods(minilm_head, None, ks=[8], baselines=["truncate", "pca", "int8", "binary", "pq"])
    names = [method.name for method in methods]
    assert names == ["dense", "CSR", "CSR, decoded", "truncation", "binary"]


def of_other_norms(rows):
    """The same directions with norms from 0.5 to 4: what dot products and distances depend on."""
    return rows * np.linspace(0.5, 4, len(rows), dtype=np.float32)[:, None]


def read_back(method, documents):
    """Documents as each method stores them for a dot product, written out."""
    return decode(method, documents)[1] if isinstance(method, DecodedMethod) else method.store(documents)


def test_methods_approximate_dot_products_where_the_backbone_compares_by_them(minilm_head, searched):
    documents, queries = (of_other_norms(side) for side in searched)
    methods = all_methods(
        minilm_head,
        documents,
        ks=[32],
        baselines=["truncate", "pca", "int8", "binary"],
        similarity="dot",
    )
    exact = queries @ documents.T
    for method in methods:
        hits = method.index(documents).search(queries, 5)
        if method.name == "CSR":
            stored = stored_codes(method, documents)
            projections = queries @ method.head.encoder.weight.detach().numpy().T
            kept = -np.sort(-projections, axis=1)[:, [method.query_k - 1]]
            expected = np.where(projections >= np.maximum(kept, 0), projections, 0) @ stored.T
        else:
            expected = method.query(queries) @ read_back(method, documents).T
        for row, positions in enumerate(hits.positions):
            np.testing.assert_allclose(hits.scores[row], expected[row, positions], atol=0.03)
            np.testing.assert_allclose(hits.scores[row], -np.sort(-expected[row])[:5], atol=0.03)
            chosen = method.index(documents).score(queries[row], positions) if row == 0 else hits.scores[row]
            np.testing.assert_allclose(chosen, hits.scores[row], atol=0.03)
        if method.name in ("dense", "int8", "PCA"):
            best = -np.sort(-exact, axis=1)[:, :5]
            np.testing.assert_allclose(hits.scores, best, rtol=0.01, atol=0.05)


def test_a_short_document_in_the_direction_of_the_query_loses_to_a_long_one(head):
    """By cosine the first would win: that is what was measured before."""
    direction = np.eye(12, dtype=np.float32)
    documents = np.stack([0.1 * direction[0], 5 * (direction[0] + direction[1]), direction[2]])
    for method in all_methods(head, documents, ks=[5], baselines=["int8", "binary"], similarity="dot"):
        if method.name != "CSR":
            assert method.index(documents).search(direction[:1], 1).positions.tolist() == [[1]], method.name
    for method in all_methods(head, documents, ks=[5], baselines=["int8"]):
        if method.name in ("dense", "int8"):
            assert method.index(documents).search(direction[:1], 1).positions.tolist() == [[0]], method.name


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_all_approximate_distances_but_sparse_codes_which_are_searched_by_cosine(minilm_head, searched, similarity):
    documents, queries = (of_other_norms(side) for side in searched)
    order = {"euclidean": 2, "manhattan": 1}[similarity]
    methods = all_methods(minilm_head, documents, ks=[32], similarity=similarity)
    for method in methods:
        hits = method.index(documents).search(queries, 5)
        if isinstance(method, CSRMethod):
            by_cosine = CSRMethod(minilm_head, 32)
            assert np.array_equal(hits.positions, by_cosine.index(documents).search(queries, 5).positions)
            continue
        kept, asked = read_back(method, documents), method.query(queries)
        expected = -np.linalg.norm(asked[:, None] - kept[None], ord=order, axis=2)
        np.testing.assert_allclose(hits.scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-4, atol=1e-4)
    (dense, csr, decoded, *_) = methods
    assert [method.similarity for method in (dense, csr, decoded)] == [similarity, "cosine", similarity]
    # What was decoded keeps its norm, so that its distances mean something.
    norms = [np.linalg.norm(rows, axis=1) for rows in (decoded.vectors(documents), documents)]
    assert np.corrcoef(norms)[0, 1] > 0.9


def test_settings_tell_similarities_apart_and_bytes_count_norms(minilm_head, searched):
    named = {
        similarity: all_methods(minilm_head, searched[0], ks=[8], similarity=similarity)
        for similarity in ("cosine", "dot", "euclidean")
    }
    dense = [methods[0].settings for methods in named.values()]
    assert dense == [{}, {"similarity": "dot"}, {"similarity": "euclidean"}]
    sizes = {method.name: method.bytes_per_vector for method in named["dot"]}
    # Nothing is divided by a norm; signs need one.
    assert (sizes["CSR"], sizes["CSR, decoded"]) == (15, 15)
    assert sizes["binary"] == 48 + 4
    assert [method.settings.get("similarity") for method in named["dot"]] == ["dot"] * len(named["dot"])
