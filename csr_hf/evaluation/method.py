"""The interface of every way to store and compare embeddings: `Method`, and the `Searcher` that it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from csr_hf.embedding.arguments import Similarity


class Hits(NamedTuple):
    """The best documents of each query, best first."""

    positions: np.ndarray
    """Rows of the documents, int64, shape (n_queries, top_k or as many as there are)."""
    scores: np.ndarray
    """float32, the same shape."""


class Searcher(ABC):
    """Documents as a method stores them, ready to be searched."""

    @abstractmethod
    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """Find the best `top_k` documents of dense queries, shape (n, input_dim)."""

    @abstractmethod
    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Score chosen documents, shape (m,), for one dense query, shape (input_dim,)."""


class Method(ABC):
    """A way to store and compare embeddings. All methods start from the same embeddings of the backbone.

    Attributes:
        name: shown in tables.
        k: active latents of a document; None where a method has none.
        bytes_per_vector: stored for a document, everything included that a search needs of it.
        similarity: what its vectors are compared by.
        of_head: whether it stores codes of the head that is measured.
    """

    name: str
    k: int | None = None
    bytes_per_vector: int
    similarity: Similarity = "cosine"
    of_head = False

    @abstractmethod
    def vectors(self, embeddings: np.ndarray) -> Any:
        """Store embeddings, shape (n, input_dim), and read them back as rows to fit on or to compare.

        Returns:
            float32 rows, dense, or `CodesMatrix` where they are sparse.
        """

    @abstractmethod
    def index(self, documents: np.ndarray) -> Searcher:
        """Store documents, shape (n, input_dim), to search among them."""

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the mean of a modality, where the method has one; otherwise return the embeddings as they are."""
        return embeddings

    @property
    def settings(self) -> dict[str, Any]:
        """What tells its results from those of another method, or of the same one with other settings."""
        size = {"k": self.k} if self.k else {"bytes": self.bytes_per_vector}
        return {"method": self.name, **size, **name_similarity(self.similarity)}


def name_similarity(similarity: Similarity) -> dict[str, str]:
    """Name a similarity among settings; cosine, which nearly all models have, needs no name."""
    return {} if similarity == "cosine" else {"similarity": similarity}
