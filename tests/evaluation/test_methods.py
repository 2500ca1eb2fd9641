import numpy as np
import pytest
import torch

from csr_hf.evaluation.csr_methods import CSRMethod
from csr_hf.evaluation.methods import all_methods
from tests.publishing.conftest import make_head


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def codes_of(method, embeddings, k, refine=False):
    values, indices = method.head.encode(torch.from_numpy(np.ascontiguousarray(embeddings)), k, refine=refine)
    return torch.zeros(len(values), method.head.config.hidden_dim).scatter(1, indices, values).detach().numpy()


def searched_codes(method, documents, queries, refine):
    """Codes as they are stored, what they decode to, and the largest projections of the queries."""
    stored = codes_of(method, documents, method.k, refine).astype(np.float16).astype(np.float32)
    atoms = method.head.encoder.weight.detach().numpy()
    projections = unit(queries) @ atoms.T
    kept = -np.sort(-projections, axis=1)[:, [method.query_k - 1]]
    asked = np.where(projections >= np.maximum(kept, 0), projections, 0)
    return stored, stored @ atoms + method.head.pre_bias.detach().numpy(), asked


def written_out(method, documents, queries):
    """Scores of all pairs, from the definition of each method; -9 for those without a latent in common."""
    if not isinstance(method, CSRMethod):
        vectors = unit(queries) if method.name == "dense" else method.query(unit(queries))
        return vectors @ method.store(unit(documents)).T
    if method.plain:
        return unit(codes_of(method, queries, method.query_k)) @ unit(codes_of(method, documents, method.k)).T
    refine = "pursuit" if method.rerank == "decoded" else True
    stored, decoded, asked = searched_codes(method, documents, queries, refine)
    if method.rerank is None:
        return asked @ stored.T / np.linalg.norm(decoded, axis=1)
    kept = unit(decoded if method.rerank == "decoded" else documents)
    if method.rerank == "binary":
        kept = np.where(kept > 0, 1, -1) / np.sqrt(384)
    return np.where(asked @ stored.T > 0, unit(queries) @ kept.T, -9)


def test_every_method_searches_and_scores_as_it_is_defined(minilm_head, searched):
    documents, queries = searched
    methods = all_methods(
        minilm_head,
        documents[::-1],
        ks=[8, 32],
        baselines=["truncate", "pca", "int8", "binary"],
        rerank=["int8", "binary", "float16"],
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
            chosen = np.array([at for at in (3, 50, 97) if expected[row, at] > -9], np.int64)
            np.testing.assert_allclose(searcher.score(queries[row], chosen), expected[row, chosen], atol=2e-3)


def test_bytes_are_those_that_are_stored(minilm_head, searched):
    methods = all_methods(minilm_head, searched[0], ks=[8, 5000])
    sizes = {(method.name, method.k): method.bytes_per_vector for method in methods}
    # Two bytes for an index of 1,536, two for a value, four for a norm.
    assert sizes == {
        ("dense", None): 1536,
        ("CSR", 8): 36,
        ("CSR, decoded", 8): 36,
        ("CSR + int8", 8): 36 + 384 + 4,
        ("truncation", None): 36,
        ("PCA", None): 36,
        ("int8", None): 384,
        ("binary", None): 48,
    }
    assert CSRMethod(make_head(hidden_dim=100_000, k=8), 8).bytes_per_vector == 52


def test_without_training_embeddings_fitted_baselines_are_left_out(minilm_head):
    methods = all_methods(minilm_head, None, ks=[8], baselines=["truncate", "pca", "int8", "binary", "pq"])
    names = [method.name for method in methods]
    assert names == ["dense", "CSR", "CSR, decoded", "CSR + int8", "truncation", "binary"]


def test_copies_that_do_not_exist_are_refused(minilm_head):
    with pytest.raises(ValueError, match=r"`rerank` 'in8' is unknown\. Known: binary, int8, float16"):
        all_methods(minilm_head, None, ks=[8], rerank=["in8"])
    with pytest.raises(ValueError, match=r"`rerank` \('int8'\) needs refined codes"):
        CSRMethod(minilm_head, 8, "int8", plain=True)
