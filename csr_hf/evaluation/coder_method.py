"""Packed codes of a head as a method of evaluation: stored in the bytes that their file takes, read back, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from csr_hf.codes import head_fingerprint, subtract_modality_mean
from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import VectorMethod

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


class Coder(Protocol):
    """What `csr_hf.coding.coder` makes for a budget of bytes."""

    name: str
    """Shown in tables."""
    k: int | None
    """Active latents of a document at most; None where that varies."""
    bytes_per_vector: int
    """Bytes of a document."""
    settings: dict[str, Any]
    """Everything else that changes what is read back."""

    def encode(self, embeddings: np.ndarray) -> Any:
        """Pack embeddings, shape (n, dim)."""

    def decode(self, packed: Any) -> np.ndarray:
        """Read packed embeddings back, float32, shape (n, dim)."""


class CoderMethod(VectorMethod):
    """What a coder stores of a document, decoded and compared with the whole float query, over all documents.

    Args:
        coder: of the head.
        head: the CSR head.
        similarity: what the backbone compares its embeddings by.
    """

    of_head = True

    def __init__(self, coder: Coder, head: CSRModel, similarity: Similarity = "cosine") -> None:
        super().__init__(coder.bytes_per_vector, similarity)
        self.coder, self.head, self.name, self.k = coder, head, coder.name, coder.k

    def store_documents(self, documents: np.ndarray) -> np.ndarray:
        """Pack embeddings as they are, which is how the head was trained, and decode them."""
        return self.store(np.asarray(documents, np.float32))

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Pack rows and decode them, to unit norm for cosine."""
        return rows_for(self.coder.decode(self.coder.encode(rows)), self.similarity)

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the head's mean of a modality."""
        return subtract_modality_mean(self.head, embeddings, modality)

    @property
    def settings(self) -> dict[str, Any]:
        """Name, k, bytes, those of the coder, and the head."""
        return {
            **super().settings,
            "bytes": self.bytes_per_vector,
            **self.coder.settings,
            "head": head_fingerprint(self.head),
        }


def make_coder_methods(
    head: CSRModel, train: np.ndarray | None, budgets: list[int], similarity: Similarity = "cosine"
) -> list[CoderMethod]:
    """Make the head's coders for budgets of bytes, each setting once.

    Args:
        head: the CSR head.
        train: embeddings to fit their tables on, shape (n, dim); None where there are none.
        budgets: bytes of a document, ascending.
        similarity: what the backbone compares its embeddings by.
    """
    from csr_hf.coding.coder import fit_coders

    made = [CoderMethod(coder, head, similarity) for coder in fit_coders(head, train, budgets)]
    return list({str(method.settings): method for method in made}.values())
