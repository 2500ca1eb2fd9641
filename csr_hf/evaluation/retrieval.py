"""Retrieval of pairs by every method, from embeddings that are there: what a run measures of its held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.evaluation.methods import Method
from csr_hf.evaluation.neighbors import ndcg_at, neighbor_recall, top_neighbors, unit_rows
from csr_hf.evaluation.results import Row

if TYPE_CHECKING:
    pass

NDCG = "nDCG@10"
RECALL = "dense top 10"
_TOP_K = 10


def evaluate_retrieval(
    methods: Sequence[Method], queries: np.ndarray, documents: np.ndarray, *, task: str, paired: bool = True
) -> list[Row]:
    """Measure retrieval among the documents by every method.

    Bytes are those of the stored vectors; what an index adds for speed counts for no method.

    Args:
        methods: of `all_methods`; the first is the dense model.
        queries: dense, shape (n, input_dim).
        documents: dense, shape (m, input_dim); if `paired`, document i answers query i.
        task: name of the task in the rows.
        paired: whether each query has a known answer.

    Returns:
        For each method, recall of the dense model's own top 10, and nDCG@10 against the pairs if there are any.
    """
    queries, documents = queries.astype(np.float32), documents.astype(np.float32)
    relevant = np.arange(len(queries))
    neighbors = top_neighbors(unit_rows(queries), unit_rows(documents), _TOP_K)
    dense_ndcg = ndcg_at(neighbors, relevant)

    def rows(method: Method, found: np.ndarray) -> Iterator[Row]:
        described = task, method.name, method.k, method.bytes_per_vector
        if paired:
            ndcg = ndcg_at(found, relevant)
            yield _row(NDCG, described, ndcg, ndcg / dense_ndcg if dense_ndcg else 0.0)
        recall = neighbor_recall(found, neighbors)
        yield _row(RECALL, described, recall, recall)

    return [
        row for method in methods for row in rows(method, method.index(documents).search(queries, _TOP_K).positions)
    ]


def _row(metric: str, described: tuple[str, str, int | None, int], score: float, retention: float) -> Row:
    task, method, k, size = described
    return Row(task, metric, method, k, size, score, retention)
