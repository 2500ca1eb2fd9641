"""Exact dense search, and measures that compare a ranking with relevant documents or true neighbors."""

from __future__ import annotations

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.similarity import compare_rows

_SCORES_IN_MEMORY = 1 << 26


def top_neighbors(
    queries: np.ndarray, documents: np.ndarray, top_k: int = 10, similarity: Similarity = "dot"
) -> np.ndarray:
    """Find the most similar documents, best first; ties by position.

    Args:
        queries: shape (n_queries, dim).
        documents: shape (n_documents, dim).
        top_k: neighbors of a query.
        similarity: what compares them; for cosine both are of unit norm already.

    Returns:
        Positions, int64, shape (n_queries, min(top_k, n_documents)).
    """
    top_k = min(top_k, len(documents))
    found = np.empty((len(queries), top_k), np.int64)
    documents = np.ascontiguousarray(documents, np.float32)
    block = max(1, _SCORES_IN_MEMORY // max(1, len(documents)))
    for start in range(0, len(queries), block):
        scores = compare_rows(queries[start : start + block].astype(np.float32, copy=False), documents, similarity)
        found[start : start + block] = best_first(scores, top_k)
    return found


def best_first(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Find the columns of the largest scores, largest first, ties by column; integers, shape (n_queries, top_k).

    Args:
        scores: shape (n_queries, n_documents).
        top_k: at most n_documents.
    """
    if not top_k:
        return np.empty((len(scores), 0), np.int64)
    # Columns are sorted first, so that the stable sort by score breaks ties by column.
    best = np.sort(np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def ndcg_at(found: np.ndarray, relevant: np.ndarray, cutoff: int = 10) -> np.ndarray:
    """Compute nDCG@cutoff where each query has one relevant document: 1 / log2(rank + 1), 0 if it is not found.

    Args:
        found: positions, best first, shape (n_queries, at least cutoff, or all documents).
        relevant: position of each query's document, shape (n_queries,).
        cutoff: last rank that counts.

    Returns:
        That of each query, shape (n_queries,).
    """
    hits = found[:, :cutoff] == relevant[:, None]
    return (hits / np.log2(np.arange(2, hits.shape[1] + 2))).sum(axis=1)


def neighbor_recall(found: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Compute the share of each query's true `neighbors`, shape (n, m), among the first m of `found`, shape (n,)."""
    m = neighbors.shape[1]
    return (found[:, :m, None] == neighbors[:, None, :]).any(axis=1).mean(axis=1)
