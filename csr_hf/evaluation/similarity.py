"""Similarities that embeddings are compared by, named as sentence-transformers does; larger is more alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from csr_hf.embedding.arguments import Similarity


def unit_rows(rows: Any) -> Any:
    """Scale rows to unit norm, float32, dense or sparse as they are; rows of zeros stay zeros."""
    if scipy.sparse.issparse(rows):
        norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
        return type(rows)(scipy.sparse.diags(1 / np.where(norms > 0, norms, 1)) @ rows)
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def rows_for(rows: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Return rows as a similarity reads them, float32: of unit norm for cosine, else as they are."""
    return unit_rows(rows) if similarity == "cosine" else np.asarray(rows, np.float32)


def compare_rows(queries: np.ndarray, documents: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Compute the similarities of all pairs, float32, shape (n, m).

    Args:
        queries: of `rows_for`, shape (n, dim).
        documents: of `rows_for`, shape (m, dim).
        similarity: that compares them.
    """
    if similarity == "manhattan":
        from scipy.spatial.distance import cdist

        return -cdist(queries, documents, "cityblock").astype(np.float32)
    if similarity == "euclidean":
        # A common shift changes no distance, and small squares lose fewer digits in their difference.
        mean = documents.mean(axis=0)
        queries, documents = queries - mean, documents - mean
        squares = (queries**2).sum(axis=1)[:, None] + (documents**2).sum(axis=1) - 2 * (queries @ documents.T)
        return -np.sqrt(np.maximum(squares, 0))
    return queries @ documents.T


def compare_with(query: np.ndarray, documents: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Compute the similarities of one query, shape (dim,), with documents, float32, shape (m,); see `compare_rows`."""
    if similarity == "manhattan":
        return -np.abs(documents - query).sum(axis=1)
    if similarity == "euclidean":
        return -np.linalg.norm(documents - query, axis=1)
    return documents @ query
