import copy

import numpy as np
import torch

from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod
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
    np.testing.assert_allclose(CSRMethod(head, 5, "decoded").vectors(rows), unit(decoded), atol=1e-5)


def test_heads_in_half_precision_are_measured_alike(head, embeddings):
    """On a GPU a head may be of another type than what compiled loops take."""
    documents, queries = embeddings[:100], embeddings[100:110]
    for how in (None, "decoded", "int8"):
        expected = CSRMethod(head, 5, how).index(documents).search(queries, 5).scores
        half = CSRMethod(copy.deepcopy(head).to(torch.bfloat16), 5, how)
        # Where two latents are nearly as good, rounding may choose the other.
        assert np.abs(half.index(documents).search(queries, 5).scores - expected).mean() < 0.02


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
        CSRMethod(head, 5, query_k_factor=2),
        CSRMethod(head, 5, plain=True),
        CSRMethod(head, 5, "decoded"),
        CSRMethod(head, 5, "decoded", candidates=50),
        CSRMethod(head, 5, "int8"),
        CSRMethod(make_head(hidden_dim=41), 5),
    ]
    assert len({str(method.settings) for method in variants}) == len(variants)
    assert [method.retrieval_only for method in variants] == [False] * 6 + [True, False]
    bits = [method.settings.get("bits") for method in variants]
    assert bits == [4, 4, 4, None, 4, 4, 4, 4]


def test_heads_too_wide_for_a_coder_are_measured_by_pursuit_alone():
    wide = make_head(hidden_dim=8200)
    rows = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    method = CSRMethod(wide, 3, "decoded")
    decoded = decode_codes(wide, encode_embeddings(wide, rows, 3, refine="pursuit").pack(4).unpack())
    np.testing.assert_allclose(method.vectors(rows), unit(decoded), atol=1e-5)
