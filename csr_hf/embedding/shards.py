"""The files of an embedding cache: Arrow streams of some rows each, written whole, mapped into memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr_hf.plumbing.atomic import write_whole

logger = logging.getLogger(__name__)


def write_shard(path: Path, embeddings: np.ndarray) -> None:
    """Write embeddings as an Arrow file of one record batch, as `datasets` writes it.

    Args:
        path: the file.
        embeddings: float16 or float32, shape (rows, dim).
    """
    import pyarrow as pa
    from datasets import Features, List, Value

    features = Features({"embedding": List(Value(str(embeddings.dtype)), length=embeddings.shape[1])})
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, features.arrow_schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=features.arrow_schema))
    with write_whole(path) as temporary:
        temporary.write_bytes(sink.getvalue())


def read_shard(path: Path, rows: int, dim: int) -> np.ndarray:
    """Map a file into memory, without a copy.

    Args:
        path: of `write_shard`.
        rows: that it must hold.
        dim: their width.

    Returns:
        Shape (rows, dim), read-only.

    Raises:
        ValueError: if the file is damaged, or holds other rows.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            column = pa.ipc.open_stream(source).read_next_batch().column("embedding")
        # Numbers of a damaged file may lead outside of it.
        column.validate()
        if column.null_count or not pa.types.is_fixed_size_list(column.type):
            raise ValueError(f"it holds {column.type} instead of embeddings")
        array = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
        if array.dtype not in (np.float16, np.float32):
            raise ValueError(f"it holds {array.dtype} instead of float16 or float32")
    except (pa.ArrowException, StopIteration, ValueError, AttributeError, OSError, MemoryError, LookupError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"embedding cache file {path} is corrupt: {reason}. {way_out(path.parent)}") from error
    if array.shape != (rows, dim):
        raise ValueError(
            f"embedding cache file {path} is {array.shape}, expected {(rows, dim)}. {way_out(path.parent)}"
        )
    return array


def row_numbers(rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Return the numbers that a slice, a bool mask or numbers choose among `count` rows."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def gather_rows(arrays: Sequence[np.ndarray], starts: np.ndarray, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Read chosen rows of arrays that lie one after the other, and no others.

    Args:
        arrays: each of shape (rows, dim).
        starts: number of the first row of each array, and the number of all rows.
        rows: numbers of rows, in any order.
        dtype: of the result; what is beyond its range becomes infinite.

    Raises:
        IndexError: for a number that is below 0 or beyond the last row.
    """
    # In their order, the rows of an array lie side by side.
    order = np.argsort(rows, kind="stable")
    ends = np.searchsorted(rows[order], starts)
    if ends[-1] - ends[0] < len(rows):
        raise IndexError(f"`rows` go from {rows.min()} to {rows.max()}, but there are rows 0 to {starts[-1] - 1}.")
    found = np.empty((len(rows), arrays[0].shape[1]), dtype)
    for number in map(int, np.flatnonzero(np.diff(ends))):
        chosen = order[ends[number] : ends[number + 1]]
        with np.errstate(over="ignore"):
            found[chosen] = arrays[number][rows[chosen] - starts[number]]
    return found


def way_out(folder: Path) -> str:
    """Say what to do about a damaged cache."""
    return f"Delete {folder} and embed again."


def piece_path(shard: Path, start: int) -> Path:
    """Return the file of some rows of a shard that is not finished; `start` tells them apart."""
    return shard.with_name(f"piece-{shard.stem}-{start:05d}.arrow")


def read_piece(path: Path, rows: int, dim: int) -> np.ndarray | None:
    """Read rows that an interrupted call has kept; None if there are none, or they are damaged."""
    try:
        return read_shard(path, rows, dim) if path.is_file() else None
    except ValueError as error:
        logger.warning("embedded again: %s", error)
        return None


def remove_pieces(shard: Path) -> None:
    """Remove the pieces of a shard that is finished."""
    for path in shard.parent.glob(f"piece-{shard.stem}-*.arrow"):
        path.unlink(missing_ok=True)
