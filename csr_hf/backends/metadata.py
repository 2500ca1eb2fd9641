"""Metadata of documents as fields of a backend: names, types and values that every engine takes as they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csr_hf.plumbing.settings import suggest
from csr_hf.search.documents import make_documents

FieldType = Literal["text", "integer", "number", "boolean"]
TEXT, NUMERIC = "text", "numeric text"
_TYPES = {TEXT: pa.large_string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_KINDS = [*_TYPES, NUMERIC]
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")
_ERRORS = (pa.ArrowException, OverflowError)


def field_name(column: str, prefix: str = "meta") -> str:
    """Return what a column is called in a backend: every engine takes it, and no two columns share it."""
    if re.fullmatch("[A-Za-z0-9_]{1,40}", column):
        return f"{prefix}_{column}"
    digest = hashlib.blake2b(column.encode(), digest_size=4).hexdigest()
    return f"{prefix}_{re.sub('[^A-Za-z0-9_]', '_', column[:30])}__{digest}"


def number_name(column: str) -> str:
    """Return what the numbers of a column of texts are called in a backend."""
    return field_name(column, "number")


def fields_of(columns: Mapping[str, str]) -> dict[str, FieldType]:
    """Return the fields of a backend that hold columns of some kinds, name -> type.

    Dates and times are integers: units since the epoch. Beside texts that are numbers, a second field holds those.
    """
    fields: dict[str, FieldType] = {}
    for column, kind in columns.items():
        if kind == NUMERIC:
            fields |= {field_name(column): "text", number_name(column): "number"}
        else:
            fields[field_name(column)] = kind if kind in _TYPES else "integer"  # type: ignore[assignment]
    return fields


def arrow_field(column: str, kind: str) -> pa.Field:
    """Return the column of a table that a kind stands for.

    Raises:
        ValueError: for a kind that there is not.
    """
    if kind in _KINDS:
        return pa.field(column, _TYPES.get(kind, pa.large_string()))
    zoned = _ZONED.fullmatch(kind)
    try:
        found = pa.timestamp(zoned[1], zoned[2]) if zoned else pa.type_for_alias(kind)
    except ValueError:
        found = pa.null()
    if not pa.types.is_temporal(found):
        raise ValueError(f"the collection has a column {column!r} of an unknown kind {kind!r:.80}. Create it again.")
    return pa.field(column, found)


def read_metadata(metadata: Any, n: int) -> tuple[dict[str, str], pa.Table | None]:
    """Read metadata in any form that `SearchIndex.build` takes.

    Args:
        metadata: a table, a data frame, a mapping of columns, or a list of mappings; None for none.
        n: documents.

    Returns:
        The kind of each column, and the table; None without columns.

    Raises:
        ValueError: for another number of rows, values that do not go together, and columns of nested values.
    """
    table = make_documents(None, metadata, n)
    return ({}, None) if table is None else ({name: _kind(table, name) for name in table.column_names}, table)


def to_fields(table: pa.Table | None, columns: Mapping[str, str], n: int) -> pa.Table:
    """Turn the columns of documents into fields of a backend; columns that are left out are None.

    Args:
        table: of the documents; None has no column.
        columns: of the collection, name -> kind.
        n: documents.

    Raises:
        ValueError: for a column that the collection has not, the nearest one is named, and values that it does not
            take: other types, numbers that are not finite, zero characters.
    """
    for name in [] if table is None else table.column_names:
        if name not in columns:
            advice = suggest(name, list(columns)) if columns else "It was created without metadata."
            raise ValueError(f"`metadata` has a column {name!r}, which the collection has not. {advice}")
    fields, types = {}, fields_of(columns)
    for column, kind in columns.items():
        name = field_name(column)
        values = pa.nulls(n) if table is None or column not in table.column_names else table[column]
        fields[name] = _convert(values, column, kind).cast(_TYPES[types[name]])
        if kind == NUMERIC:
            fields[number_name(column)] = _numbers(fields[name], column)
    # Rows have a number even where they have no field.
    return pa.table(fields) if fields else pa.table({"": pa.nulls(n)}).select([])


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the fields of each document that have a value, name -> value."""
    if not table.column_names:
        yield from ({} for _ in range(table.num_rows))
        return
    for row in table.to_pylist():
        yield {name: value for name, value in row.items() if value is not None}


def check_length(table: pa.Table, ids: np.ndarray, most: int | None, product: str) -> None:
    """Raise ValueError for a text that is longer than a backend takes, in bytes of UTF-8."""
    for name in table.column_names if most is not None and table.num_rows else ():
        if pa.types.is_large_string(table[name].type):
            sizes = pc.fill_null(pc.binary_length(table[name]), 0)
            if (longest := pc.max(sizes).as_py()) > most:
                one = ids.tolist()[pc.index(sizes, longest).as_py()]
                raise ValueError(
                    f"`metadata`: {name.partition('_')[2]!r} of document {one!r} has {longest:,} bytes; {product} "
                    f"takes {most:,}. Shorten it, or leave the column out."
                )


def _kind(table: pa.Table, name: str) -> str:
    """Tell what a column holds.

    Raises:
        ValueError: for nested values and bytes.
    """
    found = table[name].type
    if pa.types.is_large_string(found) or pa.types.is_null(found):
        return NUMERIC if _hold_numbers(table[name]) else TEXT
    if pa.types.is_boolean(found):
        return "boolean"
    if pa.types.is_integer(found):
        return "integer"
    if pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    if pa.types.is_temporal(found) and not pa.types.is_interval(found):
        return str(found)
    raise ValueError(f"`metadata`: {name!r} holds {found}, which no backend filters by. Leave it out.")


def _convert(values: pa.ChunkedArray, column: str, kind: str) -> pa.ChunkedArray:
    wanted = arrow_field(column, kind).type
    try:
        if pa.types.is_boolean(values.type) != pa.types.is_boolean(wanted) and not pa.types.is_null(values.type):
            raise pa.ArrowInvalid(f"{values.type} instead of {wanted}")
        found = values if pa.types.is_decimal(values.type) else values.cast(wanted)
    except _ERRORS as error:
        raise ValueError(
            f"`metadata`: {column!r} holds {values.type}, in the collection it holds {wanted}. Convert it."
        ) from error
    if pa.types.is_temporal(wanted):
        return found.cast(pa.int32() if wanted.bit_width == 32 else pa.int64()).cast(pa.int64())
    if kind == "number":
        found = found.cast(pa.float64(), safe=False)
        if not _is_finite(found):
            raise ValueError(f"`metadata`: {column!r} holds NaN or infinity, which backends refuse. Write None.")
    if pa.types.is_large_string(wanted) and pc.any(pc.match_substring(found, "\0")).as_py():
        raise ValueError(f"`metadata`: {column!r} holds a zero character, which backends refuse. Remove it.")
    return found


def _hold_numbers(texts: pa.ChunkedArray) -> bool:
    """Tell whether all texts that are not empty are finite numbers, and there is one."""
    try:
        found = _parse(texts)
    except _ERRORS:
        return False
    return found.null_count < len(found) and _is_finite(found)


def _numbers(texts: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    try:
        found = _parse(texts)
    except _ERRORS as error:
        raise ValueError(
            f"`metadata`: {column!r} holds a text that is no number ({' '.join(str(error).split())[:80]}); all others "
            "of the collection are. Correct it, or create the collection again."
        ) from error
    if not _is_finite(found):
        raise ValueError(f"`metadata`: {column!r} holds NaN or infinity, which backends refuse. Leave it empty.")
    return found


def _parse(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read texts as numbers, as filters do; empty ones are None."""
    texts = texts.cast(pa.large_string())
    is_empty = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.if_else(is_empty, pa.scalar(None, pa.large_string()), texts).cast(pa.float64())


def _is_finite(numbers: pa.ChunkedArray) -> bool:
    return pc.all(pc.is_finite(numbers)).as_py() is not False
