"""The embedded search engine: dense queries in, the nearest documents out, from packed codes in memory or mapped."""

from __future__ import annotations

import functools
import threading
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.search import storage
from csr_hf.search.build.partitions import find_typical_norm, fit_partitions
from csr_hf.search.build.tuning import choose_settings
from csr_hf.search.changes import HEAD, check_embeddings, check_partitions, check_stored, claim_ids, delete, relabel
from csr_hf.search.code_lists import CodeLists, find_sparse, find_strongest, require
from csr_hf.search.doc_ids import DocIds, number_after
from csr_hf.search.index_view import IndexView, State
from csr_hf.search.params import SearchParams, check_copies, check_top_k, count_threads
from csr_hf.search.query_encoder import QueryEncoder, check_queries
from csr_hf.search.repartitioning import find_within, has_outgrown, remake_partitions
from csr_hf.search.searcher import Hits, find_dense, ids_at, masks_of
from csr_hf.search.segment import Documents, Segment, join
from csr_hf.sparse_codes import QueryProjections, SparseCodes

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.coding.coder import Coder


class InvertedIndex(IndexView):
    """Documents as packed codes with residuals; made by `InvertedIndex.build` or `InvertedIndex.load`.

    The score of a document is its cosine with the query, as far as what is stored tells: of the decoded code with its
    residual, or of a float16 copy. With `similarity="dot"` it is the inner product.

    Any number of threads may search while another adds, deletes or compacts: a search sees the index as it was when it
    began.
    """

    def __init__(self, segments: Sequence[Segment], encoder: QueryEncoder, settings: dict[str, Any]) -> None:
        self._state = State(tuple(segments), encoder, encoder.make_tables(settings), dict(settings))
        self._lists: dict[str, CodeLists] = {}
        self._writing = threading.RLock()
        self._seen: storage.Seen = {}

    @classmethod
    def build(
        cls,
        embeddings: np.ndarray,
        coder: Coder,
        ids: Sequence[Hashable] | np.ndarray | None = None,
        *,
        similarity: Literal["cosine", "dot"] = "cosine",
        copies: Sequence[Literal["float16"]] = (),
        partitions: int | None = None,
        seed: int = 0,
        documents: pa.Table | None = None,
    ) -> InvertedIndex:
        """Index embeddings of documents.

        Args:
            embeddings: shape (n, input_dim), floats, may be memory-mapped, less the mean of their modality.
            coder: makes what is stored; with a residual, unless few bytes matter more than what is found.
            ids: unique integers or strings, one a document; default 0 to n - 1.
            similarity: "cosine", for which embeddings are brought to unit norm, or "dot".
            copies: "float16" keeps the embeddings as well, 2 bytes a dimension, for exact ranking of candidates.
            partitions: groups of similar documents; default by their number.
            seed: of the partitions.
            documents: texts and metadata, a row for each document, which are kept beside.

        Raises:
            ValueError: for embeddings of another width, not finite or no floats, and ids of a wrong number or type or
                that repeat.
        """
        if similarity not in ("cosine", "dot"):
            raise ValueError(f'`similarity` {similarity!r} is none of an index. Choose "cosine" or "dot".')
        settings = {
            "similarity": similarity,
            "copies": list(check_copies(copies)),
            "input_dim": coder.head.config.input_dim,
            "dim": coder.head.config.hidden_dim,
            "residual_bytes": 0,
            **coder.settings,
        }
        rows = check_embeddings(embeddings, settings["input_dim"])
        # Cosines are of unit rows, but a head wants embeddings as long as those that it was trained on.
        unit = similarity == "cosine"
        settings["norm"] = find_typical_norm(rows) if unit else 1.0
        centers = fit_partitions(rows, check_partitions(partitions, len(rows)), seed, unit=unit)
        index = cls(
            [], QueryEncoder.of(coder, centers, seed), {**settings, "partitions": len(centers), "fitted": len(rows)}
        )
        index.add(rows, coder, ids, documents=documents)

        search = functools.partial(find_within, index._state)
        measured = [list(row) for row in choose_settings(rows, search, centers, unit=unit, seed=seed)]
        index._state = index._state._replace(settings={**index._state.settings, "measured": measured})
        return index

    def add(
        self,
        embeddings: np.ndarray,
        coder: Coder,
        ids: Sequence[Hashable] | np.ndarray | None = None,
        *,
        replace: bool = False,
        documents: pa.Table | None = None,
    ) -> None:
        """Add documents as a segment of their own. Many small segments slow a search down: `compact` joins them.

        Args:
            embeddings: as for `build`.
            coder: with the same settings as that the index was built with.
            ids: as for `build`, and of the same kind; default the numbers after the largest there is.
            replace: documents whose id is in use take its place; else they are refused.
            documents: as for `build`.

        Raises:
            ValueError: as `build` does, and for another coder, or ids in use.
        """
        for name, value in coder.settings.items():
            if self._settings.get(name) != value:
                raise ValueError(
                    f"`coder.{name}` is {value!r}, that of the index {self._settings.get(name)!r}. Use the coder that "
                    "the index was built with."
                )
        rows = check_embeddings(embeddings, self._encoder.input_dim)
        with self._writing:
            first = number_after(s.ids for s in self._segments if s.size) if ids is None else 0
            numbered = DocIds.check(ids, len(rows), first)
            segments = claim_ids(self._segments, numbered, replace=replace)
            encoded = Documents.encode(rows, coder, self._encoder, self._settings)
            segment = Segment.arrange(encoded, numbered, len(self._encoder.centers))._replace(documents=documents)
            kept = [old for old in segments if old.size]
            if segment.size or not kept:
                kept.append(segment)
            self._state = self._state._replace(segments=tuple(kept))

    def delete(self, ids: Iterable[Hashable], *, missing_ok: bool = False) -> int:
        """Hide documents from searches; `compact` frees their space. Returns how many there were.

        Raises:
            ValueError: for an id that is not there, unless `missing_ok`; then nothing is deleted.
        """
        with self._writing:
            segments, count = delete(self._segments, ids, missing_ok=missing_ok)
            self._state = self._state._replace(segments=tuple(segments))
            return count

    def compact(self) -> None:
        """Join all segments into one without the deleted documents; positions are numbered anew.

        Where there are at least twice as many documents as when the partitions were made, partitions are made anew.
        """
        with self._writing:
            if len(self._segments) > 1 or any(segment.alive is not None for segment in self._segments):
                joined = join(self._segments, len(self._encoder.centers))
                state = self._state._replace(segments=(joined,))
                self._state = remake_partitions(state) if has_outgrown(state.settings, joined.size) else state
                self._lists = {}

    def relabel(self, ids: Sequence[Hashable] | np.ndarray, documents: pa.Table | None) -> None:
        """Give the documents of a compact index other ids and texts; their codes stay.

        Args:
            ids: of all documents in order, as `documents` are; see `build`.
            documents: see `build`.

        Raises:
            ValueError: as `build` does, and if the index is not compact.
        """
        with self._writing:
            self._state = self._state._replace(segments=relabel(self._segments, ids, documents))
            self._lists = {}

    def search(
        self,
        queries: np.ndarray,
        top_k: int = 10,
        params: SearchParams = SearchParams(),
        *,
        allowed: Iterable[Hashable] | np.ndarray | None = None,
        must: Sequence[int] = (),
    ) -> Hits:
        """Find the best documents for every query.

        Args:
            queries: dense, shape (n_queries, input_dim), floats, less the mean of their modality.
            top_k: hits of a query; arrays are no wider than there are documents.
            params: how to search.
            allowed: ids of the documents that may be found, or a bool for every position.
            must: latents that the code of a document must have, to be found.

        Raises:
            ValueError: for queries of another width or not finite, latents or copies that the index does not have, or
                values out of range.
        """
        state, top_k = self._state, check_top_k(top_k)
        unit = state.settings["similarity"] == "cosine"
        rows, norms = check_queries(queries, state.encoder.input_dim)
        if params.rerank not in ("auto", "none", "codes", *state.settings["copies"]):
            raise ValueError(
                f'`rerank="{params.rerank}"` needs such copies of the embeddings, and the index has none. Build it '
                f'with copies=["{params.rerank}"].'
            )
        masks = masks_of(state.segments, allowed)
        if must:
            masks = require(self._list_codes(state), masks, must)
        if params.exact:
            scores, positions = self._find_codes(state, self._project(state, rows), masks, top_k, params)
        else:
            scores, positions = find_dense(state.segments, state.tables, rows, masks, top_k, params, state.settings)
        return Hits(ids_at(state.segments, positions), positions, scores if unit else scores * norms)

    def search_codes(
        self,
        codes: SparseCodes,
        top_k: int = 10,
        params: SearchParams = SearchParams(exact=True),
        *,
        allowed: Iterable[Hashable] | np.ndarray | None = None,
    ) -> Hits:
        """Find the best documents for sparse queries, exactly, through inverted lists of the sparse codes.

        The score is sum_j q_j z_dj / ||decode(z_d)||, for dot without the division. Who shares no latent with the
        query is no hit.

        Args:
            codes: of the queries, by the head that made the documents' codes.
            top_k: as for `search`.
            params: threads alone count.
            allowed: as for `search`.

        Raises:
            ValueError: for codes of another head or dim, or values out of range.
        """
        self._check_codes(codes)
        state = self._state
        masks, top_k = masks_of(state.segments, allowed), check_top_k(top_k)
        scores, positions = self._find_codes(state, codes, masks, top_k, params)
        return Hits(ids_at(state.segments, positions), positions, scores)

    def _project(self, state: State, queries: np.ndarray) -> SparseCodes:
        """Return the largest projections of dense queries as sparse ones."""
        latents = queries @ state.encoder.atoms.T
        return QueryProjections(latents, np.zeros(len(queries), np.float32)).codes(state.settings["k"])

    def _find_codes(
        self,
        state: State,
        codes: SparseCodes,
        masks: Sequence[np.ndarray | None],
        top_k: int,
        params: SearchParams,
    ) -> tuple[np.ndarray, np.ndarray]:
        threads = count_threads(params.threads)
        return find_sparse(state.segments, self._list_codes(state), codes, masks, top_k, threads)

    def _list_codes(self, state: State) -> list[CodeLists]:
        # Another thread may put other lists in their place.
        unit, lists = state.settings["similarity"] == "cosine", self._lists
        for segment in state.segments:
            # By name: deleting documents changes none of its codes.
            if segment.name not in lists:
                lists[segment.name] = CodeLists.of(segment, state.encoder, unit=unit)
        return [lists[segment.name] for segment in state.segments]

    def find_strongest(self, latent: int, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Find the documents in which a latent is strongest.

        Args:
            latent: its number.
            count: documents wanted.

        Returns:
            Positions, int64, and what the latent is worth in their codes, float32, the largest first.
        """
        state = self._state
        return find_strongest(state.segments, self._list_codes(state), latent, count)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the index to a folder; an index already there is replaced in one step.

        Args:
            folder: where to write.
            overwrite: replace an index that is none of this one's earlier states.

        Raises:
            ValueError: if the path holds something that is not an index, or one that others saved since this one was
                loaded or saved; it is left alone.
            OSError: if writing fails; nothing is left behind and an index already there stays.
        """
        storage.save_folder(folder, self._to_store, self._settings, self._seen, overwrite=overwrite)

    @classmethod
    def load(
        cls, folder: str | Path, mmap: bool = True, *, verify: bool | None = None, documents: bool = False
    ) -> InvertedIndex:
        """Open what `save` wrote; every number that a search relies on is checked.

        Args:
            folder: the index.
            mmap: map the files into memory (pages are read when touched) instead of reading them.
            verify: compare all files with their checksums, which reads them whole; default for what is not mapped.
            documents: read texts and metadata too.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it is not an index, of another version, incomplete or damaged; the file is named.
        """
        verify = not mmap if verify is None else verify
        seen: storage.Seen = {}
        stored, settings = storage.load_folder(
            folder, mmap=mmap, verify=verify, documents=documents, check=check_stored, seen=seen
        )
        head = next((QueryEncoder(**each.arrays) for each in stored if each.details.get("kind") == HEAD), None)
        if head is None:
            raise ValueError(f"the index {folder} is damaged: nothing of its head is there. Build it again.")
        segments = [Segment.from_stored(each) for each in stored if each.details.get("kind") != HEAD]
        index = cls(segments, head, settings)
        index._seen = seen
        return index

    def _to_store(self) -> list[storage.StoredSegment]:
        found = [storage.StoredSegment(self.head_name, self._encoder._asdict(), None, {"kind": HEAD})]
        for segment in self._segments:
            details = {**segment.details, "first_id": segment.ids.first}
            arrays = {**segment.arrays, **segment.ids.to_arrays()}
            found.append(storage.StoredSegment(segment.name, arrays, segment.alive, details, segment.documents))
        return found

    def __copy__(self) -> InvertedIndex:
        """Take what a search sees now; the inverted lists are shared, which nothing changes."""
        found = InvertedIndex.__new__(InvertedIndex)
        found._state, found._lists, found._writing, found._seen = self._state, self._lists, threading.RLock(), {}
        return found

    def __getstate__(self) -> tuple[Any, ...]:
        return [segment.parts for segment in self._segments], self._state.encoder, self._state.settings

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        segments, encoder, settings = state
        # Copies are writable, for which kernels would be compiled again.
        segments = [Segment.of(*parts) for parts in segments]
        encoder = QueryEncoder(*(frozen(array) for array in encoder))
        self.__init__(segments, encoder, settings)  # type: ignore[misc]
