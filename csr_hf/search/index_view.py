"""What an index tells about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csr_hf.coding.packing import PackedCodes
from csr_hf.search.doc_ids import show_id
from csr_hf.search.kernels.group import QueryTables
from csr_hf.search.params import SearchParams, find_measured
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.searcher import DEFAULT_CANDIDATES, ids_at, starts_of
from csr_hf.search.segment import Segment, decode
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    import pyarrow as pa


class State(NamedTuple):
    """What a search sees; another one takes its place when documents come and go."""

    segments: tuple[Segment, ...]
    encoder: QueryEncoder
    tables: QueryTables
    settings: dict[str, Any]


class IndexView:
    """Properties of an index, all read from its state."""

    _state: State

    def __len__(self) -> int:
        return sum(int(segment.mask.sum()) for segment in self._segments)

    def __contains__(self, one: Hashable) -> bool:
        return any(s.mask[at] for s in self._segments for at in s.ids.positions_of([one]) if at >= 0)

    def __repr__(self) -> str:
        return (
            f"InvertedIndex(n={len(self)}, k={self.k}, dim={self.dim}, {self.bytes_per_document:.0f} bytes a document)"
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

        return pa.concat_tables(tables, promote_options="default")

    def ids_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the ids of documents by position: int64, or objects that are texts."""
        return ids_at(self._segments, positions)

    def positions_of(self, ids: Sequence[Hashable]) -> np.ndarray:
        """Return the positions of documents by id, int64, shape (n,).

        Raises:
            ValueError: for an id that is not there.
        """
        found = np.full(len(ids), -1, np.int64)
        for segment, start in zip(self._segments, starts_of(self._segments)[:-1], strict=True):
            own = segment.ids.positions_of(list(ids))
            here = (own >= 0) & segment.mask[np.maximum(own, 0)] if segment.size else np.zeros(len(ids), bool)
            found[here] = own[here] + start
        for one, position in zip(ids, found, strict=True):
            if position < 0:
                raise ValueError(f"{show_id(one)} is no id of a document of this index.")
        return found

    def decode(self, position: int) -> tuple[SparseCodes, np.ndarray]:
        """Return the code of a document by position, and what code and residual decode to, shape (input_dim,)."""
        starts = starts_of(self._segments)
        place = int(np.searchsorted(starts, position, side="right")) - 1
        packed = self._segments[place].packed_at(position - int(starts[place]))
        return packed.unpack(), decode(packed, self._encoder)[0]

    @property
    def alive(self) -> np.ndarray:
        """Which positions hold documents that are not deleted, bool, shape (n,)."""
        return np.concatenate([np.zeros(0, bool), *(segment.mask for segment in self._segments)])

    @property
    def codes(self) -> SparseCodes:
        """The stored codes of all documents, in order of position, deleted ones included, without residuals."""
        return PackedCodes.concatenate([segment.packed.with_residual(None) for segment in self._segments]).unpack()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, ids and what is needed of the head included."""
        return self._stored_bytes + sum(segment.ids.nbytes for segment in self._segments)

    @property
    def bytes_per_document(self) -> float:
        """Bytes stored for a document, deleted or not, without its id and without tables."""
        return (self._stored_bytes - self.table_bytes) / max(sum(segment.size for segment in self._segments), 1)

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
        """Partitions that a search visits on average where nobody says otherwise."""
        measured = find_measured(self._settings, SearchParams.recall)
        return self.partitions if measured is None else measured.nprobe

    @property
    def candidates(self) -> int:
        """Documents that a search reranks where nobody says otherwise."""
        measured = find_measured(self._settings, SearchParams.recall)
        return min(DEFAULT_CANDIDATES, len(self)) if measured is None else measured.candidates

    @property
    def _stored_bytes(self) -> int:
        own = sum(array.nbytes for segment in self._segments for array in segment.arrays.values())
        return own + self._encoder.nbytes

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
