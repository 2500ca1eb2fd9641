"""Searches among stored documents: dense and exact, through inverted lists, or in two stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from csr_hf.codes import decoded_norms, encode_embeddings, project_queries
from csr_hf.evaluation.neighbors import top_neighbors, unit_rows
from csr_hf.search.copies import COPIES
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

Rescorer = Literal["self", "binary", "int8", "float16"]
"""Second stages of a search."""


class Hits(NamedTuple):
    """The best documents of each query, best first; positions of -1 are none."""

    positions: np.ndarray
    scores: np.ndarray


class Searcher(ABC):
    """Documents, stored as the method stores them."""

    @abstractmethod
    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """The best `top_k` documents of dense queries, shape (n, input_dim)."""

    @abstractmethod
    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Scores of chosen documents for one dense query, shape (input_dim,)."""


class DenseSearcher(Searcher):
    """All inner products.

    Args:
        documents: what is compared, shape (n, dim).
        prepare: makes comparable vectors of dense queries.
    """

    def __init__(self, documents: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray]) -> None:
        self.documents, self.prepare = documents, prepare

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """As `Searcher.search`."""
        queries = self.prepare(queries)
        positions = top_neighbors(queries, self.documents, top_k)
        scores = np.empty(positions.shape, np.float32)
        for row, found in enumerate(positions):
            scores[row] = self.documents[found] @ queries[row]
        return Hits(positions, scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """As `Searcher.score`."""
        return self.documents[positions] @ self.prepare(query[None])[0]


class InvertedSearcher(Searcher):
    """Codes in inverted lists; documents are compared by what they decode to, by a copy, or by codes alone.

    Args:
        head: of the codes.
        documents: dense, shape (n, input_dim).
        k: active latents of a document.
        query_k: latents that a query keeps.
        refine: how documents are encoded. With it, queries are the largest projections of the dense query, and scores
            the part that these latents have in its cosine with the decoded document. False compares plain codes by
            cosine, as sentence-transformers does.
        rescore: second stage of `InvertedIndex.search`, for a refined document.
        candidates: documents that the first stage hands to it.
    """

    def __init__(
        self,
        head: CSRModel,
        documents: np.ndarray,
        k: int,
        query_k: int,
        *,
        refine: bool | Literal["pursuit"],
        rescore: Rescorer | None = None,
        candidates: int = 0,
    ) -> None:
        self.head, self.query_k, self.refine = head, query_k, refine
        self.rescore, self.candidates = rescore, candidates
        self.codes = encode_embeddings(head, documents, k, refine=refine, dtype="float16")
        self.norms = decoded_norms(head, self.codes) if refine else None
        copies = [rescore] if rescore in COPIES else []
        self.inverted = InvertedIndex.build(
            self.codes, decoded_norms=self.norms, embeddings=documents, copies=cast(Any, copies)
        )

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """As `Searcher.search`."""
        if self.rescore is None:
            found = self.inverted.search(self._asked(queries), top_k)
            return _filled(Hits(found.positions, found.scores), len(self.codes))
        found = self.inverted.search(
            self._asked(queries),
            min(top_k, self.candidates),
            rescore=self.rescore,
            candidates=self.candidates,
            **self._dense(queries),
        )
        return Hits(found.positions, found.scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """As `Searcher.score`."""
        if self.rescore is not None:
            return self.inverted.rescore(positions[None], self.rescore, **self._dense(query[None]))[0]
        asked, chosen = self._asked(query[None]), self.codes[positions].astype("float32")
        if self.norms is None:
            return (chosen.normalize().to_scipy() @ asked.normalize().to_scipy().T).toarray().ravel()
        parts, norms = (chosen.to_scipy() @ asked.to_scipy().T).toarray().ravel(), self.norms[positions]
        return np.divide(parts, norms, out=np.zeros_like(parts), where=norms > 0)

    def _asked(self, queries: np.ndarray) -> SparseCodes:
        if not self.refine:
            return encode_embeddings(self.head, queries, self.query_k)
        return project_queries(self.head, unit_rows(queries)).codes(self.query_k)

    def _dense(self, queries: np.ndarray) -> dict[str, Any]:
        """What the second stage needs of dense queries."""
        units = unit_rows(queries)
        return {"projections": project_queries(self.head, units)} if self.rescore == "self" else {"embeddings": units}


def _filled(hits: Hits, n_documents: int) -> Hits:
    """Documents that share no latent with a query score 0 and come last, by position."""
    positions, scores = hits.positions.copy(), np.where(hits.positions < 0, 0, hits.scores)
    for row in np.flatnonzero((positions < 0).any(axis=1)):
        missing = positions[row] < 0
        found = np.zeros(n_documents, bool)
        found[positions[row][~missing]] = True
        others = np.flatnonzero(~found)[: missing.sum()]
        positions[row, np.flatnonzero(missing)[: len(others)]] = others
    return Hits(positions, scores)
