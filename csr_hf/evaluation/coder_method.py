"""Packed codes of a head as a method of evaluation: stored in the bytes that their file takes, read back, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.codes import subtract_modality_mean
from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import VectorMethod

if TYPE_CHECKING:
    from csr_hf.coding.head_coder import HeadCoder
    from csr_hf.modeling_csr import CSRModel


class CoderMethod(VectorMethod):
    """What a coder stores of a document, decoded and compared with the whole float query, over all documents.

    Args:
        coder: of the head.
        similarity: what the backbone compares its embeddings by.
    """

    of_head = True

    def __init__(self, coder: HeadCoder[Any], similarity: Similarity = "cosine") -> None:
        super().__init__(coder.bytes_per_vector, similarity)
        self.coder, self.name, self.k = coder, coder.name, coder.usual_k

    def store_documents(self, documents: np.ndarray) -> np.ndarray:
        """Pack embeddings as they are, which is how the head was trained, and decode them."""
        return self.store(np.asarray(documents, np.float32))

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Pack rows and decode them, to unit norm for cosine."""
        return rows_for(self.coder.read_back(rows), self.similarity)

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the head's mean of a modality."""
        return subtract_modality_mean(self.coder.head, embeddings, modality)

    @property
    def settings(self) -> dict[str, Any]:
        """Name, k, bytes, and those of the coder."""
        return {**super().settings, "bytes": self.bytes_per_vector, **self.coder.settings}


def make_coder_methods(
    head: CSRModel, train: np.ndarray | None, budgets: list[int], similarity: Similarity = "cosine"
) -> list[CoderMethod]:
    """Make the head's coders for budgets of bytes, each setting once, those without a residual first.

    Args:
        head: the CSR head.
        train: embeddings to choose their settings on, shape (n, dim); None where there are none. A head of several
            modalities does without: it wants each embedding without the mean of its own, which is not known here.
        budgets: bytes of a document, ascending.
        similarity: what the backbone compares its embeddings by.
    """
    from csr_hf.coding.fitting import fit_coders

    known = None if head.config.modalities else train
    coders = sorted(fit_coders(head, known, budgets), key=lambda coder: coder.residual is not None)
    made = [CoderMethod(coder, similarity) for coder in coders]
    return list({str(method.settings): method for method in made}.values())
