"""Documents that were added together: what is stored of them, their ids, and which are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout
from csr_hf.coding.packing import PackedCodes
from csr_hf.plumbing.jit import frozen
from csr_hf.search.doc_ids import DocIds
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.storage import StoredSegment, new_name

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.coding.coder import Coder

_CHUNK = 65_536


class Segment(NamedTuple):
    """Immutable arrays by name; another one takes its place when documents are deleted.

    Arrays, of n documents: "rows", packed codes, uint8, shape (n, row_bytes); "residual", uint8, shape (n, m); "norms"
    of the decoded documents, float32, shape (n,); "float16", copies of the embeddings, shape (n, input_dim), where
    the index keeps them.
    """

    arrays: dict[str, np.ndarray]
    details: dict[str, Any]
    """JSON values: how "rows" are read."""
    ids: DocIds
    alive: np.ndarray | None
    """bool, shape (n,); None while no document is deleted."""
    name: str
    """Of its file, unique for ever."""
    documents: pa.Table | None = None
    """Texts and metadata by position; None where the index keeps none."""

    @classmethod
    def build(
        cls, rows: np.ndarray, coder: Coder, ids: DocIds, encoder: QueryEncoder, settings: dict[str, Any]
    ) -> Segment:
        """Encode embeddings, shape (n, input_dim), finite, float32 or memory-mapped floats.

        Raises:
            ValueError: for values that the coder refuses.
        """
        unit, parts, norms, copies = settings["similarity"] == "cosine", [], [], []
        for start in range(0, max(len(rows), 1), _CHUNK):
            chunk = unit_rows(rows[start : start + _CHUNK], start, unit=unit)
            packed = coder.encode(chunk)
            parts.append(packed)
            norms.append(np.linalg.norm(decode(packed, encoder), axis=1))
            copies += [chunk.astype(np.float16)] if "float16" in settings["copies"] else []
        packed = PackedCodes.concatenate(parts)
        return cls.of_codes(packed, np.concatenate(norms), np.concatenate(copies) if copies else None, ids)

    @classmethod
    def of_codes(cls, packed: PackedCodes, norms: np.ndarray, copies: np.ndarray | None, ids: DocIds) -> Segment:
        """Put what is known of documents together."""
        residual = np.empty((len(packed), 0), np.uint8) if packed.residual is None else packed.residual
        arrays = {"rows": packed.rows, "residual": residual, "norms": norms}
        if copies is not None:
            arrays["float16"] = copies
        arrays = {name: frozen(array) for name, array in arrays.items()}
        details = {"layout": list(packed.layout), "base": packed.base, "head": packed.head_fingerprint}
        return cls(arrays, details, ids, None, new_name())

    @classmethod
    def join(cls, segments: Sequence[Segment]) -> Segment:
        """Put the documents that are not deleted of all segments into one."""
        alive = [np.flatnonzero(segment.mask) for segment in segments]
        packed = PackedCodes.concatenate([s.packed[rows] for s, rows in zip(segments, alive, strict=True)])
        arrays = {
            name: np.concatenate([s.arrays[name][rows] for s, rows in zip(segments, alive, strict=True)])
            for name in segments[0].arrays
        }
        ids = DocIds.join([segment.ids for segment in segments], alive)
        joined = cls.of_codes(packed, arrays["norms"], arrays.get("float16"), ids)
        if segments[0].documents is None:
            return joined
        import pyarrow as pa

        tables = [s.documents.take(rows) for s, rows in zip(segments, alive, strict=True) if s.documents is not None]
        return joined._replace(documents=pa.concat_tables(tables))

    @classmethod
    def from_stored(cls, stored: StoredSegment) -> Segment:
        """Take what was read and checked."""
        ids = DocIds.from_arrays(stored.arrays, len(stored.arrays["norms"]), stored.details["first_id"])
        arrays = {name: array for name, array in stored.arrays.items() if name not in ids.to_arrays()}
        return cls(arrays, stored.details, ids, stored.alive, stored.name, stored.documents)

    @property
    def count(self) -> int:
        """Documents, deleted ones included."""
        return len(self.arrays["norms"])

    @property
    def mask(self) -> np.ndarray:
        """Documents that are not deleted, bool, shape (n,)."""
        return np.ones(self.count, bool) if self.alive is None else self.alive

    @property
    def packed(self) -> PackedCodes:
        """The stored codes in order of position."""
        layout, residual = Layout(*self.details["layout"]), self.arrays["residual"]
        return PackedCodes(
            self.arrays["rows"],
            layout,
            self.details["base"],
            self.details["head"],
            residual if residual.shape[1] else None,
            check=False,
        )

    def delete(self, positions: np.ndarray) -> Segment:
        """Return the segment without these documents."""
        alive = self.mask.copy()
        alive[positions] = False
        return self._replace(alive=alive)


def decode(packed: PackedCodes, encoder: QueryEncoder, *, residual: bool = True) -> np.ndarray:
    """Decode stored codes, float32, shape (n, input_dim).

    Args:
        packed: with the residual that the encoder knows.
        encoder: of the index.
        residual: add what residual codes say.
    """
    decoded = packed.unpack().to_scipy() @ encoder.atoms + encoder.bias
    if residual and packed.residual is not None and packed.residual.shape[1]:
        decoded += encoder.residual[np.arange(len(encoder.residual)), packed.residual].reshape(decoded.shape)
    found: np.ndarray = decoded.astype(np.float32)
    return found


def unit_rows(rows: np.ndarray, start: int = 0, *, unit: bool) -> np.ndarray:
    """Return embeddings in float32, of unit norm where cosines count.

    Args:
        rows: shape (n, input_dim).
        start: number of the first, for messages.
        unit: divide by norms; zeros stay.

    Raises:
        ValueError: if one is not finite.
    """
    with np.errstate(over="ignore"):
        found: np.ndarray = np.array(rows, np.float32)
    largest = np.abs(found).max(axis=1, initial=0, keepdims=True)
    if not np.isfinite(largest).all():
        row = start + int(np.argmin(np.isfinite(largest[:, 0])))
        raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that text, or embed it in float32.")
    if unit:
        found /= np.where(largest > 0, largest, 1)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        found /= np.where(norms > 0, norms, 1)
    return found


def check_segment(stored: StoredSegment, settings: dict[str, Any]) -> None:
    """Check everything that searches rely on: names, types, shapes, and every number that is an index.

    Args:
        stored: what was read of a segment.
        settings: of the index.

    Raises:
        ValueError: naming what is wrong.
    """
    arrays, details = stored.arrays, stored.details
    for name in ("norms", "rows", "layout", "base", "head", "first_id"):
        if name not in arrays and name not in details:
            raise ValueError(f"{name} is missing")
    n, dim = len(arrays["norms"]), settings["input_dim"]
    shapes = {"norms": (np.float32, (n,)), "rows": (np.uint8, (n, arrays["rows"].shape[-1]))}
    shapes["residual"] = np.uint8, (n, settings["residual_bytes"])
    if "float16" in settings["copies"]:
        shapes["float16"] = np.float16, (n, dim)
    check_shapes(arrays, shapes)
    if not np.isfinite(arrays["norms"]).all():
        raise ValueError("`norms` holds NaN or infinity")
    PackedCodes(arrays["rows"], Layout(*details["layout"]), details["base"])
    if stored.alive is not None and stored.alive.shape != (n,):
        raise ValueError(f"marks of deleted documents are {stored.alive.shape} instead of ({n},)")
    DocIds.from_arrays(arrays, n, details["first_id"])


def check_shapes(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
    """Refuse arrays of other names, types or shapes.

    Raises:
        ValueError: naming what is wrong.
    """
    names = set(arrays) - {"ids", "id_texts", "id_indptr"}
    if names != set(shapes):
        raise ValueError(f"it holds {sorted(names)} instead of {sorted(shapes)}")
    for name, (dtype, shape) in shapes.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise ValueError(f"`{name}` is {found.dtype} {found.shape} instead of {np.dtype(dtype)} {shape}")
