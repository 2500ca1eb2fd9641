"""An index of embeddings that are compared by dot product: scores as they are written out, whatever the norms."""

import json

import numpy as np
import pytest

from csr_hf.codes import decode_codes, decoded_norms, encode_embeddings, project_queries
from csr_hf.search import storage
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from tests.conftest import make_head


@pytest.fixture(scope="module")
def by_dot():
    """A head, documents of very different norms with their codes, queries, and the index of all copies."""
    head, rng = make_head(), np.random.default_rng(0)
    documents = (rng.standard_normal((600, 12)) * rng.uniform(0.2, 5, (600, 1))).astype(np.float32)
    queries = (rng.standard_normal((7, 12)) * 3).astype(np.float32)
    codes = encode_embeddings(head, documents, 5, refine=True, dtype="float16")
    index = InvertedIndex.build(codes, embeddings=documents, copies=["binary", "int8", "float16"], similarity="dot")
    return head, documents, queries, codes, index


def written_out(kind, head, documents, queries, codes):
    """Scores of all pairs by what is stored of the documents."""
    if kind == "self":
        return queries @ decode_codes(head, codes).T
    if kind == "binary":
        signs = np.where(documents > 0, 1, -1) / np.sqrt(12)
        return queries @ (signs * np.linalg.norm(documents, axis=1, keepdims=True)).T
    return queries @ documents.T


@pytest.mark.parametrize("kind", ["self", "binary", "int8", "float16"])
@pytest.mark.parametrize("stage", ["built", "loaded", "joined"])
def test_second_stages_give_dot_products(by_dot, tmp_path, kind, stage):
    head, documents, queries, codes, index = by_dot
    if stage == "loaded":
        index.save(tmp_path / "index")
        index = InvertedIndex.load(tmp_path / "index", verify=True)
    if stage == "joined":
        index = InvertedIndex.build(
            codes[:200], embeddings=documents[:200], copies=index.copies, similarity=index.similarity
        )
        index.add(codes[200:], embeddings=documents[200:])
        index.compact()
    assert index.similarity == "dot"
    projections = project_queries(head, queries)
    dense = {"projections": projections} if kind == "self" else {"embeddings": queries}
    found = index.search(projections.codes(40), 10, params=SearchParams(rescore=kind, candidates=600), **dense)
    expected = written_out(kind, head, documents, queries, codes)
    # Documents that share no latent with a query are no candidates.
    shared = queries @ head.encoder.weight.detach().numpy().T @ codes.to_scipy().toarray().T.astype(np.float32) != 0
    best = -np.sort(-np.where(shared, expected, -np.inf), axis=1)[:, :10]
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(expected, found.positions, axis=1), rtol=0.01, atol=0.3
    )
    np.testing.assert_allclose(found.scores, best, rtol=0.01, atol=0.7)


def test_lists_add_up_products_and_divide_by_nothing(by_dot):
    head, _, queries, codes, index = by_dot
    projections = project_queries(head, queries).codes(10)
    found = index.search(projections, 10)
    expected = projections.to_scipy().toarray() @ codes.astype("float32").to_scipy().toarray().T
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :10], rtol=0.01)


def test_what_contradicts_a_similarity_is_refused(by_dot, tmp_path):
    head, documents, _, codes, index = by_dot
    with pytest.raises(ValueError, match=r"`similarity` 'euclidean' is none of an index\. Choose"):
        InvertedIndex.build(codes, similarity="euclidean")
    with pytest.raises(ValueError, match=r'`decoded_norms` must not be given with `similarity="dot"`'):
        index.add(codes, np.arange(600) + 600, decoded_norms=decoded_norms(head, codes), embeddings=documents)
    wide = documents.copy()
    wide[3] *= 1e6
    with pytest.raises(ValueError, match=r"`embeddings\[3\]` holds values beyond float16\. Keep an int8 copy instead"):
        InvertedIndex.build(codes, embeddings=wide, copies=["float16"], similarity="dot")
    InvertedIndex.build(codes, embeddings=wide, copies=["float16"])


def test_an_index_without_a_similarity_in_its_manifest_compares_by_cosine(by_dot, tmp_path):
    """Those of before."""
    head, _, _, codes, _ = by_dot
    InvertedIndex.build(codes, decoded_norms=decoded_norms(head, codes)).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["similarity"], manifest["checksum"]
    path.write_text(json.dumps({**manifest, "checksum": storage._checksum(manifest)}))
    assert InvertedIndex.load(tmp_path / "index").similarity == "cosine"
