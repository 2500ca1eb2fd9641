"""One embedding pass, every k, every baseline: retrieval of pairs at equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from csr_hf.encoder import decoded_norms, encode_embeddings, project_queries
from csr_hf.evaluation.baselines import PCA, Baseline, Binary, Int8, Truncation
from csr_hf.evaluation.neighbors import ndcg_at, neighbor_recall, top_neighbors
from csr_hf.evaluation.results import Row
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

NDCG = "nDCG@10"
RECALL = "dense top 10"
_TOP_K = 10
_NORM_BYTES = 4


def evaluate_retrieval(
    head: CSRModel,
    queries: np.ndarray,
    documents: np.ndarray,
    train: np.ndarray,
    *,
    task: str,
    ks: Sequence[int] = (8, 16, 32, 64),
    query_k_factor: int = 2,
    candidates: int = 100,
    baselines: bool = True,
    paired: bool = True,
) -> list[Row]:
    """Measure retrieval among the documents, sparse and dense, at equal bytes.

    Rows named "CSR" compare sparse with sparse, documents with least-squares values; "CSR, self-rescored" lets the
    dense query rescore the best `candidates` against the decoded documents (`rescore="self"`), which are encoded by
    matching pursuit. Truncation and PCA keep 2k + 2 dimensions in float16, no fewer bytes than the CSR rows of the
    same k. Bytes are those of the stored vectors; what an index adds for speed counts for no method.

    Args:
        head: the CSR head.
        queries: dense, shape (n, input_dim).
        documents: dense, shape (m, input_dim); if `paired`, document i answers query i.
        train: dense embeddings to fit PCA and int8 on, shape (any, input_dim); not those that are measured.
        task: name of the task in the rows.
        ks: active latents of the documents.
        query_k_factor: the query keeps this many times k.
        candidates: of the first stage.
        baselines: also measure truncation, PCA, int8 and binary.
        paired: whether each query has a known answer.

    Returns:
        For each method and k, recall of the dense model's own top 10, and nDCG@10 against the pairs if there are any.
    """
    queries, documents = queries.astype(np.float32), documents.astype(np.float32)
    relevant = np.arange(len(queries))
    neighbors = top_neighbors(queries, documents, _TOP_K)
    dense_ndcg = ndcg_at(neighbors, relevant)

    def rows(method: str, k: int | None, size: int, found: np.ndarray) -> Iterator[Row]:
        if paired:
            ndcg = ndcg_at(found, relevant)
            yield Row(task, NDCG, method, k, size, ndcg, ndcg / dense_ndcg if dense_ndcg else 0.0)
        recall = neighbor_recall(found, neighbors)
        yield Row(task, RECALL, method, k, size, recall, recall)

    measured = list(rows("dense", None, 4 * head.config.input_dim, neighbors))
    ks = [k for k in ks if k <= head.config.hidden_dim]
    for k in ks:
        index = index_documents(head, documents, k, refine=True)
        size = index.codes.nbytes // len(documents)
        found = search_dense(head, index, queries, k * query_k_factor)
        measured += rows("CSR", k, size, found)
        index = index_documents(head, documents, k)
        found = search_dense(head, index, queries, k * query_k_factor, candidates)
        measured += rows("CSR, self-rescored", k, size + _NORM_BYTES, found)
    for baseline in _baselines(train, ks, documents.shape[1]) if baselines else ():
        found = top_neighbors(baseline.queries(queries), baseline.documents(documents), _TOP_K)
        measured += rows(baseline.name, None, baseline.bytes_per_vector, found)
    return measured


def index_documents(
    head: CSRModel, documents: np.ndarray, k: int, *, refine: bool | Literal["pursuit"] = "pursuit"
) -> InvertedIndex:
    """An index over dense documents, ready for both stages."""
    codes = encode_embeddings(head, documents, k, refine=refine, dtype="float16")
    return InvertedIndex.build(codes, decoded_norms=decoded_norms(head, codes))


def search_dense(
    head: CSRModel, index: InvertedIndex, queries: np.ndarray, query_k: int, candidates: int | None = None
) -> np.ndarray:
    """Positions of the best ten documents; self-rescored if `candidates` are given."""
    codes = encode_embeddings(head, queries, min(query_k, head.config.hidden_dim))
    if candidates is None:
        return index.search(codes, _TOP_K).positions
    projections = project_queries(head, queries)
    return index.search(codes, _TOP_K, rescore="self", candidates=candidates, projections=projections).positions


def _baselines(train: np.ndarray, ks: Sequence[int], dim: int) -> Iterator[Baseline]:
    dims = [min(dim, 2 * k + _NORM_BYTES // 2) for k in ks]
    yield from (Truncation(kept) for kept in dims)
    yield from (PCA(train, kept) for kept in dims)
    yield Int8(train)
    yield Binary(dim)
