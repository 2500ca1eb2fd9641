import copy

import numpy as np
import pytest
import torch

from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod, DecodedMethod
from tests.conftest import make_head
from tests.evaluation.conftest import unit


def test_documents_that_share_no_latent_come_last(minilm_head, searched):
    documents, _ = searched
    method = CSRMethod(minilm_head, 1, plain=True)
    hits = method.index(documents).search(documents[:3], 100)
    for positions in hits.positions:
        assert sorted(positions) == list(range(100))
    assert (np.diff(hits.scores, axis=1) <= 0).all()


def test_vectors_are_the_codes_or_what_they_decode_to_rounded_as_they_are_stored(head, embeddings):
    rows = embeddings[:20]
    codes = encode_embeddings(head, rows, 5)
    sparse, plain = CSRMethod(head, 5).vectors(rows), CSRMethod(head, 5, plain=True).vectors(rows)
    assert isinstance(sparse, CodesMatrix)
    np.testing.assert_allclose(np.asarray(sparse), unit(codes.pack(4).unpack().to_scipy().toarray()), atol=1e-6)
    np.testing.assert_allclose(np.asarray(plain), unit(codes.to_scipy().toarray()), atol=1e-3)
    assert abs(np.asarray(sparse) - np.asarray(plain)).max() > 0.01
    decoded = decode_codes(head, Coder(head, k=5, bits=4).encode(rows).unpack())
    np.testing.assert_allclose(DecodedMethod(head, 5).vectors(rows), unit(decoded), atol=1e-5)


def test_heads_in_half_precision_are_measured_alike(head, embeddings):
    """On a GPU a head may be of another type than what compiled loops take."""
    documents, queries = embeddings[:100], embeddings[100:110]
    for make in (CSRMethod, DecodedMethod):
        expected = make(head, 5).index(documents).search(queries, 5).scores
        half = make(copy.deepcopy(head).to(torch.bfloat16), 5)
        # Where two latents are nearly as good, rounding may choose the other.
        assert np.abs(half.index(documents).search(queries, 5).scores - expected).mean() < 0.02


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 4, 12, 40])
def test_rankings_of_all_documents_are_those_of_the_formulas_written_out(head, embeddings, k, similarity):
    """One query and one document at a time, with nothing but the weights of the head and the stored codes."""
    atoms, bias = (part.detach().numpy().astype(np.float64) for part in (head.encoder.weight, head.pre_bias))
    documents, queries = 3 * embeddings[:40].astype(np.float64), embeddings[40:50].astype(np.float64)
    codes = encode_embeddings(head, documents, k, refine=True).pack(4).unpack().to_scipy().toarray()
    decoded = decode_codes(head, Coder(head, k=k, bits=4).encode(documents).unpack())
    by_cosine = similarity == "cosine"
    expected = {CSRMethod: np.zeros((10, 40)), DecodedMethod: np.zeros((10, 40))}
    for row, query in enumerate(queries):
        asked = query / np.linalg.norm(query) if by_cosine else query
        projections = atoms @ asked
        largest = [latent for latent in np.argsort(-projections)[: 4 * k] if projections[latent] > 0]
        for at in range(40):
            norm = np.linalg.norm(codes[at] @ atoms + bias) if by_cosine else 1
            expected[CSRMethod][row, at] = sum(projections[latent] * codes[at, latent] for latent in largest) / norm
            norm = np.linalg.norm(decoded[at]) if by_cosine else 1
            expected[DecodedMethod][row, at] = asked @ decoded[at] / norm
    for kind, scores in expected.items():
        searcher = kind(head, k, similarity=similarity).index(documents.astype(np.float32))
        found = searcher.search(queries.astype(np.float32), 100)
        assert all(sorted(positions) == list(range(40)) for positions in found.positions)
        np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1), atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(scores, found.positions, axis=1), found.scores, atol=1e-5)
        chosen = np.array([7, 3, 39])
        np.testing.assert_allclose(searcher.score(queries[0].astype(np.float32), chosen), scores[0, chosen], atol=1e-5)


def test_documents_that_nothing_is_stored_of_score_zero(head):
    """Their norm is zero, which nothing can be divided by."""
    bias = head.pre_bias.detach().numpy()
    documents = np.stack([bias, bias + 1]).astype(np.float32)
    for method in (CSRMethod(head, 5), CSRMethod(head, 5, plain=True)):
        scores = method.index(documents).search(documents, 2).scores
        assert np.isfinite(scores).all()


def test_centering_subtracts_the_mean_of_the_modality(embeddings):
    head = make_head(modalities=["image", "text"])
    head.modality_bias[1] = torch.full((12,), 0.5)
    method = CSRMethod(head, 5)
    np.testing.assert_allclose(method.center(embeddings, "text"), embeddings - 0.5, atol=1e-6)
    np.testing.assert_allclose(method.center(embeddings, "image"), embeddings, atol=1e-6)


def test_settings_name_everything_that_changes_a_score(head):
    variants = [
        CSRMethod(head, 5),
        CSRMethod(head, 4),
        CSRMethod(head, 5, plain=True),
        CSRMethod(head, 5, similarity="dot"),
        DecodedMethod(head, 5),
        DecodedMethod(head, 4),
        DecodedMethod(head, 5, "euclidean"),
        CSRMethod(make_head(hidden_dim=41), 5),
        DecodedMethod(make_head(hidden_dim=41), 5),
    ]
    assert len({str(method.settings) for method in variants}) == len(variants)
    bits = [method.settings.get("bits") for method in variants]
    assert bits == [4, 4, None, 4, 4, 4, 4, 4, 4]


def test_heads_too_wide_for_a_coder_are_measured_by_pursuit_alone():
    wide = make_head(hidden_dim=8200)
    rows = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    method = DecodedMethod(wide, 3)
    decoded = decode_codes(wide, encode_embeddings(wide, rows, 3, refine="pursuit").pack(4).unpack())
    np.testing.assert_allclose(method.vectors(rows), unit(decoded), atol=1e-5)
