"""The files of an embedding cache: Arrow streams of some rows each, written whole, mapped into memory."""

from __future__ import annotations

import logging
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
        array = column.values.to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
    except (pa.ArrowInvalid, StopIteration, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"embedding cache file {path} is corrupt: {error}. {way_out(path.parent)}") from error
    if array.shape != (rows, dim):
        raise ValueError(
            f"embedding cache file {path} is {array.shape}, expected {(rows, dim)}. {way_out(path.parent)}"
        )
    return array


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
