"""The embedded search engine: dense queries in, the nearest documents out, from packed codes in memory or mapped."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.search import storage
from csr_hf.search.build.partitions import count_partitions, find_typical_norm, fit_partitions
from csr_hf.search.build.tuning import choose_settings
from csr_hf.search.code_lists import CodeLists, find_sparse
from csr_hf.search.doc_ids import DocIds, distinct_ids, number_after, show_id
from csr_hf.search.params import SearchParams, check_copies, check_top_k, count_threads
from csr_hf.search.query_encoder import QueryEncoder, QueryTables, check_encoder, check_queries
from csr_hf.search.searcher import Hits, find_dense, ids_at, masks_of
from csr_hf.search.segment import Documents, Segment, check_segment, join
from csr_hf.sparse_codes import QueryProjections, SparseCodes

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.coding.coder import Coder

_HEAD = "head"


class State(NamedTuple):
    """What a search sees; another one takes its place when documents come and go."""

    segments: tuple[Segment, ...]
    encoder: QueryEncoder
    tables: QueryTables
    settings: dict[str, Any]


class InvertedIndex:
    """Documents as packed codes with residuals; made by `InvertedIndex.build` or `InvertedIndex.load`.

    The score of a document is its cosine with the query, as far as what is stored tells: of the decoded code with its
    residual, or of a float16 copy. With `similarity="dot"` it is the inner product.

    Any number of threads may search while another adds, deletes or compacts: a search sees the index as it was when it
    began.
    """

    def __init__(self, segments: Sequence[Segment], encoder: QueryEncoder, settings: dict[str, Any]) -> None:
        self._state = State(tuple(segments), encoder, QueryTables.of(encoder, settings["norm"]), dict(settings))
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
            ids: unique integers, strings or other hashable objects, one a document; default 0 to n - 1.
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
        rows = _check_embeddings(embeddings, settings["input_dim"])
        # Cosines are of unit rows, but a head wants embeddings as long as those that it was trained on.
        unit = similarity == "cosine"
        settings["norm"] = find_typical_norm(rows) if unit else 1.0
        centers = fit_partitions(rows, _check_partitions(partitions, len(rows)), seed, unit=unit)
        index = cls([], QueryEncoder.of(coder, centers, seed), {**settings, "partitions": len(centers)})
        index.add(rows, coder, ids, documents=documents)

        def search(queries: np.ndarray, top_k: int, nprobe: int, candidates: int) -> np.ndarray:
            return index.search(queries, top_k, SearchParams(nprobe=nprobe, candidates=candidates)).positions

        measured = choose_settings(rows, search, len(centers), unit=unit, seed=seed)
        index._state = index._state._replace(settings={**index._state.settings, **measured})
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
        rows = _check_embeddings(embeddings, self._encoder.input_dim)
        with self._writing:
            numbered = DocIds.check(
                ids, len(rows), number_after(s.ids for s in self._segments if s.size) if ids is None else 0
            )
            segments = _make_room(self._segments, numbered, replace=replace)
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
            segments, count = _delete(self._segments, ids, missing_ok=missing_ok)
            self._state = self._state._replace(segments=tuple(segments))
            return count

    def compact(self) -> None:
        """Join all segments into one without the deleted documents; positions are numbered anew."""
        with self._writing:
            if len(self._segments) > 1 or any(segment.alive is not None for segment in self._segments):
                joined = join(self._segments, len(self._encoder.centers))
                self._state = self._state._replace(segments=(joined,))

    def search(
        self,
        queries: np.ndarray,
        top_k: int = 10,
        params: SearchParams = SearchParams(),
        *,
        allowed: Iterable[Hashable] | np.ndarray | None = None,
    ) -> Hits:
        """Find the best documents for every query.

        Args:
            queries: dense, shape (n_queries, input_dim), floats, less the mean of their modality.
            top_k: hits of a query; arrays are no wider than there are documents.
            params: how to search.
            allowed: ids of the documents that may be found, or a bool for every position.

        Raises:
            ValueError: for queries of another width or not finite, copies that the index does not keep, or values out
                of range.
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
        scores, positions = self._find_codes(
            state, codes, masks_of(state.segments, allowed), check_top_k(top_k), params
        )
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
        unit, lists = state.settings["similarity"] == "cosine", []
        for segment in state.segments:
            # By name: deleting documents changes none of its codes.
            own = self._lists.get(segment.name) or CodeLists.of(segment, state.encoder, unit=unit)
            self._lists[segment.name] = own
            lists.append(own)
        return find_sparse(state.segments, lists, codes, masks, top_k, count_threads(params.threads))

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
            folder, mmap=mmap, verify=verify, documents=documents, check=_check_stored, seen=seen
        )
        head = next((QueryEncoder(**each.arrays) for each in stored if each.details.get("kind") == _HEAD), None)
        if head is None:
            raise ValueError(f"the index {folder} is damaged: nothing of its head is there. Build it again.")
        segments = [Segment.from_stored(each) for each in stored if each.details.get("kind") != _HEAD]
        index = cls(segments, head, settings)
        index._seen = seen
        return index

    def _to_store(self) -> list[storage.StoredSegment]:
        found = [storage.StoredSegment(self.head_name, self._encoder._asdict(), None, {"kind": _HEAD})]
        for segment in self._segments:
            details = {**segment.details, "first_id": segment.ids.first}
            found.append(
                storage.StoredSegment(
                    segment.name,
                    {**segment.arrays, **segment.ids.to_arrays()},
                    segment.alive,
                    details,
                    segment.documents,
                )
            )
        return found

    def _check_codes(self, codes: SparseCodes) -> None:
        if not isinstance(codes, SparseCodes):
            raise ValueError(f"`codes` is a {type(codes).__name__}, not SparseCodes. Encode first.")
        if codes.dim != self.dim:
            raise ValueError(f"`codes.dim` ({codes.dim}) is not the index's dim ({self.dim}). Encode with its head.")
        if None not in (codes.head_fingerprint, self.head) and codes.head_fingerprint != self.head:
            raise ValueError(
                f"`codes.head_fingerprint` ({codes.head_fingerprint}) is not the head the index was built with "
                f"({self.head}). Encode with that head, or build the index again."
            )

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state.segments, self._state.encoder, self._state.settings

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        segments, encoder, settings = state
        # Copies are writable, for which kernels would be compiled again.
        segments = [s._replace(arrays={name: frozen(array) for name, array in s.arrays.items()}) for s in segments]
        encoder = QueryEncoder(*(frozen(array) for array in encoder))
        self.__init__(segments, encoder, settings)  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(int(segment.mask.sum()) for segment in self._segments)

    def __contains__(self, one: Hashable) -> bool:
        return any(s.mask[at] for s in self._segments for at in s.ids.positions_of([one]) if at >= 0)

    def __repr__(self) -> str:
        return (
            f"InvertedIndex(n={len(self)}, k={self.k}, dim={self.dim}, {self.bytes_per_vector:.0f} bytes a document)"
        )

    @property
    def _segments(self) -> tuple[Segment, ...]:
        return self._state.segments

    @property
    def _encoder(self) -> QueryEncoder:
        return self._state.encoder

    @property
    def _settings(self) -> dict[str, Any]:
        return self._state.settings

    @property
    def k(self) -> int:
        """Latents kept of a document, at most."""
        return int(self._settings["k"])

    @property
    def dim(self) -> int:
        """Length of the latents axis (the head's `hidden_dim`)."""
        return int(self._settings["dim"])

    @property
    def head(self) -> str:
        """Fingerprint of the head that made the codes."""
        return str(self._settings["head"])

    @property
    def head_name(self) -> str:
        """Name under which what it needs of the head is stored: 16 hexadecimal digits."""
        import hashlib

        digest = hashlib.blake2b(digest_size=8)
        for array in self._encoder:
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """What scores approximate."""
        found: Literal["cosine", "dot"] = self._settings["similarity"]
        return found

    @property
    def copies(self) -> tuple[str, ...]:
        """Copies of the embeddings that there are."""
        return tuple(self._settings["copies"])

    @property
    def settings(self) -> dict[str, Any]:
        """What all documents share: JSON values."""
        return dict(self._settings)

    @property
    def segments(self) -> int:
        """How many there are; each costs a search a little."""
        return len(self._segments)

    @property
    def encoder(self) -> QueryEncoder:
        """What queries need of the head and its coder."""
        return self._encoder

    @property
    def documents(self) -> pa.Table | None:
        """Texts and metadata by position, those of deleted documents included; None where the index keeps none."""
        tables = [segment.documents for segment in self._segments if segment.documents is not None]
        if not tables:
            return None
        import pyarrow as pa

        return pa.concat_tables(tables)

    def ids_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the ids of documents by position: int64, or objects that are texts."""
        return ids_at(self._segments, positions)

    @property
    def codes(self) -> SparseCodes:
        """The stored codes of all documents, in order of position, deleted ones included, without residuals."""
        return SparseCodes.concatenate([segment.packed.unpack() for segment in self._segments])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, ids and what is needed of the head included."""
        return self._stored_bytes + sum(segment.ids.nbytes for segment in self._segments)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes stored for a document, its share of all tables included; not its id."""
        return self._stored_bytes / max(sum(segment.size for segment in self._segments), 1)

    @property
    def table_bytes(self) -> int:
        """Bytes of what does not grow with the documents: what is needed of the head, and tables of partitions."""
        return self._encoder.nbytes + sum(segment.arrays["begins"].nbytes for segment in self._segments)

    @property
    def partitions(self) -> int:
        """How many there are."""
        return int(self._settings.get("partitions") or 1)

    @property
    def nprobe(self) -> int:
        """Partitions that a search visits where nobody says otherwise."""
        return int(self._settings.get("nprobe") or self.partitions)

    @property
    def candidates(self) -> int:
        """Documents that a search reranks where nobody says otherwise."""
        return int(self._settings.get("candidates") or len(self))

    @property
    def _stored_bytes(self) -> int:
        own = sum(array.nbytes for segment in self._segments for array in segment.arrays.values())
        return own + self._encoder.nbytes


def _check_stored(stored: storage.StoredSegment, settings: dict[str, Any]) -> None:
    if stored.details.get("kind") == _HEAD:
        check_encoder(stored.arrays, settings)
    else:
        check_segment(stored, settings)


def _check_partitions(partitions: int | None, n: int) -> int:
    if partitions is None:
        return count_partitions(n)
    if isinstance(partitions, bool) or not hasattr(partitions, "__index__") or partitions < 1:
        raise ValueError(f"`partitions` ({partitions!r}) must be an integer of at least 1, or None.")
    return min(int(partitions), max(n, 1))


def _check_embeddings(embeddings: Any, input_dim: int) -> np.ndarray:
    rows = embeddings if isinstance(embeddings, np.ndarray) else np.asarray(embeddings)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != input_dim:
        raise ValueError(f"`embeddings` ({rows.dtype}, {rows.shape}) must be floats of the shape (n, {input_dim}).")
    return rows


def _delete(segments: Sequence[Segment], ids: Iterable[Hashable], *, missing_ok: bool) -> tuple[list[Segment], int]:
    """Return the segments without the documents of these ids, and how many of them there were."""
    wanted = distinct_ids(ids, "ids")
    left, found = list(segments), np.zeros(len(wanted), bool)
    for at, segment in enumerate(segments):
        positions = segment.ids.positions_of(wanted)
        here = positions >= 0
        here[here] = segment.mask[positions[here]]
        if here.any():
            left[at] = segment.delete(positions[here])
        found |= here
    if not missing_ok and not found.all():
        unknown = wanted[int(np.argmin(found))]
        raise ValueError(f"`ids`: there is no document {show_id(unknown)}. Pass `missing_ok=True` to pass over it.")
    return left, int(found.sum())


def _make_room(segments: Sequence[Segment], ids: DocIds, *, replace: bool) -> list[Segment]:
    """Return the segments as they must be for documents with these ids to come."""
    found = list(segments)
    kinds = {segment.ids.kind for segment in segments if segment.size}
    if ids.n and kinds - {ids.kind}:
        raise ValueError(f"`ids` are {ids.kind}, those of the index {kinds.pop()}. Convert them.")
    wanted = ids.at(np.arange(ids.n))
    for at, segment in enumerate(segments):
        positions = segment.ids.positions_of(wanted)
        positions = positions[positions >= 0]
        positions = positions[segment.mask[positions]]
        if len(positions) and not replace:
            used = segment.ids.at(positions[:1]).tolist()[0]
            raise ValueError(f"`ids`: {used!r} is in use. Delete it first, or pass `replace=True`.")
        if len(positions):
            found[at] = segment.delete(positions)
    return found
