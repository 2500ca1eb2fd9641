import numpy as np
import pytest
import torch

from csr_hf.codes import encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.coding.rounding import largest_row_bytes
from csr_hf.evaluation.methods import all_methods
from csr_hf.evaluation.neighbors import ndcg_at, neighbor_recall, top_neighbors
from csr_hf.evaluation.retrieval import NDCG, RECALL, evaluate_retrieval
from tests.conftest import make_head


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((200, 12)).astype(np.float32)
    queries = documents + 0.5 * rng.standard_normal((200, 12)).astype(np.float32)
    queries, documents = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents))
    head = make_head()
    methods = all_methods(head, documents[::-1], ks=[2, 5, 99])
    rows = evaluate_retrieval(methods, queries, documents, task="t")
    return head, queries, documents, {(row.metric, row.method, row.k): row for row in rows}, rows


def test_sparse_rows_equal_a_search_written_out(measured):
    head, queries, documents, rows, _ = measured
    neighbors = top_neighbors(queries, documents)
    for k in (2, 5):
        stored = encode_embeddings(head, documents, k, refine=True).pack(4).unpack()
        codes = stored.to_scipy().toarray()
        atoms, bias = head.encoder.weight.detach().numpy(), head.pre_bias.detach().numpy()
        asked = queries @ atoms.T
        asked = np.where(asked >= np.maximum(-np.sort(-asked, axis=1)[:, [4 * k - 1]], 0), asked, 0)
        found = top_neighbors(asked, codes / np.linalg.norm(codes @ atoms + bias, axis=1, keepdims=True))
        assert rows[NDCG, "CSR", k].score == pytest.approx(ndcg_at(found, np.arange(200)).mean(), abs=1e-3)
        assert rows[RECALL, "CSR", k].score == pytest.approx(neighbor_recall(found, neighbors).mean(), abs=1e-3)
        assert rows[NDCG, "CSR", k].bytes_per_vector == largest_row_bytes(40, k, 4)


def test_decoded_rows_equal_the_cosine_with_decoded_documents(measured):
    head, queries, documents, rows, _ = measured
    for k in (2, 5):
        stored = Coder(head, k=k, bits=4).encode(documents).unpack()
        arrays = torch.from_numpy(stored.values.astype(np.float32)), torch.from_numpy(stored.indices.astype(np.int64))
        decoded = torch.nn.functional.normalize(head.decode(*arrays).detach(), dim=1).numpy()
        found = np.argsort(-(queries @ decoded.T), axis=1, kind="stable")[:, :10]
        row = rows[NDCG, "CSR, decoded", k]
        assert row.score == pytest.approx(ndcg_at(found, np.arange(200)).mean(), abs=1e-3)
        assert row.bytes_per_vector == largest_row_bytes(40, k, 4)


def test_dense_baselines_get_no_fewer_bytes_than_the_codes(measured):
    *_, rows = measured
    decoded = sorted({row.bytes_per_vector for row in rows if row.method == "CSR, decoded"})
    for method in ("truncation", "PCA"):
        sizes = sorted({row.bytes_per_vector for row in rows if row.method == method})
        assert sizes == decoded
    assert {row.bytes_per_vector for row in rows if row.method == "int8"} == {12}
    assert {row.bytes_per_vector for row in rows if row.method == "binary"} == {2}


def test_retention_is_the_share_of_the_dense_score(measured):
    *_, rows, listed = measured
    assert rows[NDCG, "dense", None].retention == 1
    for row in listed:
        assert row.retention == pytest.approx(row.score / rows[row.metric, "dense", None].score)
    assert rows[RECALL, "int8", None].score > 0.9
    # k beyond hidden_dim is left out.
    assert {row.k for row in listed} == {None, 2, 5}


def test_without_pairs_only_neighbors_are_compared(measured):
    head, queries, documents, _, _ = measured
    methods = all_methods(head, None, ks=[2], baselines=[])
    rows = evaluate_retrieval(methods, queries[:50], documents, task="t", paired=False)
    assert {row.metric for row in rows} == {RECALL}
    assert {row.method for row in rows} == {"dense", "CSR", "CSR, decoded"}
