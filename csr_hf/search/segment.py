"""Documents that were added together: what is stored of them, their ids, and which are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.coding.scalar_kernels import SCALE_BYTES
from csr_hf.plumbing.jit import frozen
from csr_hf.search.build.partitions import assign, unit_rows
from csr_hf.search.build.signs import SignCodes, gather_planes, lay_planes, make_signs
from csr_hf.search.doc_ids import DocIds
from csr_hf.search.kernels.rerank import Stored
from csr_hf.search.kernels.scan import Signs
from csr_hf.search.kernels.simd import ROOM
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.storage import StoredSegment, new_name

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.coding.coder import Coder

_CHUNK = 32_768
_LARGEST_HALF = 65_504.0


class Documents(NamedTuple):
    """What is known of documents, in order of position."""

    packed: PackedCodes
    """With residuals."""
    scales: np.ndarray
    """float16, shape (n,)."""
    own: np.ndarray
    """The partition of each, int64, shape (n,)."""
    signs: SignCodes
    copies: np.ndarray | None
    """float16, shape (n, input_dim); None where the index keeps none."""

    @classmethod
    def encode(cls, rows: np.ndarray, coder: Coder, encoder: QueryEncoder, settings: dict[str, Any]) -> Documents:
        """Encode embeddings, shape (n, input_dim), finite, float32 or memory-mapped floats.

        Raises:
            ValueError: for values that the coder refuses.
        """
        unit, parts = settings["similarity"] == "cosine", []
        for start in range(0, max(len(rows), 1), _CHUNK):
            chunk = unit_rows(rows[start : start + _CHUNK], start, unit=unit)
            norm = np.float32(settings["norm"])
            packed = coder.encode(chunk * norm)
            own = assign(chunk, encoder.centers)
            signs = make_signs(chunk, own, encoder.centers, encoder.rotation)
            scales = make_scales(decode(packed, encoder) / norm, unit=unit)
            parts.append(cls(packed, scales, own, signs, chunk.astype(np.float16) if settings["copies"] else None))
        return cls.concatenate(parts)

    @classmethod
    def concatenate(cls, parts: Sequence[Documents]) -> Documents:
        """Put several after each other."""
        scales, own = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scales", "own"))
        signs = SignCodes(*(np.concatenate(arrays) for arrays in zip(*(part.signs for part in parts), strict=True)))
        copies = [part.copies for part in parts if part.copies is not None]
        packed = PackedCodes.concatenate([part.packed for part in parts])
        return cls(packed, scales, own, signs, np.concatenate(copies) if copies else None)

    def take(self, rows: np.ndarray) -> Documents:
        """Return some of them, in the order of `rows`."""
        signs = SignCodes(*(array[rows] for array in self.signs))
        copies = None if self.copies is None else self.copies[rows]
        return Documents(self.packed[rows], self.scales[rows], self.own[rows], signs, copies)


class Taken(NamedTuple):
    """What kernels take of a segment."""

    signs: Signs
    stored: Stored
    copies: np.ndarray
    """Bits of float16, uint16, shape (n, input_dim); no rows where the index keeps none."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], details: dict[str, Any]) -> Taken:
        """Take the arrays of a segment."""
        signs = Signs(*(arrays[name] for name in ("begins", "order", "planes", "factors", "shifts")))
        steps = _stored_of(arrays, details).steps
        scales = arrays["scales"].view(np.uint16)
        stored = Stored(arrays["rows"], Layout(*details["layout"]), steps, arrays["residual"], scales)
        copies = arrays["float16"].view(np.uint16) if "float16" in arrays else frozen(np.empty((0, 1), np.uint16))
        return cls(signs, stored, copies)


class Segment(NamedTuple):
    """Immutable arrays by name; another one takes its place when documents are deleted.

    Arrays, of n documents by partition, which are its rows: "begins" of partitions, and "order", the positions of
    rows; "planes", "factors" and "shifts", which the scan reads, see `kernels.scan`; "rows", packed codes, uint8,
    shape (n, row_bytes); "residual", uint8, shape (n, m); "scales", what a score by codes is multiplied by, less one,
    float16, shape (n,); "float16", copies of the embeddings, shape (n, input_dim), where the index keeps them.
    """

    arrays: dict[str, np.ndarray]
    details: dict[str, Any]
    """JSON values: how "rows" are read."""
    ids: DocIds
    alive: np.ndarray | None
    """By position, bool, shape (n,); None while no document is deleted."""
    name: str
    """Of its file, unique for ever."""
    taken: Taken
    """The same arrays."""
    documents: pa.Table | None = None
    """Texts and metadata by position; None where the index keeps none."""

    @classmethod
    def arrange(cls, documents: Documents, ids: DocIds, partitions: int) -> Segment:
        """Bring documents into the order of their partitions."""
        order = np.argsort(documents.own, kind="stable").astype(np.int32)
        begins = np.searchsorted(documents.own[order], np.arange(partitions + 1)).astype(np.int64)
        bits = documents.signs.bits
        planes = np.zeros(bits.size + ROOM, np.uint8)
        lay_planes(bits, order, begins, planes)
        packed = documents.packed[order]
        residual = np.empty((len(order), 0), np.uint8) if packed.residual is None else packed.residual
        arrays: dict[str, np.ndarray] = {
            "begins": begins,
            "order": order,
            "planes": planes,
            "factors": documents.signs.factors[order],
            "shifts": documents.signs.shifts[order],
            "rows": packed.rows,
            "residual": residual,
            "scales": documents.scales[order],
        }
        if documents.copies is not None:
            arrays["float16"] = documents.copies[order]
        details = {"layout": list(packed.layout), "base": packed.base, "head": packed.head_fingerprint}
        return cls.of(arrays, details, ids, None, new_name())

    @classmethod
    def from_stored(cls, stored: StoredSegment) -> Segment:
        """Take what was read and checked."""
        ids = DocIds.from_arrays(stored.arrays, len(stored.arrays["order"]), stored.details["first_id"])
        arrays = {name: array for name, array in stored.arrays.items() if name not in ids.to_arrays()}
        return cls.of(arrays, stored.details, ids, stored.alive, stored.name, stored.documents)

    @classmethod
    def of(
        cls,
        arrays: dict[str, np.ndarray],
        details: dict[str, Any],
        ids: DocIds,
        alive: np.ndarray | None,
        name: str,
        documents: pa.Table | None = None,
    ) -> Segment:
        """Make a segment, whose arrays nobody can change, of what `parts` returns."""
        arrays = {key: frozen(array) for key, array in arrays.items()}
        return cls(arrays, details, ids, alive, name, Taken.of(arrays, details), documents)

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that it is made of."""
        return self.arrays, self.details, self.ids, self.alive, self.name, self.documents

    def unarrange(self) -> Documents:
        """Bring documents back into the order of their positions."""
        arrays, n = self.arrays, self.size
        rows = np.empty(n, np.int64)
        rows[arrays["order"]] = np.arange(n)
        bits = np.empty((n, (len(arrays["planes"]) - ROOM) // max(n, 1)), np.uint8)
        gather_planes(arrays["planes"], arrays["begins"], bits)
        own = np.repeat(np.arange(len(arrays["begins"]) - 1), np.diff(arrays["begins"]))
        signs = SignCodes(bits, arrays["factors"], arrays["shifts"])
        return Documents(self._stored, arrays["scales"], own, signs, arrays.get("float16")).take(rows)

    @property
    def size(self) -> int:
        """Documents, deleted ones included."""
        return len(self.arrays["order"])

    @property
    def mask(self) -> np.ndarray:
        """Documents that are not deleted, by position, bool, shape (n,)."""
        return np.ones(self.size, bool) if self.alive is None else self.alive

    @property
    def packed(self) -> PackedCodes:
        """The stored codes in order of position."""
        rows = np.empty(self.size, np.int64)
        rows[self.arrays["order"]] = np.arange(self.size)
        return self._stored[rows]

    def packed_at(self, position: int) -> PackedCodes:
        """Return the stored code of one document."""
        return self._stored[np.flatnonzero(self.arrays["order"] == position)]

    @property
    def _stored(self) -> PackedCodes:
        return _stored_of(self.arrays, self.details)

    def delete(self, positions: np.ndarray) -> Segment:
        """Return the segment without these documents."""
        alive = self.mask.copy()
        alive[positions] = False
        return self._replace(alive=alive)


def _stored_of(arrays: dict[str, np.ndarray], details: dict[str, Any]) -> PackedCodes:
    codes = arrays["rows"], Layout(*details["layout"]), details["base"], details["head"]
    return PackedCodes(*codes, arrays["residual"] if arrays["residual"].shape[1] else None, check=False)


def join(segments: Sequence[Segment], partitions: int) -> Segment:
    """Put the documents that are not deleted of all segments into one."""
    alive = [np.flatnonzero(segment.mask) for segment in segments]
    parts = [segment.unarrange().take(rows) for segment, rows in zip(segments, alive, strict=True)]
    ids = DocIds.join([segment.ids for segment in segments], alive)
    joined = Segment.arrange(Documents.concatenate(parts), ids, partitions)
    if segments[0].documents is None:
        return joined
    import pyarrow as pa

    tables = [s.documents.take(rows) for s, rows in zip(segments, alive, strict=True) if s.documents is not None]
    return joined._replace(documents=pa.concat_tables(tables, promote_options="default"))


def decode(packed: PackedCodes, encoder: QueryEncoder, *, residual: bool = True) -> np.ndarray:
    """Decode stored codes, float32, shape (n, input_dim).

    Args:
        packed: with the residual that the encoder knows.
        encoder: of the index.
        residual: add what residual codes say.
    """
    decoded = packed.unpack().to_scipy() @ encoder.atoms + encoder.bias
    if residual and packed.residual is not None and packed.residual.shape[1]:
        decoded += ScalarQuantizer(encoder.residual, packed.residual.shape[1]).decode(packed.residual)
    found: np.ndarray = decoded.astype(np.float32)
    return found


def make_scales(decoded: np.ndarray, *, unit: bool) -> np.ndarray:
    """Return what scores of decoded documents are multiplied by, less one, float16: for cosines one by their norms."""
    if not unit:
        return np.zeros(len(decoded), np.float16)
    norms = np.linalg.norm(decoded, axis=1)
    with np.errstate(over="ignore"):
        scales = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0) - 1
    return np.clip(scales, -1, _LARGEST_HALF).astype(np.float16)


def check_segment(stored: StoredSegment, settings: dict[str, Any]) -> None:
    """Check everything that searches rely on: names, types, shapes, and every number that is an index.

    Args:
        stored: what was read of a segment.
        settings: of the index.

    Raises:
        ValueError: naming what is wrong.
    """
    arrays, details = stored.arrays, stored.details
    for name in ("order", "rows", "layout", "base", "head", "first_id"):
        if name not in arrays and name not in details:
            raise ValueError(f"{name} is missing")
    n, dim = len(arrays["order"]), settings["input_dim"]
    shapes = {
        "begins": (np.int64, (settings["partitions"] + 1,)),
        "order": (np.int32, (n,)),
        "planes": (np.uint8, (n * (-(-dim // 8)) + ROOM,)),
        "factors": (np.uint16, (n,)),
        "shifts": (np.uint16, (n,)),
        "rows": (np.uint8, (n, arrays["rows"].shape[-1])),
        "residual": (np.uint8, (n, settings["residual_bytes"])),
        "scales": (np.float16, (n,)),
    }
    if "float16" in settings["copies"]:
        shapes["float16"] = np.float16, (n, dim)
    check_shapes(arrays, shapes)
    _check_numbers(arrays, n)
    PackedCodes(arrays["rows"], Layout(*details["layout"]), details["base"])
    if details["layout"][0] != settings["dim"]:
        raise ValueError(f"its codes are of {details['layout'][0]} latents instead of {settings['dim']}")
    if stored.alive is not None and stored.alive.shape != (n,):
        raise ValueError(f"marks of deleted documents are {stored.alive.shape} instead of ({n},)")
    if stored.documents is not None and stored.documents.num_rows != n:
        raise ValueError(f"it has {stored.documents.num_rows:,} texts for {n:,} documents")
    DocIds.from_arrays(arrays, n, details["first_id"])


def _check_numbers(arrays: dict[str, np.ndarray], n: int) -> None:
    """Check every number that leads to a place, and that all others are finite."""
    begins, order = arrays["begins"], arrays["order"]
    if begins[0] != 0 or begins[-1] != n or (begins[1:] < begins[:-1]).any():
        raise ValueError("begins does not divide the documents")
    if n and not (order.min() == 0 and order.max() == n - 1 and (np.bincount(order, minlength=n) == 1).all()):
        raise ValueError("order does not name every position once")
    for name in ("factors", "shifts"):
        # All ones in the exponent are infinities and NaN.
        if ((arrays[name] & 0x7F80) == 0x7F80).any():
            raise ValueError(f"{name} holds NaN or infinity")
    if arrays["residual"].size and ((arrays["residual"][:, SCALE_BYTES - 1] & 0x7C) == 0x7C).any():
        raise ValueError("residual holds a scale that is NaN or infinity")
    for name in ("scales", "float16"):
        if name in arrays and ((arrays[name].view(np.uint16) & 0x7C00) == 0x7C00).any():
            raise ValueError(f"{name} holds NaN or infinity")


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
