"""The embedded search engine: inverted lists over sparse codes, exact, in memory or memory-mapped, in segments."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from csr_hf.search import storage
from csr_hf.search.finding import Asked
from csr_hf.search.ids import Ids
from csr_hf.search.params import SearchParams, check_rescore, count_threads
from csr_hf.search.parts import (
    Part,
    SearchResult,
    deleted,
    first_stage,
    ids_at,
    made_room,
    masks_of,
    next_id,
    opened,
    rescored,
    starts_of,
    to_store,
    two_stages,
)
from csr_hf.search.queries import checked_positions, prepare_queries
from csr_hf.search.segment import Segment
from csr_hf.search.settings import Settings
from csr_hf.sparse_codes import QueryProjections, SparseCodes


class InvertedIndex:
    """Documents by latent; made by `InvertedIndex.build` or `InvertedIndex.load`.

    Ranking is exact over the stored codes, whose values are multiples of 1/255 of a document's largest. The score of a
    document is the cosine of the query's code and its own, `sum_j q_j z_dj / (||q|| ||z_d||)`. Where the index knows
    the norms of the decoded documents, it is `sum_j q_j z_dj / ||decode(z_d)||`: with the projections of the dense
    query for q (see `QueryProjections.codes`), the part of its cosine with the decoded document that these latents
    make. With `similarity="dot"` it is divided by nothing. Who shares no latent with the query is no hit. Similar
    documents lie in blocks together; `nprobe` gives up exactness for speed and visits the most promising blocks alone.

    Any number of threads may search while another adds, deletes or compacts: a search sees the index as it was when it
    began.
    """

    def __init__(self, parts: Sequence[Part], settings: Settings) -> None:
        self._parts, self._settings = tuple(parts), settings
        self._writing = threading.RLock()

    @classmethod
    def build(
        cls,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray | None = None,
        *,
        decoded_norms: np.ndarray | None = None,
        embeddings: np.ndarray | None = None,
        copies: Sequence[Literal["binary", "int8", "float16"]] = (),
        similarity: Literal["cosine", "dot"] = "cosine",
    ) -> InvertedIndex:
        """Index the codes of documents.

        Args:
            codes: of the documents, not normalised; values are stored in eight bits.
            ids: unique integers, strings or other hashable objects, one a document; default 0 to n - 1.
            decoded_norms: ||decode(z)|| of every document, float32, shape (n,): what scores are divided by, and what
                `rescore="self"` needs; see `csr_hf.codes.decoded_norms`.
            embeddings: of the documents, for `copies`; shape (n, input_dim), may be memory-mapped.
            copies: of the embeddings, to keep for the second stage: "int8" (input_dim + 4 bytes a document), "float16"
                (2 input_dim), "binary" (input_dim / 8, for each group of similar documents as well; finds candidates
                too, see `search`).
            similarity: "dot" for embeddings compared by inner product, whose norms count: no score is divided, copies
                keep the norms (4 bytes more for "binary"), and `decoded_norms` are left out.

        Raises:
            ValueError: for ids, norms or embeddings of a wrong length or type, ids that repeat, values that are
                negative or not finite, latents out of range, or a document that names a latent twice.
        """
        width = None if embeddings is None or not copies else embeddings.shape[-1]
        decoded = decoded_norms is not None or similarity == "dot"
        settings = Settings(codes.k, codes.dim, codes.head_fingerprint, decoded, tuple(copies), width, similarity)
        index = cls([], settings)
        index.add(codes, ids, decoded_norms=decoded_norms, embeddings=embeddings)
        return index

    def add(
        self,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray | None = None,
        *,
        decoded_norms: np.ndarray | None = None,
        embeddings: np.ndarray | None = None,
        replace: bool = False,
    ) -> None:
        """Add documents as a segment of their own. Many small segments slow a search down: `compact` joins them.

        Args:
            codes: as for `build`.
            ids: as for `build`, and of the same kind; default the numbers after the largest there is.
            decoded_norms: needed if the index was built with them.
            embeddings: needed if the index keeps copies.
            replace: documents whose id is in use take its place; else they are refused.

        Raises:
            ValueError: as `build` does, and for codes of another head or dim, or ids in use.
        """
        self._settings.check_documents(codes, decoded_norms)
        with self._writing:
            numbered = Ids.checked(ids, len(codes), next_id(self._parts) if ids is None else 0)
            parts = made_room(self._parts, numbered, replace=replace)
            segment = Segment.build(codes, self._settings, decoded_norms=decoded_norms, embeddings=embeddings)
            kept = [part for part in parts if len(part.segment)]
            if len(codes) or not kept:
                kept.append(Part.new(segment, numbered))
            self._parts = tuple(kept)

    def delete(self, ids: Iterable[Hashable], *, missing_ok: bool = False) -> int:
        """Hide documents from searches; `compact` frees their space. Returns how many there were.

        Raises:
            ValueError: for an id that is not there, unless `missing_ok`; then nothing is deleted.
        """
        with self._writing:
            parts, count = deleted(self._parts, ids, missing_ok=missing_ok)
            self._parts = tuple(parts)
            return count

    def compact(self) -> None:
        """Join all segments into one without the deleted documents; positions are numbered anew."""
        with self._writing:
            parts = [part for part in self._parts if part.mask.any()]
            if len(parts) < 2 and all(part.alive is None for part in parts) and len(parts) == len(self._parts):
                return
            alive = [np.flatnonzero(part.mask) for part in parts] or [np.empty(0, np.int64)]
            parts = parts or list(self._parts[:1])
            joined = Segment.joined([part.segment for part in parts], alive)
            ids = np.concatenate([part.ids.at(rows) for part, rows in zip(parts, alive, strict=True)])
            self._parts = (Part.new(joined, Ids(ids, len(ids))),)

    def search(
        self,
        codes: SparseCodes,
        top_k: int = 10,
        params: SearchParams = SearchParams(),
        *,
        projections: QueryProjections | None = None,
        embeddings: np.ndarray | None = None,
        allowed: Iterable[Hashable] | np.ndarray | None = None,
    ) -> SearchResult:
        """Find the best documents for every query.

        Args:
            codes: of the queries, by the head that made the documents' codes; they may keep more latents.
            top_k: hits of a query.
            params: how to search; default by codes alone, in all blocks.
            projections: of the dense queries, for `rescore="self"`; see `csr_hf.codes.project_queries`.
            embeddings: the dense queries, for a copy; shape (n_queries, input_dim).
            allowed: ids of the documents that may be found, or a bool for every position. The ranking among them is
                as exact as without.

        Raises:
            ValueError: for codes of another head or dim, a stage without what it needs, or values out of range.
        """
        parts = self._parts
        self._settings.check_codes(codes)
        depth, n, dense = params.depth(top_k, self._settings.copies), len(codes), None
        if params.rescore is not None:
            dense = self._settings.second_stage_queries(params.rescore, n, projections, embeddings)
        queries = prepare_queries(codes, params.query_k, self._settings.decoded)
        starts = starts_of(parts)
        if params.scan:
            signed = dense if isinstance(dense, np.ndarray) else self._settings.dense_queries(embeddings, n)
            queries = queries.by_signs(signed)
        threads = count_threads(params.threads)
        asked = [Asked(queries, mask, threads, params.nprobe) for mask in masks_of(parts, starts, allowed)]
        if params.rescore is None or dense is None:
            found = first_stage(parts, starts, asked, depth)
        else:
            found = two_stages(parts, starts, asked, params.rescore, dense, depth, top_k)
        return SearchResult(ids_at(parts, starts, found[1]), *found)

    def rescore(
        self,
        positions: np.ndarray,
        kind: Literal["self", "binary", "int8", "float16"],
        *,
        projections: QueryProjections | None = None,
        embeddings: np.ndarray | None = None,
        threads: int | None = None,
    ) -> np.ndarray:
        """Score documents that something else has found, as the second stage of `search` does.

        Args:
            positions: integers, shape (n_queries, candidates); -1 for none. Deleted documents are scored too.
            kind: as `SearchParams.rescore`.
            projections: of the dense queries, for "self".
            embeddings: the dense queries, for a copy.
            threads: default as many as there are cores.

        Returns:
            float32, shape (n_queries, candidates); -inf for none.

        Raises:
            ValueError: for positions out of range, and as `search` does.
        """
        parts = self._parts
        starts = starts_of(parts)
        positions = checked_positions(positions, int(starts[-1]))
        check_rescore(kind, self._settings.copies)
        dense = self._settings.second_stage_queries(kind, len(positions), projections, embeddings)
        return rescored(parts, starts, kind, dense, positions, count_threads(threads))

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder; an index already there is replaced in one step.

        Segments that the folder holds already are not written again, so saving after `add` costs what was added.

        Raises:
            ValueError: if the path holds something that is not an index (it is left alone), or ids are neither
                integers nor strings.
            OSError: if writing fails; nothing is left behind and an index already there stays.
        """
        # Asked for once the folder is locked: of two saves at a time, the later one sees the newer index.
        storage.save_folder(folder, lambda: to_store(self._parts), self._settings._asdict())

    @classmethod
    def load(cls, folder: str | Path, mmap: bool = True, *, verify: bool | None = None) -> InvertedIndex:
        """Open what `save` wrote.

        Args:
            folder: the index.
            mmap: map the files into memory (pages are read when touched) instead of reading them.
            verify: compare all files with their checksums, which reads them whole; default for what is not mapped.
                Sizes and the manifest are always checked.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is not an index, of another version, incomplete or damaged; the file is named.
        """
        verify = not mmap if verify is None else verify
        stored, values = storage.load_folder(folder, mmap=mmap, verify=verify)
        settings = Settings(**{**values, "copies": tuple(values["copies"])})
        return cls(opened(stored, settings, folder, verify=verify), settings)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._parts, self._settings

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(int(part.mask.sum()) for part in self._parts)

    def __contains__(self, one: Hashable) -> bool:
        return any(part.mask[at] for part in self._parts for at in part.ids.positions_of([one]) if at >= 0)

    def __repr__(self) -> str:
        return (
            f"InvertedIndex(n={len(self)}, k={self.k}, dim={self.dim}, {self.bytes_per_vector:.0f} bytes a document, "
            f"{self.postings_per_query:.2f} postings a query and document)"
        )

    @property
    def codes(self) -> SparseCodes:
        """The stored codes of all documents, in order of position, deleted ones included, not normalised."""
        every = SparseCodes.concatenate([part.segment.codes for part in self._parts])
        return SparseCodes(every.indices, every.values, self.dim, self.head, check=False)

    @property
    def k(self) -> int:
        """Latents kept of a document."""
        return self._settings.k

    @property
    def dim(self) -> int:
        """Length of the latents axis (the head's `hidden_dim`)."""
        return self._settings.dim

    @property
    def head(self) -> str | None:
        """Fingerprint of the head that made the codes; None when unknown."""
        return self._settings.head

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """What scores approximate."""
        return self._settings.similarity

    @property
    def copies(self) -> tuple[str, ...]:
        """Copies of the embeddings that there are for a second stage."""
        return self._settings.copies

    @property
    def segments(self) -> int:
        """How many there are; each costs a search a little."""
        return len(self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, ids included."""
        ids = sum(part.ids.array.nbytes for part in self._parts if part.ids.array is not None)
        return ids + sum(part.segment.nbytes for part in self._parts)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes stored for a document: code, norm, postings, copies, and its share of the list table; not its id."""
        return sum(part.segment.nbytes for part in self._parts) / max(sum(len(p.segment) for p in self._parts), 1)

    @property
    def table_bytes(self) -> int:
        """Bytes of the summaries of blocks alone, which take as much for a few documents as for thousands."""
        return sum(part.segment.arrays["summary"].nbytes for part in self._parts)

    @property
    def first_stage_bytes_per_vector(self) -> float:
        """Bytes of a document that a search without a second stage reads: postings, summaries, norm, position."""
        return sum(p.segment.first_stage_bytes for p in self._parts) / max(sum(len(p.segment) for p in self._parts), 1)

    @property
    def postings_per_query(self) -> float:
        """Postings that a query drawn like the documents touches, for every document: sum over latents of share².

        A search costs about this much; latents used evenly give k² / dim, a few popular ones much more.
        """
        uses = np.sum([part.segment.uses for part in self._parts], axis=0)
        share = uses / max(sum(len(part.segment) for part in self._parts), 1)
        return float(share @ share)
