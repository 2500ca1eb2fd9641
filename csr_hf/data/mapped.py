"""Columns on disk, mapped into memory: what is read of a file needs no memory of its own."""

from __future__ import annotations

import mmap
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.plumbing.atomic import FULL

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def map_batches(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Write record batches to a file without a name, and map it: the system drops it with the last reference.

    The file lies where `datasets` keeps its own (HF_DATASETS_CACHE): there is room for data.

    Args:
        batches: at least one, all of one schema.

    Raises:
        ValueError: if there are none, or no room for them.
    """
    import datasets
    import pyarrow as pa

    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("it has no rows.")
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_stream(file, first.schema) as writer:
                for batch in chain([first], remaining):
                    writer.write_batch(batch)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ValueError(
            f"its columns do not fit into {folder} ({error.strerror}). Make room there, or choose another folder by "
            "HF_DATASETS_CACHE."
        ) from error
    return pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()


def take_rows(batches: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    """Yield record batches until there are `limit` rows; all of them without a limit."""
    taken = 0
    for batch in batches:
        if limit is not None and taken + len(batch) >= limit:
            yield batch.slice(0, limit - taken)
            return
        taken += len(batch)
        yield batch


def as_dataset(table: pa.Table) -> Dataset:
    """Make a data set of a table, which is neither copied nor hashed."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # By itself it would hash all rows for a fingerprint.
    return Dataset(InMemoryTable(table), fingerprint=uuid.uuid4().hex)
