import numpy as np
import torch

from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod
from tests.conftest import make_head


def test_documents_that_share_no_latent_come_last(minilm_head, searched):
    documents, _ = searched
    method = CSRMethod(minilm_head, 1, plain=True)
    hits = method.index(documents).search(documents[:3], 100)
    for positions in hits.positions:
        assert sorted(positions) == list(range(100))
    assert (np.diff(hits.scores, axis=1) <= 0).all()


def test_vectors_are_the_codes_or_what_they_decode_to(head, embeddings):
    sparse = CSRMethod(head, 5).vectors(embeddings[:20])
    codes = encode_embeddings(head, embeddings[:20], 5, dtype="float16").to_scipy().toarray().astype(np.float32)
    assert isinstance(sparse, CodesMatrix)
    np.testing.assert_allclose(np.asarray(sparse), codes / np.linalg.norm(codes, axis=1, keepdims=True), atol=1e-4)
    dense = CSRMethod(head, 5, "decoded").vectors(embeddings[:20])
    decoded = decode_codes(head, encode_embeddings(head, embeddings[:20], 5, refine="pursuit", dtype="float16"))
    np.testing.assert_allclose(dense, decoded / np.linalg.norm(decoded, axis=1, keepdims=True), atol=1e-5)


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
