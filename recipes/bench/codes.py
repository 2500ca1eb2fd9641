"""Codes of the documents, and the int8 copy that ranks what baselines over signs or codes find."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.codes import decoded_norms, encode_embeddings
from csr_hf.search.copies import copy_bytes
from csr_hf.search.index import InvertedIndex
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.sparse_codes import SparseCodes
from measure import Cost, cost_of

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_WARM_UP = 5000


@dataclass
class DocumentCodes:
    """Codes of the documents, what encodes queries like them, and what encoding took."""

    codes: SparseCodes
    """Values in float16."""
    norms: np.ndarray
    """Of the decoded codes, float32, shape (n,)."""
    query_encoder: QueryEncoder
    cost: Cost

    @classmethod
    def encode(
        cls, head: CSRModel, documents: np.ndarray, k: int | None, refine: Literal["values", "pursuit"]
    ) -> DocumentCodes:
        """Encode documents.

        Args:
            head: of their backbone.
            documents: shape (n, input_dim).
            k: latents of a document; default the head's.
            refine: least-squares values, or support and values by matching pursuit, as `csr-hf run` does.

        Raises:
            ValueError: for documents of another width than the head takes, or k out of range.
        """
        if documents.shape[1] != head.config.input_dim:
            raise ValueError(
                f"`--embeddings` are {documents.shape[1]} wide, the head takes `input_dim` {head.config.input_dim}. "
                "Name embeddings of the head's backbone."
            )
        found: list[Any] = []

        def encode(rows: np.ndarray) -> None:
            mode: Any = True if refine == "values" else refine
            codes = encode_embeddings(head, rows, k, refine=mode, dtype="float16")
            found[:] = [codes, decoded_norms(head, codes)]

        # Compile what is compiled at its first call, here and in the index, before anything is timed.
        encode(documents[:_WARM_UP])
        kinds: list[Any] = ["binary", "int8", "float16"]
        InvertedIndex.build(found[0], decoded_norms=found[1], embeddings=documents[:_WARM_UP], copies=kinds)
        cost = cost_of(partial(encode, documents), documents.nbytes // 2)
        codes, norms = found
        return cls(codes, norms, QueryEncoder(head.dictionary.numpy(force=True), codes.head_fingerprint), cost)


class Int8Rerank:
    """An int8 copy of the documents that ranks what something else has found, the same for all who need one."""

    def __init__(self, documents: np.ndarray, threads: int) -> None:
        # An index of one latent a document: the copy of a real one, and next to nothing of its lists.
        n, dim = documents.shape
        codes = SparseCodes(np.zeros((n, 1), np.uint16), np.ones((n, 1), np.float32), 2)
        self._index = InvertedIndex.build(codes, embeddings=documents, copies=["int8"])
        self._threads = threads
        self.bytes_per_document = copy_bytes("int8", dim)

    def best(self, queries: np.ndarray, candidates: np.ndarray, top_k: int) -> np.ndarray:
        """Rank candidates, shape (n, c), -1 for none, and return the best positions, shape (n, top_k)."""
        scores = self._index.rescore(candidates, "int8", embeddings=queries, threads=self._threads)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return np.take_along_axis(candidates, order, axis=1)
