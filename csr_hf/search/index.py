"""The embedded search engine: inverted lists over sparse codes, exact, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from csr_hf.search import kernels, storage
from csr_hf.search.documents import build_lists, check_loaded, checked_ids, checked_norms, scales, storable
from csr_hf.search.queries import PreparedQueries, checked_projections, prepare_queries
from csr_hf.sparse_codes import QueryProjections, SparseCodes
from csr_hf.threads import available_threads, run

BLOCK_SIZE = 32_768
"""Documents in a block by default: its accumulators (two bytes each) stay in the cache next to the core."""
RESCORERS = ("self",)
"""Second stages that `InvertedIndex.search(rescore=...)` knows."""


class SearchResult(NamedTuple):
    """What a search found, best first; a query with fewer hits ends in id -1 or "", score -inf, position -1."""

    ids: np.ndarray
    """int64 or str, shape (n_queries, top_k)."""
    scores: np.ndarray
    """float32, shape (n_queries, top_k), descending; equal scores in order of position."""
    positions: np.ndarray
    """int64, shape (n_queries, top_k): row of the document in the codes the index was built from."""


class InvertedIndex:
    """Documents by latent; made by `InvertedIndex.build` or `InvertedIndex.load`.

    Ranking is exact over the stored codes, float16: the score of a document is the cosine of the query's code and its
    own, `sum_j q_j z_dj / (||q|| ||z_d||)`, added up in float32. Where the index knows the norms of the decoded
    documents, it is `sum_j q_j z_dj / ||decode(z_d)||`: with the projections of the dense query for q (see
    `QueryProjections.codes`), the part of the dense query's cosine with the decoded document that these latents make.
    No document is skipped that would rank among the best, and one that shares no latent with the query is no hit.

    An index is immutable and may be searched from several threads at once.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], dim: int, block_size: int, head: str | None, longest: float | None
    ) -> None:
        for array in arrays.values():
            array.flags.writeable = False
        # numba compiles anew for a subclass of ndarray, so memory maps are seen as plain arrays over the same pages.
        self._arrays = {name: array.view(np.ndarray) for name, array in arrays.items()}
        self._dim = dim
        self._block_size = block_size
        self._head = head
        self._longest = longest

    @classmethod
    def build(
        cls,
        codes: SparseCodes,
        ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        *,
        decoded_norms: np.ndarray | None = None,
        block_size: int | None = None,
    ) -> InvertedIndex:
        """Index the codes of documents.

        Args:
            codes: of the documents, not normalised; values are stored as float16.
            ids: unique integers or strings, one a document; default 0 to n - 1.
            decoded_norms: ||decode(z)|| of every document, float32, shape (n,): what scores are divided by, and what
                `rescore="self"` needs; see `csr_hf.encoder.decoded_norms`. Compute them from the same codes, best with
                float16 values.
            block_size: documents of a block, 1 to 65,536; default 32,768.

        Raises:
            ValueError: for ids or norms of a wrong length or type, ids that repeat, values that float16 cannot hold,
                latents out of range, or a document that names a latent twice.
        """
        block_size = BLOCK_SIZE if block_size is None else block_size
        if not 1 <= block_size <= kernels.ACCUMULATORS:
            raise ValueError(f"`block_size` ({block_size}) must be between 1 and {kernels.ACCUMULATORS}.")
        if len(codes) > np.iinfo(np.int32).max:
            raise ValueError(f"`codes` holds {len(codes)} documents, an index at most 2,147,483,647. Build several.")
        indices, values = storable(codes)
        norms = None if decoded_norms is None else checked_norms(decoded_norms, len(codes))
        scale, longest = scales(values, norms)
        starts, documents, weights = build_lists(indices, values, scale, codes.dim, block_size)
        arrays = {
            "indices": indices,
            "values": values,
            "scale": scale,
            "starts": starts,
            "documents": documents,
            "weights": weights,
        }
        if ids is not None:
            arrays["ids"] = checked_ids(ids, len(codes))
        return cls(arrays, codes.dim, block_size, codes.head, None if norms is None else longest)

    def search(
        self,
        codes: SparseCodes,
        top_k: int = 10,
        *,
        query_k: int | None = None,
        rescore: Literal["self"] | None = None,
        candidates: int = 100,
        projections: QueryProjections | None = None,
        threads: int | None = None,
    ) -> SearchResult:
        """Find the best documents for every query.

        Args:
            codes: of the queries, by the head that made the documents' codes; they may keep more latents.
            top_k: hits of a query.
            query_k: latents of a query to use; default all of `codes`.
            rescore: None ranks by codes alone. "self" takes the best `candidates` of that ranking and scores
                them by <x_q, decode(z_d)> / ||decode(z_d)||: cosines if the embeddings x_q are of unit norm.
            candidates: documents to rescore, at least `top_k`; unused without `rescore`.
            projections: of the dense queries, for `rescore="self"`; see `csr_hf.encoder.project_queries`.
            threads: default as many as there are cores. 1 stays on the calling thread.

        Raises:
            ValueError: for codes of another head or dim, an unknown `rescore`, a second stage without what it needs,
                or numbers out of range.
        """
        depth = self._checked_depth(codes, top_k, rescore, candidates)
        threads = _checked_threads(threads)
        if rescore == "self":
            projections = checked_projections(projections, len(codes), self._dim, self._longest is not None)
        queries = prepare_queries(codes, query_k)
        keys = self._first_stage(queries, depth, threads)
        if rescore == "self" and projections is not None:
            keys = self._rescore_self(keys, top_k, projections, threads)
        scores, positions = kernels.split_keys(keys)
        if self._longest is not None:
            scores *= np.float32(self._longest)
            if rescore is None:
                scores *= queries.norms[:, None]
        return SearchResult(self._ids_of(positions), scores, positions)

    def _checked_depth(self, codes: SparseCodes, top_k: int, rescore: str | None, candidates: int) -> int:
        """Validate a search; returns how many documents the first stage has to find."""
        if codes.dim != self._dim:
            raise ValueError(f"`codes.dim` ({codes.dim}) is not the index's dim ({self._dim}). Encode with its head.")
        if None not in (codes.head, self._head) and codes.head != self._head:
            raise ValueError(
                f"`codes.head` ({codes.head}) is not the head the index was built with ({self._head}). "
                "Encode the queries with that head, or build the index again."
            )
        if top_k < 1:
            raise ValueError(f"`top_k` ({top_k}) must be at least 1.")
        if rescore is None:
            return top_k
        if rescore not in RESCORERS:
            raise ValueError(f"`rescore` ({rescore!r}) is unknown. Choose one of {RESCORERS} or None.")
        if candidates < top_k:
            raise ValueError(f"`candidates` ({candidates}) must be at least `top_k` ({top_k}). Raise `candidates`.")
        return candidates

    def _first_stage(self, queries: PreparedQueries, depth: int, threads: int) -> np.ndarray:
        """Keys of the best `depth` documents by codes alone, shape (n_queries, depth), best first."""
        n_queries, found = len(queries.units), min(depth, len(self))
        best = np.zeros((n_queries, depth), np.uint64)
        if not n_queries or not found:
            return best
        blocks = len(self._arrays["starts"])
        # Few queries cannot occupy the threads, so each is cut into parts of the blocks.
        parts = min(threads, blocks) if n_queries < 2 * threads else 1
        group = min(kernels.GROUP, -(-n_queries * parts // threads))
        keys = np.zeros((parts, n_queries, found), np.uint64)
        lists = (self._arrays["starts"], self._arrays["documents"], self._arrays["weights"])
        stored = (*self._codes(), self._arrays["scale"])

        def search(first: int, part: int) -> None:
            rows = slice(first, first + group)
            chosen = tuple(array[rows] for array in queries[:5])
            ends = part * blocks // parts, (part + 1) * blocks // parts
            kernels.search_blocks(lists, stored, chosen, self._block_size, *ends, keys[part, rows])

        run(search, [(first, part) for first in range(0, n_queries, group) for part in range(parts)], threads)
        merged = keys[0]
        if parts > 1:
            merged = np.sort(keys.transpose(1, 0, 2).reshape(n_queries, -1), axis=1)[:, ::-1][:, :found]
        best[:, :found] = merged
        return best

    def _rescore_self(self, keys: np.ndarray, top_k: int, projections: QueryProjections, threads: int) -> np.ndarray:
        """Keys of the best `top_k` of the candidates, shape (n_queries, top_k), by the dense query's cosine."""
        latents = _frozen(projections.latents, np.float32)
        offsets = _frozen(projections.offset, np.float32)
        positions = _frozen(kernels.split_keys(keys)[1], np.int64)
        best = np.zeros((len(keys), top_k), np.uint64)
        stored = (*self._codes(), self._arrays["scale"])

        def rescore(first: int) -> None:
            rows = slice(first, first + kernels.GROUP)
            kernels.rescore_self(stored, latents[rows], offsets[rows], positions[rows], best[rows])

        run(rescore, [(first,) for first in range(0, len(keys), kernels.GROUP)], threads)
        return best

    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        return self._arrays["indices"], self._arrays["values"]

    def _ids_of(self, positions: np.ndarray) -> np.ndarray:
        ids = self._arrays.get("ids")
        if ids is None:
            return positions.copy()
        missing = positions < 0
        if not len(ids):
            return np.full(positions.shape, "" if ids.dtype.kind == "U" else -1, ids.dtype)
        found = ids[np.where(missing, 0, positions)]
        found[missing] = "" if ids.dtype.kind == "U" else -1
        return found

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, whole or not at all; an index already there is replaced.

        Raises:
            ValueError: if the path holds something that is not an index; it is left alone.
            OSError: if writing fails; nothing is left behind and an index already there stays.
        """
        settings = {"dim": self._dim, "block_size": self._block_size, "head": self._head, "longest": self._longest}
        storage.save_folder(folder, self._arrays, settings)

    @classmethod
    def load(cls, folder: str | Path, mmap: bool = True) -> InvertedIndex:
        """Open what `save` wrote.

        Args:
            folder: the index.
            mmap: map the files into memory (pages are read when touched) instead of reading and verifying them. A map
                is trusted: only sizes and the manifest are checked.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is not an index, of another version, incomplete or damaged.
        """
        arrays, settings = storage.load_folder(folder, mmap=mmap)
        if not mmap:
            check_loaded(arrays, settings["dim"], settings["block_size"], folder)
        return cls(arrays, settings["dim"], settings["block_size"], settings["head"], settings["longest"])

    def __len__(self) -> int:
        return len(self._arrays["scale"])

    def __repr__(self) -> str:
        return (
            f"InvertedIndex(n={len(self)}, k={self.k}, dim={self.dim}, {self.bytes_per_vector:.0f} bytes a document, "
            f"{self.postings_per_query:.2f} postings a query and document)"
        )

    @property
    def codes(self) -> SparseCodes:
        """The stored codes of the documents, in order of position, not normalised."""
        indices, values = self._codes()
        return SparseCodes(indices, values.view(np.float16), self._dim, self._head, check=False)

    @property
    def k(self) -> int:
        """Latents kept of a document."""
        return self._arrays["indices"].shape[1]

    @property
    def dim(self) -> int:
        """Length of the latents axis (the head's `hidden_dim`)."""
        return self._dim

    @property
    def head(self) -> str | None:
        """Fingerprint of the head that made the codes; None when unknown."""
        return self._head

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, ids included."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def bytes_per_vector(self) -> float:
        """Bytes stored for a document: code, norms and postings, with its share of the list table, without its id."""
        ids = self._arrays["ids"].nbytes if "ids" in self._arrays else 0
        return (self.nbytes - ids) / max(len(self), 1)

    @property
    def postings_per_query(self) -> float:
        """Postings that a query drawn like the documents touches, for every document: sum over latents of share².

        A search costs about this much; latents used evenly give k² / dim, a few popular ones much more.
        """
        starts = self._arrays["starts"]
        share = np.diff(starts, axis=1).sum(axis=0) / max(len(self), 1)
        return float(share @ share)


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return available_threads()
    if threads < 1:
        raise ValueError(f"`threads` ({threads}) must be at least 1.")
    return threads


def _frozen(array: np.ndarray, dtype: type) -> np.ndarray:
    """A read-only contiguous view, so that kernels see one type of array whoever made it."""
    view: np.ndarray = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
