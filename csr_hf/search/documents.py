"""Texts and metadata of documents, by position, as Arrow tables that may lie in memory-mapped files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csr_hf.plumbing.atomic import check_space
from csr_hf.plumbing.settings import suggest
from csr_hf.search.filter_expressions import ARROW_ERRORS, to_expression
from csr_hf.search.filters import parse_filter

TEXT = "text"
"""Column of the documents' texts."""


def make_documents(texts: Sequence[str | None] | None, metadata: Any, n: int) -> pa.Table | None:
    """Put what is kept of documents into one table.

    Args:
        texts: one a document; None keeps none.
        metadata: a table, a data frame, a mapping of columns, or a list of mappings, one a document; None keeps none.
        n: documents.

    Returns:
        None where there is neither.

    Raises:
        ValueError: for another number of rows than documents, a column of its own called "text" beside texts, and
            values of several types in one column, which is named.
    """
    columns: dict[str, Any] = {}
    if texts is not None:
        columns[TEXT] = _to_array(TEXT, list(texts))
    for name, values in _columns_of(metadata).items():
        if name in columns:
            raise ValueError(f"`metadata` has a column {name!r}, as the texts are called. Rename it.")
        columns[name] = values if isinstance(values, pa.Array | pa.ChunkedArray) else _to_array(name, values)
    for name, values in columns.items():
        if len(values) != n:
            raise ValueError(
                f"`metadata`: {name!r} holds {len(values)} values for {n} documents. Give one a document."
            )
    return pa.table({name: _plain(values) for name, values in columns.items()}) if columns else None


def append_documents(tables: Sequence[pa.Table], new: pa.Table | None, n: int) -> pa.Table | None:
    """Give new documents the columns of those that are there; missing ones are None.

    Args:
        tables: of the documents that are there; none of them where nothing is kept of documents.
        new: of the new documents.
        n: how many these are.

    Raises:
        ValueError: for a column that the others have not, the nearest one is named, or values of another type.
    """
    if not tables:
        if new is not None:
            raise ValueError("`metadata`: the index keeps no texts or metadata of its documents. Build it with them.")
        return None
    known, columns = tables[0].schema, dict[str, Any]()
    for name in new.column_names if new is not None else ():
        if name not in known.names:
            raise ValueError(
                f"`metadata` has a column {name!r}, which the index has not. {suggest(name, known.names)}"
            )
    for field in known:
        if new is None or field.name not in new.column_names:
            columns[field.name] = pa.nulls(n, field.type)
            continue
        try:
            # A column that has held nothing yet may hold anything.
            columns[field.name] = new[field.name] if pa.types.is_null(field.type) else new[field.name].cast(field.type)
        except ARROW_ERRORS as error:
            raise ValueError(
                f"`metadata`: {field.name!r} holds {new[field.name].type}, in the index it holds {field.type}. "
                "Convert it."
            ) from error
    return pa.table(columns)


def find_documents(condition: str | pc.Expression, table: pa.Table) -> np.ndarray:
    """Return which documents fit a condition, bool, shape (n,).

    Args:
        condition: as `parse_filter` reads it, or an expression of pyarrow.
        table: of the documents.

    Raises:
        ValueError: for what is no condition, unknown columns, and values that a column cannot be compared with.
    """
    import pyarrow.dataset as ds

    try:
        if not isinstance(condition, pc.Expression):
            condition = to_expression(parse_filter(condition, table.column_names), table)
        found = ds.dataset(table).to_table(columns={"fits": condition})["fits"]
        if not pa.types.is_boolean(found.type):
            raise ValueError(f"`filter` gives {found.type}, not true or false for each document.")
        return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), bool)
    except ARROW_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"`filter` cannot be applied to {', '.join(table.column_names)}: {reason}") from error


def read_rows(table: pa.Table, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Read documents as mappings of column to value.

    Raises:
        ValueError: for texts that are damaged.
    """
    try:
        return [{name: table[name][at].as_py() for name in table.column_names} for at in positions]
    except (UnicodeDecodeError, *ARROW_ERRORS) as error:
        raise ValueError(
            f"the texts of the documents are damaged ({error}). Copy or build the index again."
        ) from error


def write_documents(path: Path, table: pa.Table) -> dict[str, Any]:
    """Write a table as one Arrow file; size and checksum are returned.

    Args:
        path: a file that does not exist yet.
        table: the documents of a segment.
    """
    # On a full disk, Arrow would end the process.
    check_space(path, table.nbytes)
    with path.open("xb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
        file.flush()
    with path.open("rb") as written:
        os.fsync(written.fileno())
        checksum = hashlib.file_digest(written, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"bytes": path.stat().st_size, "checksum": checksum}


def parse_documents(content: np.ndarray) -> pa.Table:
    """Find the table in the bytes of a file; every number that leads to a value is checked.

    Args:
        content: of the whole file, uint8; it is not copied.

    Raises:
        ValueError: for what is no such table, or one that leads outside of itself. The message says so of the file.
    """
    try:
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        table.validate()
        for name in table.column_names:
            for chunk in table[name].chunks:
                _check_values(chunk)
    except (OSError, ValueError, *ARROW_ERRORS) as error:
        raise ValueError(f"holds no table that can be read ({' '.join(str(error).split())[:120]})") from error
    return table


def _check_values(chunk: pa.Array) -> None:
    """Check where values of texts begin; other nested values are checked one by one."""
    if pa.types.is_primitive(chunk.type) or pa.types.is_null(chunk.type):
        return
    wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
    if not (wide or pa.types.is_string(chunk.type) or pa.types.is_binary(chunk.type)):
        chunk.validate(full=True)
        return
    _, begins, data = chunk.buffers()
    if begins is None or not len(chunk):
        return
    places: np.ndarray = np.frombuffer(begins, np.int64 if wide else np.int32)[
        chunk.offset : chunk.offset + len(chunk) + 1
    ]
    size = 0 if data is None else data.size
    if len(places) <= len(chunk) or places[0] < 0 or places[-1] > size or (places[1:] < places[:-1]).any():
        raise ValueError("texts lie outside of the file")


def _columns_of(metadata: Any) -> dict[str, Any]:
    if metadata is None:
        return {}
    if isinstance(metadata, pa.Table):
        return {name: metadata[name] for name in metadata.column_names}
    if isinstance(metadata, Mapping):
        found = {str(name): values for name, values in metadata.items()}
    elif hasattr(metadata, "to_arrow"):  # A data frame of polars.
        found = _columns_of(metadata.to_arrow())
    elif hasattr(metadata, "column_names"):  # A data set.
        found = {name: list(metadata[name]) for name in metadata.column_names}
    elif hasattr(metadata, "columns"):  # A data frame.
        found = _columns_of(pa.Table.from_pandas(metadata, preserve_index=False))
    else:
        rows = list(metadata)
        if not all(isinstance(row, Mapping) for row in rows):
            raise ValueError("`metadata` must be a table, a mapping of columns, or one mapping a document.")
        found = {
            str(name): [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)
        }
    return found


def _to_array(name: str, values: Any) -> pa.Array:
    if isinstance(values, set | frozenset | str | bytes):
        what = "a set, which has no order" if isinstance(values, set | frozenset) else "one text"
        raise ValueError(f"`metadata`: {name!r} is {what}. Give a list, a value for each document.")
    try:
        return pa.array(values if isinstance(values, np.ndarray) else list(values), from_pandas=True)
    except (TypeError, ValueError, UnicodeError, *ARROW_ERRORS) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"`metadata`: {name!r} holds values that do not go together ({reason}). Convert them."
        ) from error


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in types that filters compare: texts without dictionaries or views."""
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_string_view(values.type):
        # Offsets of 64 bits, since a segment may hold more than 2 GB of texts.
        values = values.cast(pa.large_string())
    return values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
