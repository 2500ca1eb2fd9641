"""What all documents of an index share, and what queries and further documents must fit."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from csr_hf.search.queries import checked_dense, checked_projections
from csr_hf.sparse_codes import QueryProjections, SparseCodes


class Settings(NamedTuple):
    """What all documents of an index share."""

    k: int
    """Latents kept of a document."""
    dim: int
    """Length of the latents axis."""
    head: str | None
    """Fingerprint of the head that made the codes."""
    decoded: bool
    """Whether scores are of the decoded documents: divided by their norms, or for dot by nothing."""
    copies: tuple[str, ...]
    """Copies of the embeddings."""
    input_dim: int | None
    """Width of these embeddings."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """What scores approximate."""

    def check_codes(self, codes: SparseCodes) -> None:
        """Refuse codes of another head.

        Raises:
            ValueError: for what is no codes, and for codes of another dim or head.
        """
        if not isinstance(codes, SparseCodes):
            raise ValueError(
                f"`codes` is a {type(codes).__name__}, not SparseCodes. Encode first: encoder.encode_query(texts), or "
                "csr_hf.codes.encode_embeddings(head, embeddings)."
            )
        if codes.dim != self.dim:
            raise ValueError(f"`codes.dim` ({codes.dim}) is not the index's dim ({self.dim}). Encode with its head.")
        if None not in (codes.head_fingerprint, self.head) and codes.head_fingerprint != self.head:
            raise ValueError(
                f"`codes.head_fingerprint` ({codes.head_fingerprint}) is not the head the index was built with "
                f"({self.head}). "
                "Encode with that head, or build the index again."
            )

    def check_documents(self, codes: SparseCodes, decoded_norms: np.ndarray | None) -> None:
        """Refuse documents that are stored otherwise than those of the index.

        Raises:
            ValueError: for codes of another k, dim or head, norms given to an index without them or missing, or a
                similarity that an index does not have.
        """
        if self.similarity not in ("cosine", "dot"):
            raise ValueError(f'`similarity` {self.similarity!r} is none of an index. Choose "cosine" or "dot".')
        self.check_codes(codes)
        if codes.k != self.k:
            raise ValueError(f"`codes.k` ({codes.k}) is not the index's k ({self.k}). Encode or truncate to that.")
        if self.similarity == "dot" and decoded_norms is not None:
            raise ValueError('`decoded_norms` must not be given with `similarity="dot"`, which divides by no norm.')
        if self.similarity != "dot" and (decoded_norms is not None) != self.decoded:
            given = "be given" if self.decoded else "not be given"
            raise ValueError(f"`decoded_norms` must {given}, as when the index was built.")

    def dense_queries(self, embeddings: np.ndarray | None, n: int) -> np.ndarray:
        """The embeddings of n queries as kernels take them.

        Raises:
            ValueError: if they are missing, of another shape or not finite.
        """
        return checked_dense(embeddings, n, self.input_dim)

    def second_stage_queries(
        self, kind: str, n: int, projections: QueryProjections | None, embeddings: np.ndarray | None
    ) -> QueryProjections | np.ndarray:
        """What the second stage compares documents with: projections for "self", else embeddings.

        Raises:
            ValueError: if they are missing, or do not fit the index or the number of queries.
        """
        if kind == "self":
            return checked_projections(projections, n, self.dim, self.decoded, self.head)
        return self.dense_queries(embeddings, n)
