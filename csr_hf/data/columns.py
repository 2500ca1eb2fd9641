"""Columns of a data set by role: found by name, checked, and cut to what a run needs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.arguments import LAYOUTS, SourceArguments
from csr_hf.data.image_columns import select_images

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_PART_ROWS = 10_000


def find_columns(dataset: Dataset, source: SourceArguments) -> dict[str, str]:
    """Find the column of every role, by what the user says or by names that are those of roles.

    Returns:
        Role -> column.

    Raises:
        ValueError: if a column is missing, or none is named like a role; those present are named.
    """
    present = dataset.column_names
    columns = source.columns or _columns_by_name(present, source.source)
    for role, column in columns.items():
        if column not in present:
            raise ValueError(
                f"`data.columns` gives {role}: {column!r}, but {source.source} has no such column. "
                f"Its columns: {', '.join(present)}."
            )
    return columns


def select_columns(dataset: Dataset, columns: dict[str, str], max_characters: int | None = None) -> Dataset:
    """Select one column for each role, named like it, and `id`; drop rows with an empty text.

    Texts that need no change stay where they lie, in memory or memory-mapped.

    Args:
        dataset: the rows.
        columns: role -> column.
        max_characters: cut texts to this length.

    Raises:
        ValueError: if a column of texts holds anything else, with the row, or one of images no images.
    """
    from datasets import concatenate_datasets

    texts = {role: column for role, column in columns.items() if role not in ("label", "image")}
    kept = np.ones(len(dataset), bool)
    arrays = {role: _text_column(dataset, column, kept, max_characters) for role, column in texts.items()}
    if "label" in columns:
        arrays["label"] = _label_column(dataset, columns["label"])
    rows, names = np.flatnonzero(kept), _row_names(dataset)
    if "image" not in columns:
        return _make_dataset({"id": names, **arrays}, rows)
    images = select_images(dataset, columns["image"]).select(rows)
    # The rows of both lie side by side only if none of them are chosen from others.
    beside = {name: array.take(rows) for name, array in {"id": names, **arrays}.items()}
    if "id" not in dataset.column_names:
        # An image is known by its file.
        beside["id"] = [cell["path"] or str(row) for row, cell in zip(rows, images["image"], strict=True)]
    return concatenate_datasets([_make_dataset(beside), images], axis=1)


def number_labels(rows: Dataset) -> np.ndarray | None:
    """Number the classes of column `label` in sorted order, int64, shape (n,); -1 for none; None without labels."""
    if "label" not in rows.column_names:
        return None
    parts = [part.dictionary_encode() for part in _read_arrow(rows, "label")]
    found = [["" if value in (None, -1) else str(value) for value in part.dictionary.to_pylist()] for part in parts]
    classes = {value: number for number, value in enumerate(sorted({*chain(*found)} - {""}))}
    numbers = [np.zeros(0, np.int64)]
    for part, values in zip(parts, found, strict=True):
        of_values = np.array([*(classes.get(value, -1) for value in values), -1], np.int64)
        numbers.append(of_values[part.indices.fill_null(len(values)).to_numpy()])
    return np.concatenate(numbers)


def _columns_by_name(present: Sequence[str], source: str) -> dict[str, str]:
    for layout in LAYOUTS:
        if set(layout) <= set(present):
            return {role: role for role in layout}
    raise ValueError(
        f"{source} has none of the columns `text`, `anchor` and `positive`, or `embedding`. "
        f"Its columns: {', '.join(present)}. "
        "Say which is which with `data.columns`, for example {anchor: question, positive: answer}."
    )


def _read_arrow(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    """Yield a column in parts of at most `_PART_ROWS` rows, where they lie unless the rows were shuffled or chosen."""
    if dataset._indices is None:
        chunks = dataset.data.column(column).chunks
    else:
        shuffled = dataset.select_columns([column]).with_format("arrow")
        starts = range(0, len(dataset), _PART_ROWS)
        chunks = (chunk for start in starts for chunk in shuffled[start : start + _PART_ROWS].column(column).chunks)
    for chunk in chunks:
        for start in range(0, len(chunk), _PART_ROWS):
            yield chunk.slice(start, _PART_ROWS)


def _text_column(dataset: Dataset, column: str, kept: np.ndarray, max_characters: int | None) -> pa.ChunkedArray:
    """Read a column of texts, or of lists of texts, which are joined; unmark the rows of `kept` without a text."""
    import pyarrow as pa

    parts, row = [], 0
    for part in _read_arrow(dataset, column):
        texts = [_join_text(value, column, row + place) for place, value in enumerate(part.to_pylist())]
        kept[row : row + len(texts)] &= [bool(text.strip()) for text in texts]
        is_plain = max_characters is None and pa.types.is_string(part.type)
        parts.append(part if is_plain else pa.array([text[:max_characters] for text in texts], pa.string()))
        row += len(texts)
    return pa.chunked_array(parts, None if parts else pa.string())


def _label_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """Read classes, by their names where the data set knows them."""
    import pyarrow as pa

    names = getattr(dataset.features[column], "names", None)
    parts = list(_read_arrow(dataset, column))
    if names is not None:
        numbers = [part.to_pylist() for part in parts]
        found = [[None if value is None or value < 0 else names[value] for value in part] for part in numbers]
        parts = [pa.array(part, pa.string()) for part in found]
    return pa.chunked_array(parts, parts[0].type if parts else pa.string())


def _row_names(dataset: Dataset) -> pa.ChunkedArray:
    """Read the column `id` as strings; without one, number the rows."""
    import pyarrow as pa

    if "id" in dataset.column_names:
        found = _read_arrow(dataset, "id")
        parts = [
            part
            if pa.types.is_string(part.type) and not part.null_count
            else pa.array([str(value) for value in part.to_pylist()], pa.string())
            for part in found
        ]
    else:
        starts = range(0, len(dataset), _PART_ROWS)
        ends = [min(start + _PART_ROWS, len(dataset)) for start in starts]
        parts = [pa.array(np.arange(*span).astype(str)) for span in zip(starts, ends, strict=True)]
    return pa.chunked_array(parts, pa.string())


def _make_dataset(arrays: Mapping[str, Any], rows: np.ndarray | None = None) -> Dataset:
    """Make a data set of columns, which are not copied, or of chosen rows of them."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # By itself it would hash all rows for a fingerprint.
    dataset = Dataset(InMemoryTable(pa.table(dict(arrays))), fingerprint=uuid.uuid4().hex)
    return dataset if rows is None or len(rows) == len(dataset) else dataset.select(rows)


def _join_text(value: object, column: str, row: int) -> str:
    """Join a text or a list of texts; a missing value becomes an empty text."""
    parts: list[Any] = value if isinstance(value, list) else [value]
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise ValueError(f"column {column!r} holds {type(part).__name__}, not text, in row {row}.")
    return " ".join(part for part in parts if part)
