"""Methods that store a smaller vector of each document, and an exact search by float queries over what they read back.

Vectors are scaled to unit norm where they are compared by cosine. Other similarities depend on norms, so nothing is
scaled there, and what a method drops of a vector is put back when it is read.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.method import Hits, Method, Searcher, name_similarity
from csr_hf.evaluation.neighbors import top_neighbors
from csr_hf.evaluation.similarity import compare_with, rows_for


class VectorMethod(Method):
    """Dense vectors; a subclass says how they are stored.

    Args:
        bytes_per_vector: stored for a document.
        similarity: what the embeddings are compared by.
        fit: identifies the embeddings that it was fitted on, for `settings`; empty without a fit.
    """

    def __init__(self, bytes_per_vector: int, similarity: Similarity, fit: str = "") -> None:
        self.bytes_per_vector, self.similarity, self.fit = bytes_per_vector, similarity, fit

    @abstractmethod
    def store(self, rows: np.ndarray) -> np.ndarray:
        """Store rows of `rows_for` and read them back, float32, shape (n, any width)."""

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Compute float32 vectors to compare with stored ones; queries are not stored, so they are not rounded."""
        return rows

    def store_documents(self, documents: np.ndarray) -> np.ndarray:
        """Store embeddings of documents, and read them back as `query` compares them."""
        return self.store(rows_for(documents, self.similarity))

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Store embeddings, of unit norm for cosine, and read them back."""
        return self.store_documents(embeddings)

    def index(self, documents: np.ndarray) -> Searcher:
        """Store documents for an exact search."""
        return VectorSearcher(self, documents)

    @property
    def settings(self) -> dict[str, Any]:
        """Name, bytes, and what it was fitted on."""
        return {**super().settings, **({"fit": self.fit} if self.fit else {})}


class VectorSearcher(Searcher):
    """Exact search by the similarity of a method.

    Args:
        method: stores the documents and prepares the queries.
        documents: dense, shape (n, input_dim).
    """

    def __init__(self, method: VectorMethod, documents: np.ndarray) -> None:
        self.method, self.stored = method, method.store_documents(documents)

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """Compare every query with every document."""
        queries, similarity = self._read(queries), self.method.similarity
        positions = top_neighbors(queries, self.stored, top_k, similarity)
        scores = np.empty(positions.shape, np.float32)
        for row, found in enumerate(positions):
            scores[row] = compare_with(queries[row], self.stored[found], similarity)
        return Hits(positions, scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Compute similarities with chosen documents."""
        return compare_with(self._read(query[None])[0], self.stored[positions], self.method.similarity)

    def _read(self, queries: np.ndarray) -> np.ndarray:
        return self.method.query(rows_for(queries, self.method.similarity))


class DenseMethod(VectorMethod):
    """The backbone's float32 embeddings, compared as the backbone says.

    Args:
        dim: width of the embeddings.
        similarity: the backbone's.
    """

    name = "dense"

    def __init__(self, dim: int, similarity: Similarity = "cosine") -> None:
        super().__init__(4 * dim, similarity)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Keep all of them."""
        return rows

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the embeddings themselves, whatever their norms."""
        return embeddings

    @property
    def settings(self) -> dict[str, Any]:
        """None but the similarity: this is the model itself."""
        return name_similarity(self.similarity)
