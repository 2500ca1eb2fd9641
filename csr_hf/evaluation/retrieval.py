"""Retrieval within one space: do queries find their answers, and the neighbors that the dense model finds?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.neighbors import ndcg_at, neighbor_recall, top_neighbors
from csr_hf.evaluation.results import Row
from csr_hf.evaluation.similarity import rows_for

NDCG = "nDCG@10"
RECALL = "dense top 10"
_TOP_K = 10


def evaluate_retrieval(
    methods: Sequence[Method], queries: np.ndarray, documents: np.ndarray, *, task: str, paired: bool = True
) -> list[Row]:
    """Measure retrieval among the documents by every method.

    Bytes are those of the stored vectors; what an index adds for speed counts for no method.

    Args:
        methods: of `all_methods`; the first is the dense model, whose similarity says which neighbors are true.
        queries: dense, shape (n, input_dim).
        documents: dense, shape (m, input_dim); if `paired`, document i answers query i.
        task: name of the task in the rows.
        paired: whether each query has a known answer.

    Returns:
        For each method, nDCG@10 against the pairs if there are any, and recall of the dense model's top 10.
    """
    queries, documents = queries.astype(np.float32), documents.astype(np.float32)
    relevant, similarity = np.arange(len(queries)), methods[0].similarity
    neighbors = top_neighbors(rows_for(queries, similarity), rows_for(documents, similarity), _TOP_K, similarity)

    def measure(method: Method) -> dict[str, np.ndarray]:
        found = method.index(documents).search(queries, _TOP_K).positions
        ndcg = {NDCG: ndcg_at(found, relevant)} if paired else {}
        return {**ndcg, RECALL: neighbor_recall(found, neighbors)}

    return compare_methods(task, methods, measure, n_documents=len(documents))
