"""Read parquet and Arrow: chosen columns, with the types that they have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.data.mapped import map_batches, take_rows

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 4096


class ParquetFile:
    """A parquet file.

    Args:
        path: the file.

    Raises:
        ValueError: if it is none.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with _named_errors():
            self._names = pq.read_schema(path).names

    def names(self, limit: int | None = None) -> list[str]:
        """Return the names of the columns."""
        return list(self._names)

    def batches(self, names: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows in blocks, with the chosen columns alone.

        Raises:
            ValueError: if the file is damaged.
        """
        import pyarrow.parquet as pq

        with _named_errors(), pq.ParquetFile(self.path) as file:
            yield from _check_batches(file.iter_batches(_BATCH_ROWS, columns=list(names)), list(names))


class ArrowFile:
    """A file of Arrow IPC, as a stream (`datasets`) or with a footer (feather, polars' write_ipc).

    Args:
        path: the file.

    Raises:
        ValueError: if it is none.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        with path.open("rb") as file:
            self._has_footer = file.read(6) == b"ARROW1"
        with _named_errors(), pa.memory_map(str(path)) as mapped:
            self._schema = self._open(mapped).schema

    def names(self, limit: int | None = None) -> list[str]:
        """Return the names of the columns."""
        return list(self._schema.names)

    def batches(self, names: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Yield the blocks of the file, with the chosen columns alone.

        Raises:
            ValueError: if the file is damaged.
        """
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name) for name in names])
        with _named_errors():
            reader = self._open(pa.memory_map(str(self.path)), options)
            yield from _check_batches(_read_batches(reader), list(names))

    def read(self, names: Collection[str], limit: int | None) -> pa.Table:
        """Read the chosen columns of at most `limit` rows where they lie, unless they are to be converted.

        Those of a compressed file are in memory.
        """
        import pyarrow as pa

        batches = take_rows(self.batches(names), limit)
        if any(_is_other_text(self._schema.field(name).type) for name in names):
            return map_batches(batches)
        found = list(batches)
        if not found:
            raise ValueError("it has no rows.")
        return pa.Table.from_batches(found)

    def _open(
        self, mapped: pa.MemoryMappedFile, options: pa.ipc.IpcReadOptions | None = None
    ) -> pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader:
        import pyarrow as pa

        open_ = pa.ipc.open_file if self._has_footer else pa.ipc.open_stream
        return open_(mapped, options=options)


def _read_batches(
    reader: pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader,
) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "get_batch"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _check_batches(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield chosen columns, texts as strings; what reads them later trusts that the arrays fit their types."""
    import pyarrow as pa

    row = 0
    for batch in batches:
        for name in names:
            try:
                batch.column(name).validate(full=True)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"column {name!r} is damaged between rows {row} and {row + len(batch) - 1}: "
                    f"{str(error).splitlines()[0]}. Write the file again."
                ) from error
        yield _use_plain_strings(batch.select(names))
        row += len(batch)


def _is_other_text(kind: pa.DataType) -> bool:
    """Tell whether a type is one of strings, but not the common one, which is read where it lies."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.types.is_string(kind.value_type) or _is_other_text(kind.value_type)
    return pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _use_plain_strings(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Turn other types of strings into the common one."""
    import pyarrow as pa

    columns, fields = [], []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if _is_other_text(field.type):
            if pa.types.is_dictionary(field.type):
                # Views are decoded by no kernel: their few different values are converted first.
                values = column.dictionary.cast(pa.string())
                column = pa.DictionaryArray.from_arrays(column.indices, values).dictionary_decode()
            column, field = column.cast(pa.string()), field.with_type(pa.string())
        columns.append(column)
        fields.append(field)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, batch.schema.metadata))


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn the errors of pyarrow into those of wrong input."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"it is damaged, or not of the format that its name says: {reason[0] if reason else type(error).__name__}"
        ) from error
