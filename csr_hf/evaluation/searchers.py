"""Searches among stored documents: dense and exact, through inverted lists, or in two stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csr_hf.encoder import decode_codes, decoded_norms, encode_embeddings, project_queries
from csr_hf.evaluation.neighbors import top_neighbors, unit_rows
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import QueryProjections, SparseCodes


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
    """Codes in inverted lists, of documents that are compared by what they decode to or by their codes alone.

    Args:
        head: of the codes.
        codes: of the documents.
        query_k: latents that a query keeps.
        candidates: documents to rescore from all latents; None for none.
        decoded: queries are the largest projections of the dense query, scores the share that these latents have in
            its cosine with the decoded document. If not, queries are codes and scores their cosines, as
            sentence-transformers compares; there is no rescoring.
    """

    def __init__(
        self,
        head: CSRModel,
        codes: SparseCodes,
        query_k: int,
        candidates: int | None = None,
        *,
        decoded: bool = True,
    ) -> None:
        self.head, self.codes, self.query_k, self.candidates = head, codes, query_k, candidates
        self.norms = decoded_norms(head, codes) if decoded else None
        self.inverted = InvertedIndex.build(codes, decoded_norms=self.norms)

    def find(self, queries: np.ndarray, top_k: int) -> Hits:
        """Documents that share a latent with the query, by codes alone; -1 where there are fewer."""
        found = self.inverted.search(self._codes(queries), top_k)
        return Hits(found.positions, found.scores)

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """As `Searcher.search`."""
        if self.candidates is None:
            return _filled(self.find(queries, top_k), len(self.codes))
        projections = self._projections(queries)
        codes = projections.codes(self.query_k)
        depth = min(top_k, self.candidates)
        found = self.inverted.search(codes, depth, rescore="self", candidates=self.candidates, projections=projections)
        return Hits(found.positions, found.scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """As `Searcher.score`."""
        chosen = self.codes[positions]
        if self.candidates is not None:
            return unit_rows(decode_codes(self.head, chosen)) @ unit_rows(query[None])[0]
        wanted, chosen = self._codes(query[None]), chosen.astype("float32")
        if self.norms is None:
            return (chosen.normalize().to_scipy() @ wanted.normalize().to_scipy().T).toarray().ravel()
        parts, norms = (chosen.to_scipy() @ wanted.to_scipy().T).toarray().ravel(), self.norms[positions]
        return np.divide(parts, norms, out=np.zeros_like(parts), where=norms > 0)

    def _codes(self, queries: np.ndarray) -> SparseCodes:
        if self.norms is None:
            return encode_embeddings(self.head, queries, self.query_k)
        return self._projections(queries).codes(self.query_k)

    def _projections(self, queries: np.ndarray) -> QueryProjections:
        return project_queries(self.head, unit_rows(queries))


class TwoStageSearcher(Searcher):
    """Inverted lists find candidates, another search ranks them.

    Args:
        first: finds.
        second: ranks.
        candidates: how many.
    """

    def __init__(self, first: InvertedSearcher, second: Searcher, candidates: int) -> None:
        self.first, self.second, self.candidates = first, second, candidates

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """As `Searcher.search`."""
        found = self.first.find(queries, self.candidates).positions
        positions = np.full((len(queries), min(top_k, self.candidates)), -1, np.int64)
        scores = np.zeros(positions.shape, np.float32)
        for row, candidates in enumerate(found):
            candidates = np.sort(candidates[candidates >= 0])
            rated = self.second.score(queries[row], candidates)
            best = np.argsort(-rated, kind="stable")[: positions.shape[1]]
            positions[row, : len(best)], scores[row, : len(best)] = candidates[best], rated[best]
        return Hits(positions, scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """As `Searcher.score`."""
        return self.second.score(query, positions)


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
