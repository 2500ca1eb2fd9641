"""Check what an index is given, and make segments as changes leave them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.plumbing.float_rows import to_array
from csr_hf.search import storage
from csr_hf.search.build.partitions import count_partitions
from csr_hf.search.doc_ids import DocIds, distinct_ids, show_id
from csr_hf.search.params import check_settings
from csr_hf.search.query_encoder import check_encoder
from csr_hf.search.segment import Segment, check_segment

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = "head"
"""Kind of what is stored of the head, beside segments."""


def check_stored(stored: storage.StoredSegment, settings: dict[str, Any]) -> None:
    """Check what was read of a segment, or of the head, and the settings of the index."""
    check_settings(settings)
    if stored.details.get("kind") == HEAD:
        check_encoder(stored.arrays, settings)
    else:
        check_segment(stored, settings)


def check_partitions(partitions: int | None, n: int) -> int:
    """Return how many partitions n documents get."""
    if partitions is None:
        return count_partitions(n)
    if isinstance(partitions, bool) or not hasattr(partitions, "__index__") or partitions < 1:
        raise ValueError(f"`partitions` ({partitions!r}) must be an integer of at least 1, or None.")
    return min(int(partitions), max(n, 1))


def check_embeddings(embeddings: Any, input_dim: int) -> np.ndarray:
    """Return embeddings as an array of floats, which may be memory-mapped."""
    rows = to_array(embeddings)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != input_dim:
        raise ValueError(f"`embeddings` ({rows.dtype}, {rows.shape}) must be floats of the shape (n, {input_dim}).")
    return rows


def delete(segments: Sequence[Segment], ids: Iterable[Hashable], *, missing_ok: bool) -> tuple[list[Segment], int]:
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


def claim_ids(segments: Sequence[Segment], ids: DocIds, *, replace: bool) -> list[Segment]:
    """Return the segments without the documents whose ids new ones have.

    Args:
        segments: of the index.
        ids: of the new documents.
        replace: without it, ids in use are refused.

    Raises:
        ValueError: for ids in use, or of another kind.
    """
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


def relabel(
    segments: Sequence[Segment], ids: Sequence[Hashable] | np.ndarray, documents: pa.Table | None
) -> tuple[Segment, ...]:
    """Return the one segment of a compact index with other ids and texts, under a name of its own."""
    if len(segments) != 1 or segments[0].alive is not None:
        raise ValueError("the index has several segments, or deleted documents. Call `compact` first.")
    (segment,) = segments
    if documents is not None and documents.num_rows != segment.size:
        raise ValueError(f"`documents` has {documents.num_rows:,} rows for {segment.size:,} documents. Give one each.")
    named = DocIds.check(ids, segment.size)
    return (segment._replace(ids=named, documents=documents, name=storage.new_name()),)
