"""CSR as a method of evaluation: sparse codes ranked by inner products, or decoded and compared as dense vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse

from csr_hf.codes import (
    choose_query_k,
    decode_codes,
    decoded_norms,
    encode_embeddings,
    head_fingerprint,
    project_queries,
    subtract_modality_mean,
)
from csr_hf.coding.coder import Coder
from csr_hf.coding.pursuit import MOST_LATENTS
from csr_hf.coding.rounding import largest_row_bytes
from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.method import Hits, Method, Searcher
from csr_hf.evaluation.neighbors import best_first
from csr_hf.evaluation.similarity import rows_for, unit_rows
from csr_hf.evaluation.vector_method import VectorMethod

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

_BITS = 4
_NORM_BYTES = 4
_SCORES_IN_MEMORY = 1 << 26


class CodesMatrix(scipy.sparse.csr_matrix):
    """Sparse rows that estimators can be fitted on; `np.asarray` makes them dense, for those that need it."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.toarray().astype(dtype or self.dtype, copy=False)


class CSRMethod(Method):
    """Sparse codes of a head, stored packed with 4 bits a value and ranked as an engine of inverted lists ranks them.

    A search adds up the products of a document's code with the largest projections of the dense query, and divides by
    the norm of the decoded document. Outside of a search codes are compared by cosine. Where the backbone compares by
    dot product, nothing is divided by a norm. Inverted lists add up products and know no distances, so a backbone that
    compares by those is searched by cosine.

    Args:
        head: the CSR head.
        k: active latents of a document.
        plain: compare plain codes of both sides, as sentence-transformers does with the head, and store them as it
            does: unpacked. By default documents of a search are encoded with refined values.
        similarity: what the backbone compares its embeddings by.

    Raises:
        ValueError: if k exceeds hidden_dim.
    """

    k: int
    name = "CSR"
    of_head = True

    def __init__(self, head: CSRModel, k: int, *, plain: bool = False, similarity: Similarity = "cosine") -> None:
        self.head, self.k, self.plain = head, k, plain
        self.by_dot = similarity == "dot"
        self.similarity = "dot" if self.by_dot else "cosine"
        self.query_k = k if plain else choose_query_k(k, head.config.hidden_dim)
        code = encode_embeddings(head, np.zeros((1, head.config.input_dim), np.float32), k, dtype="float16")
        # A search divides by the norm of a plain code. That of what a packed code decodes to follows from the code.
        plain_bytes = code.nbytes + (0 if self.by_dot else _NORM_BYTES)
        self.bytes_per_vector = plain_bytes if plain else largest_row_bytes(head.config.hidden_dim, k, _BITS)

    def vectors(self, embeddings: np.ndarray) -> CodesMatrix:
        """Encode to sparse codes, of unit norm if compared by cosine."""
        codes = self._encode(embeddings, refine=False).astype("float32")
        return CodesMatrix((codes if self.by_dot else codes.normalize()).to_scipy())

    def index(self, documents: np.ndarray) -> Searcher:
        """Encode documents, and scale their codes to what scores are made of."""
        return CodeSearcher(self, documents)

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the head's mean of a modality."""
        return subtract_modality_mean(self.head, embeddings, modality)

    def store_documents(self, embeddings: np.ndarray) -> scipy.sparse.csr_matrix:
        """Encode documents of a search, and divide the codes as they are read back by what scores are divided by."""
        codes = self._encode(embeddings, refine=not self.plain).astype("float32")
        stored = codes.to_scipy()
        if self.by_dot:
            return stored
        norms = np.sqrt(stored.multiply(stored).sum(axis=1)) if self.plain else decoded_norms(self.head, codes)
        norms = np.asarray(norms, np.float32).ravel()
        scale = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        return scipy.sparse.diags(scale) @ stored

    def read_queries(self, queries: np.ndarray) -> scipy.sparse.csr_matrix:
        """Make sparse rows of dense queries, whose products with stored documents are the scores."""
        if self.plain:
            codes = encode_embeddings(self.head, queries, self.query_k)
            return (codes if self.by_dot else codes.normalize()).to_scipy()
        rows = np.asarray(queries, np.float32) if self.by_dot else unit_rows(queries)
        return project_queries(self.head, rows).codes(self.query_k).to_scipy()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes a score."""
        return {
            **super().settings,
            "query_k": self.query_k,
            "query": "codes" if self.plain else "projections",
            "refine": str(not self.plain),
            **({} if self.plain else {"bits": _BITS}),
            "head": head_fingerprint(self.head),
        }

    def _encode(self, embeddings: np.ndarray, *, refine: bool) -> SparseCodes:
        """Encode by the head; codes that are stored packed come with rounded values."""
        dtype: Literal["float16", "float32"] = "float16" if self.plain else "float32"
        codes = encode_embeddings(self.head, embeddings, self.k, refine=refine, dtype=dtype)
        return codes if self.plain else codes.pack(_BITS).unpack()


class CodeSearcher(Searcher):
    """Codes of documents, all of them ranked exactly.

    Args:
        method: how they are encoded and compared.
        documents: dense, shape (n, input_dim).
    """

    def __init__(self, method: CSRMethod, documents: np.ndarray) -> None:
        self.method, self.stored = method, method.store_documents(documents)

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """Rank all documents; those that share no latent with a query score 0 and come last, by position."""
        n = self.stored.shape[0]
        found = Hits(*(np.empty((len(queries), min(top_k, n)), kind) for kind in (np.int64, np.float32)))
        asked, by_latent = self.method.read_queries(queries), self.stored.T.tocsr()
        block = max(1, _SCORES_IN_MEMORY // max(1, n))
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            scores = (asked[rows] @ by_latent).toarray()
            found.positions[rows] = best_first(scores, found.positions.shape[1])
            found.scores[rows] = np.take_along_axis(scores, found.positions[rows], axis=1)
        return found

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Score chosen documents as a search does."""
        return (self.stored[positions] @ self.method.read_queries(query[None]).T).toarray().ravel()


class DecodedMethod(VectorMethod):
    """Codes of k latents, packed with 4 bits a value, decoded and compared with the whole float query.

    They are made by a `Coder`, or by pursuit alone where the head is too wide for one.

    Args:
        head: the CSR head.
        k: active latents of a document.
        similarity: what the backbone compares its embeddings by.

    Raises:
        ValueError: if k exceeds hidden_dim.
    """

    k: int
    name = "CSR, decoded"
    of_head = True

    def __init__(self, head: CSRModel, k: int, similarity: Similarity = "cosine") -> None:
        super().__init__(largest_row_bytes(head.config.hidden_dim, k, _BITS), similarity)
        self.head, self.k = head, k
        self.coder = Coder(head, k=k, bits=_BITS) if head.config.hidden_dim <= MOST_LATENTS else None

    def store_documents(self, documents: np.ndarray) -> np.ndarray:
        """Pack embeddings as they are, which is how the head was trained, and decode them."""
        return self.store(np.asarray(documents, np.float32))

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Pack rows and decode them, to unit norm for cosine."""
        if self.coder is not None:
            codes = self.coder.encode(rows).unpack()
        else:
            codes = encode_embeddings(self.head, rows, self.k, refine="pursuit").pack(_BITS).unpack()
        return rows_for(decode_codes(self.head, codes), self.similarity)

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the head's mean of a modality."""
        return subtract_modality_mean(self.head, embeddings, modality)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes a score."""
        return {**super().settings, "bits": _BITS, "head": head_fingerprint(self.head)}
