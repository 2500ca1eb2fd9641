"""Columns of a data set by role: found by name, checked, and cut to what a run needs."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.arguments import LAYOUTS, SourceArguments
from csr_hf.data.image_columns import select_images
from csr_hf.data.mapped import as_dataset

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)
_PART_ROWS = 10_000
_NAMED = 10
_NAMED_COLUMNS = 50


def find_columns(present: Sequence[str], source: SourceArguments, option: str = "`data.columns`") -> dict[str, str]:
    """Find the column of every role, by what the user says or by names that are those of roles.

    Args:
        present: names of the columns that there are.
        source: what the user says.
        option: by what the user says it, for messages.

    Returns:
        Role -> column.

    Raises:
        ValueError: if a column is missing, or none is named like a role (those present are named), or there are two of
            the name.
    """
    columns = source.columns or _columns_by_name(present, source.source)
    listed = name_few(present, _NAMED_COLUMNS)
    named = [(f"{option} gives {role}", column) for role, column in columns.items()]
    ids = "" if source.id_column == "id" else "`data.id_column` gives"
    for what, column in [*named, *(("`data.keep` gives", column) for column in source.keep), (ids, source.id_column)]:
        if column not in present and what:
            raise ValueError(f"{what}: {column!r}, but {source.source} has no such column. Its columns: {listed}.")
        if present.count(column) > 1:
            raise ValueError(f"{source.source} has {present.count(column)} columns {column!r}. Rename all but one.")
    roles = {"text", "thumbnail", *columns}
    for column in source.keep:
        if column in roles and columns.get(column) != column:
            raise ValueError(
                f"`data.keep` names {column!r}, which is what the column of a role is called. Rename that column."
            )
    return columns


def select_columns(
    dataset: Dataset,
    columns: dict[str, str],
    max_characters: int | None = None,
    *,
    keep: Sequence[str] = (),
    name: str = "the data",
) -> Dataset:
    """Select one column for each role, named like it, and `id`; drop rows without a text, and log which.

    Texts that need no change stay where they lie, in memory or memory-mapped. A row without an id has its number in
    the data set for one, from 0; ids that occur more than once are kept. The log names both.

    Args:
        dataset: the rows.
        columns: role -> column.
        max_characters: cut texts to this length.
        keep: further columns, as text.
        name: of the data set, for the log.

    Raises:
        ValueError: if a column of texts holds anything else, with the row, one of images no images, or one of labels
            or ids lists.
    """
    from datasets import concatenate_datasets

    texts = {role: column for role, column in columns.items() if role not in ("label", "image")}
    kept = np.ones(len(dataset), bool)
    arrays = {role: _text_column(dataset, column, kept, max_characters) for role, column in texts.items()}
    if "label" in columns:
        arrays["label"] = _label_column(dataset, columns["label"])
    for column in keep:
        arrays.setdefault(column, _kept_column(dataset, column))
    rows, names = np.flatnonzero(kept), row_ids(dataset, name)
    if len(rows) < len(kept):
        logger.warning(
            "%s: %s of %s rows have no text and are left out: %s",
            name,
            f"{len(kept) - len(rows):,}",
            f"{len(kept):,}",
            name_rows(np.flatnonzero(~kept), names if "id" in dataset.column_names else None),
        )
    if "image" not in columns:
        return _make_dataset({"id": names, **arrays}, rows)
    images = select_images(dataset, columns["image"]).select(rows)
    # The rows of both lie side by side only if none of them are chosen from others.
    beside = {name: array.take(rows) for name, array in {"id": names, **arrays}.items()}
    if "id" not in dataset.column_names:
        # An image is known by its file.
        beside["id"] = [cell["path"] or str(row) for row, cell in zip(rows, images["image"], strict=True)]
    return concatenate_datasets([_make_dataset(beside), images], axis=1)


def all_texts(dataset: Dataset, column: str) -> list[str]:
    """Read the text of every row of a column; one without a text has the empty one.

    Raises:
        ValueError: if the column holds anything else, with the row.
    """
    array = _text_column(dataset, column, np.ones(len(dataset), bool), None)
    return [text or "" for text in array.to_pylist()]


def name_rows(rows: Sequence[int] | np.ndarray, ids: Sequence[str] | None = None) -> str:
    """Name the first of some rows, by their ids or by their numbers, as messages do."""
    few = [f"{row:,}" if ids is None else str(ids[int(row)]) for row in rows[: _NAMED + 1]]
    return name_few(few)


def name_few(names: Sequence[str], most: int = _NAMED) -> str:
    """Join the first of some names, as messages do."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def class_names(rows: Dataset) -> list[str]:
    """Return the names of the classes of column `label`, in the order of their numbers.

    Where all are numbers they are sorted as such, else as texts. Null, NaN, the empty text and -1 (where all classes
    are numbers) are none.
    """
    found = {*chain(*(map(_as_text, part.dictionary.to_pylist()) for part in _encode_labels(rows)))}
    names = found - {""}
    values = {name: _as_number(name) for name in names}
    if all(value is not None for value in values.values()):
        return sorted(names - {"-1"}, key=lambda name: (values[name], name))
    return sorted(names)


def number_labels(rows: Dataset) -> np.ndarray | None:
    """Number the classes of column `label`, int64, shape (n,), as `class_names` orders them; -1 for none.

    None without labels.
    """
    if "label" not in rows.column_names:
        return None
    classes = {value: number for number, value in enumerate(class_names(rows))}
    numbers = [np.zeros(0, np.int64)]
    for part in _encode_labels(rows):
        values = [_as_text(value) for value in part.dictionary.to_pylist()]
        of_values = np.array([*(classes.get(value, -1) for value in values), -1], np.int64)
        numbers.append(of_values[part.indices.fill_null(len(values)).to_numpy()])
    return np.concatenate(numbers)


def _encode_labels(rows: Dataset) -> Iterator[pa.DictionaryArray]:
    return (part if hasattr(part, "dictionary") else part.dictionary_encode() for part in _read_arrow(rows, "label"))


def _as_text(value: object) -> str:
    """Write a class, an id or a cell as text; what is missing is the empty one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    # NaN has no place in an order.
    return None if math.isnan(value) else value


def _columns_by_name(present: Sequence[str], source: str) -> dict[str, str]:
    for layout in LAYOUTS:
        if set(layout) <= set(present):
            return {role: role for role in layout}
    if len(present) == 1 and (delimiter := next((mark for mark in ";\t|" if mark in present[0]), None)):
        raise ValueError(
            f"{source} has none of the columns `text`, `image`, `anchor` and `positive`, or `embedding`. Its columns: "
            f"{present[0]}. Its cells are separated by {delimiter!r}: give tabs the ending .tsv, or write commas."
        )
    raise ValueError(
        f"{source} has none of the columns `text`, `image`, `anchor` and `positive`, or `embedding`. "
        f"Its columns: {name_few(present, _NAMED_COLUMNS)}. "
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
    if parts and (pa.types.is_nested(parts[0].type) or pa.types.is_binary(parts[0].type)):
        raise ValueError(f"column {column!r} holds {parts[0].type}, not classes. Give texts or numbers.")
    if names is not None:
        numbers = [part.to_pylist() for part in parts]
        found = [[None if value is None or value < 0 else names[value] for value in part] for part in numbers]
        parts = [pa.array(part, pa.string()) for part in found]
    return pa.chunked_array(parts, parts[0].type if parts else pa.string())


def _kept_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """Read a column as text, see `cell_text`."""
    import pyarrow as pa

    parts = []
    for part in _read_arrow(dataset, column):
        if not pa.types.is_string(part.type):
            part = pa.array([cell_text(value) for value in part.to_pylist()], pa.string())
        parts.append(part)
    return pa.chunked_array(parts, pa.string())


def cell_text(value: object) -> str | None:
    """Write a cell as text: lists joined, numbers by their digits; a null stays one."""
    if isinstance(value, list):
        return " ".join(filter(None, map(_as_text, value)))
    return None if value is None else _as_text(value)


def row_ids(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Read the column `id` as strings; rows without one have their number in the data set, which the log says.

    Ids that occur more than once are kept, and the log names them.

    Args:
        dataset: with or without a column `id`.
        name: of the data set, for the log.

    Raises:
        ValueError: if the ids are neither texts nor numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if "id" not in dataset.column_names:
        starts = range(0, len(dataset), _PART_ROWS)
        ends = [min(start + _PART_ROWS, len(dataset)) for start in starts]
        return pa.chunked_array(
            [pa.array(np.arange(*span).astype(str)) for span in zip(starts, ends, strict=True)], pa.string()
        )
    parts, missing, row = [], [], 0
    for part in _read_arrow(dataset, "id"):
        if pa.types.is_nested(part.type) or pa.types.is_binary(part.type):
            raise ValueError(f"column 'id' of {name} holds {part.type}. Give texts or numbers.")
        if not pa.types.is_string(part.type) or part.null_count or pc.any(pc.equal(part, "")).as_py():
            values = [_as_text(value) for value in part.to_pylist()]
            without = [number for number, value in enumerate(values) if not value]
            missing += [row + number for number in without]
            for number in without:
                values[number] = str(row + number)
            part = pa.array(values, pa.string())
        parts.append(part)
        row += len(part)
    names = pa.chunked_array(parts, pa.string())
    if missing:
        given = Counter(names.to_pylist())
        # A number that is an id of the data is not that of a row without one.
        named = {row: f"row {row}" for row in missing if given[str(row)] > 1}
        if named:
            names = pa.chunked_array(
                [[named.get(row, name) for row, name in enumerate(names.to_pylist())]], pa.string()
            )
        logger.warning(
            "%s: %s rows have no id and go by their numbers: %s", name, f"{len(missing):,}", name_rows(missing)
        )
    _warn_of_repeated(names, name)
    return names


def tell_apart(ids: Sequence[str]) -> list[str]:
    """Give ids that repeat a number behind them from the second on, as in `a`, `a #2`, `a #3`."""
    taken, found, counts = set(ids), list[str](), Counter[str]()
    for one in ids:
        counts[one] += 1
        name = one
        while counts[one] > 1 and (name := f"{one} #{counts[one]}") in taken:
            counts[one] += 1
        found.append(name)
    return found


def _warn_of_repeated(names: pa.ChunkedArray, name: str) -> None:
    if len(names.unique()) == len(names):
        return
    repeated = [id_ for id_, count in Counter(names.to_pylist()).items() if count > 1]
    are = "id is" if len(repeated) == 1 else "ids are"
    logger.warning("%s: %s %s shared by several rows: %s", name, f"{len(repeated):,}", are, name_few(repeated))


def _make_dataset(arrays: Mapping[str, Any], rows: np.ndarray | None = None) -> Dataset:
    """Make a data set of columns, which are not copied, or of chosen rows of them."""
    import pyarrow as pa

    dataset = as_dataset(pa.table(dict(arrays)))
    return dataset if rows is None or len(rows) == len(dataset) else dataset.select(rows)


def _join_text(value: object, column: str, row: int) -> str:
    """Join a text or a list of texts; a missing value becomes an empty text."""
    parts: list[Any] = value if isinstance(value, list) else [value]
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise ValueError(f"column {column!r} holds {type(part).__name__}, not text, in row {row}.")
    return " ".join(part for part in parts if part)
