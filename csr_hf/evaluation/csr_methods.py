"""CSR as a method of evaluation: sparse codes in inverted lists, reranked or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import scipy.sparse

from csr_hf.codes import (
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
from csr_hf.evaluation.names import Copy
from csr_hf.evaluation.similarity import rows_for, unit_rows
from csr_hf.search.copies import copy_bytes
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

_BITS = 4
_NORM_BYTES = 4
_NAMES = {None: "CSR", "decoded": "CSR, decoded"}


class CodesMatrix(scipy.sparse.csr_matrix):
    """Sparse rows that estimators can be fitted on; `np.asarray` makes them dense, for those that need it."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.toarray().astype(dtype or self.dtype, copy=False)


class CSRMethod(Method):
    """Sparse codes of a head, stored packed with 4 bits a value.

    A search scores the largest projections of the dense query over inverted lists, and divides by the norm of the
    decoded document; `rerank` then scores the best candidates with the full dense query. Outside of a search codes
    are compared by cosine, with `rerank="decoded"` after decoding.

    Where the backbone compares by dot product, so does all of this: nothing is divided by a norm. Inverted lists add
    up products and know no distances, so a backbone that compares by those is searched by cosine; decoded vectors
    outside of a search are compared by the distance.

    Args:
        head: the CSR head.
        k: active latents of a document.
        rerank: "decoded" compares the query with decoded documents; "binary", "int8" or "float16" with a copy of their
            embeddings, which is stored too. None keeps the ranking of the inverted lists.
        query_k_factor: a query keeps this many times k, at no cost in storage.
        candidates: documents to rerank.
        plain: compare plain codes of both sides, as sentence-transformers does with the head, and store them as it
            does: unpacked. By default documents of a search are encoded with refined values, or by a `Coder` if they
            are decoded; by pursuit alone where the head is too wide for one.
        similarity: what the backbone compares its embeddings by.

    Raises:
        ValueError: if k exceeds hidden_dim, or plain codes are to be reranked.
    """

    k: int
    of_head = True

    def __init__(
        self,
        head: CSRModel,
        k: int,
        rerank: Copy | Literal["decoded"] | None = None,
        *,
        query_k_factor: int = 1,
        candidates: int = 300,
        plain: bool = False,
        similarity: Similarity = "cosine",
    ) -> None:
        if plain and rerank:
            raise ValueError(f"`rerank` ({rerank!r}) needs refined codes. Leave out `plain`.")
        self.head, self.k, self.rerank, self.plain = head, k, rerank, plain
        self.candidates = candidates
        self.by_dot = similarity == "dot"
        self.similarity = similarity if rerank == "decoded" else "dot" if self.by_dot else "cosine"
        self.query_k = min(k * query_k_factor, head.config.hidden_dim)
        self.name = _NAMES.get(rerank, f"CSR + {rerank}")
        self.retrieval_only = rerank in get_args(Copy)
        self.refine: bool | Literal["pursuit"] = "pursuit" if rerank == "decoded" else not plain
        code = encode_embeddings(head, np.zeros((1, head.config.input_dim), np.float32), k, dtype="float16")
        is_narrow = head.config.hidden_dim <= MOST_LATENTS
        self.coder = Coder(head, k=k, bits=_BITS) if rerank == "decoded" and is_narrow else None
        self.bytes_per_vector = self._count_bytes(code.nbytes)

    def vectors(self, embeddings: np.ndarray) -> np.ndarray | CodesMatrix:
        """Encode to sparse codes, or to dense rows decoded from codes; of unit norm if compared by cosine."""
        if self.rerank == "decoded":
            return rows_for(decode_codes(self.head, self.encode_documents(embeddings)), self.similarity)
        codes = self._encode(embeddings, refine=False).astype("float32")
        return CodesMatrix((codes if self.by_dot else codes.normalize()).to_scipy())

    def index(self, documents: np.ndarray) -> Searcher:
        """Encode documents into an inverted index, with the copy of their embeddings."""
        return CodeSearcher(self, documents)

    def center(self, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
        """Subtract the head's mean of a modality."""
        return subtract_modality_mean(self.head, embeddings, modality)

    def encode_documents(self, embeddings: np.ndarray) -> SparseCodes:
        """Encode documents of a search, and read back what is stored of them."""
        if self.coder is not None:
            return self.coder.encode(embeddings).unpack()
        return self._encode(embeddings, refine=self.refine)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes a score."""
        return {
            **super().settings,
            "query_k": self.query_k,
            "query": "codes" if self.plain else "projections",
            "refine": str(self.refine),
            **({} if self.plain else {"bits": _BITS}),
            "head": head_fingerprint(self.head),
            **({"candidates": self.candidates} if self.rerank else {}),
        }

    def _count_bytes(self, plain_bytes: int) -> int:
        """Count what is stored of a document; `plain_bytes` are those of an unpacked code."""
        if self.plain:
            # A search divides by the norm of the code. That of what a packed code decodes to follows from the code.
            return plain_bytes + (0 if self.by_dot else _NORM_BYTES)
        code = largest_row_bytes(self.head.config.hidden_dim, self.k, _BITS)
        if not self.retrieval_only:
            return code
        # By dot product signs need the norm of the embedding beside them.
        norm = _NORM_BYTES if self.by_dot and self.rerank == "binary" else 0
        return code + norm + copy_bytes(str(self.rerank), self.head.config.input_dim)

    def _encode(self, embeddings: np.ndarray, *, refine: bool | Literal["pursuit"]) -> SparseCodes:
        """Encode by the head; codes that are stored packed come with rounded values."""
        dtype: Literal["float16", "float32"] = "float16" if self.plain else "float32"
        codes = encode_embeddings(self.head, embeddings, self.k, refine=refine, dtype=dtype)
        return codes if self.plain else codes.pack(_BITS).unpack()


class CodeSearcher(Searcher):
    """Documents in an inverted index.

    Args:
        method: how they are encoded and compared.
        documents: dense, shape (n, input_dim).
    """

    def __init__(self, method: CSRMethod, documents: np.ndarray) -> None:
        self.method = method
        self.codes = method.encode_documents(documents)
        self.norms = None if method.plain or method.by_dot else decoded_norms(method.head, self.codes)
        copies = [method.rerank] if method.retrieval_only else []
        self.inverted = InvertedIndex.build(
            self.codes,
            decoded_norms=self.norms,
            embeddings=documents,
            copies=cast(Any, copies),
            similarity="dot" if method.by_dot else "cosine",
        )

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """Find documents by inverted lists, and rerank them.

        Without reranking, documents that share no latent with a query fill up its hits; with it, -1 does.
        """
        codes, dense = self._prepare(queries)
        if not self.method.rerank:
            found = self.inverted.search(codes, top_k)
            return _fill_up(Hits(found.positions, found.scores), len(self.codes))
        candidates = self.method.candidates
        params = SearchParams(rescore=self._kind, candidates=candidates)
        found = self.inverted.search(codes, min(top_k, candidates), params, **dense)
        return Hits(found.positions, found.scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Score chosen documents as the last step of a search does."""
        query_codes, dense = self._prepare(query[None])
        if self.method.rerank:
            return self.inverted.rescore(positions[None], self._kind, **dense)[0]
        chosen = self.codes[positions].astype("float32")
        if self.method.plain and not self.method.by_dot:
            chosen, query_codes = chosen.normalize(), query_codes.normalize()
        products = (chosen.to_scipy() @ query_codes.to_scipy().T).toarray().ravel()
        norms = np.ones_like(products) if self.norms is None else self.norms[positions]
        return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)

    @property
    def _kind(self) -> Any:
        """What reranks, by the name that the index has for it."""
        return "self" if self.method.rerank == "decoded" else self.method.rerank

    def _prepare(self, queries: np.ndarray) -> tuple[SparseCodes, dict[str, Any]]:
        """Compute what the inverted lists need of dense queries, and what reranking needs of them."""
        method = self.method
        if method.plain:
            return encode_embeddings(method.head, queries, method.query_k), {}
        rows = np.asarray(queries, np.float32) if method.by_dot else unit_rows(queries)
        projections = project_queries(method.head, rows)
        dense = {"projections": projections} if method.rerank == "decoded" else {"embeddings": rows}
        return projections.codes(method.query_k), dense


def _fill_up(hits: Hits, n_documents: int) -> Hits:
    """Append documents that share no latent with a query: they score 0 and come last, by position."""
    positions, scores = hits.positions.copy(), np.where(hits.positions < 0, 0, hits.scores)
    for row in np.flatnonzero((positions < 0).any(axis=1)):
        missing = positions[row] < 0
        is_found = np.zeros(n_documents, bool)
        is_found[positions[row][~missing]] = True
        others = np.flatnonzero(~is_found)[: missing.sum()]
        positions[row, np.flatnonzero(missing)[: len(others)]] = others
    return Hits(positions, scores)
