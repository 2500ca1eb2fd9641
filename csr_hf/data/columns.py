"""Columns of a data set by role: found by name, checked, and cut to what a run needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.arguments import LAYOUTS, SourceArguments
from csr_hf.data.image_columns import select_images

if TYPE_CHECKING:
    from datasets import Dataset


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

    Args:
        dataset: the rows.
        columns: role -> column.
        max_characters: cut texts to this length.

    Raises:
        ValueError: if a column of texts holds anything else, with the row, or one of images no images.
    """
    from datasets import Dataset, concatenate_datasets

    ids = [str(value) for value in dataset["id"]] if "id" in dataset.column_names else None
    labels = {role: _label_names(dataset, column) for role, column in columns.items() if role == "label"}
    texts = {
        role: [_join_text(value, column, row) for row, value in enumerate(dataset[column])]
        for role, column in columns.items()
        if role not in ("label", "image")
    }
    rows = [row for row in range(len(dataset)) if all(texts[role][row].strip() for role in texts)]
    selected = {role: [column[row][:max_characters] for row in rows] for role, column in texts.items()}
    selected |= {role: [column[row] for row in rows] for role, column in labels.items()}
    images = select_images(dataset, columns["image"]).select(rows) if "image" in columns else None
    if images is not None and ids is None:
        # An image is known by its file.
        names = [cell["path"] or str(row) for row, cell in zip(rows, images["image"], strict=True)]
    else:
        names = [ids[row] if ids else str(row) for row in rows]
    columns_of_text = Dataset.from_dict({"id": names, **selected})
    return columns_of_text if images is None else concatenate_datasets([columns_of_text, images], axis=1)


def number_labels(rows: Dataset) -> np.ndarray | None:
    """Number the classes of column `label` in sorted order, int64, shape (n,); -1 for none; None without labels."""
    if "label" not in rows.column_names:
        return None
    values = ["" if value is None or value == -1 else str(value) for value in rows["label"]]
    classes = {value: number for number, value in enumerate(sorted({*values} - {""}))}
    return np.array([classes.get(value, -1) for value in values], np.int64)


def embedding_column(dataset: Dataset, column: str) -> np.ndarray:
    """Read a column of embeddings, float32, shape (n, input_dim).

    Raises:
        ValueError: if the rows are not lists of floats of one length.
    """
    try:
        embeddings = np.array(dataset.with_format("numpy")[column][:], dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {column!r} does not hold embeddings of one width: {error}.") from error
    if embeddings.ndim != 2:
        raise ValueError(f"column {column!r} does not hold embeddings (lists of floats) of one width.")
    return embeddings


def _columns_by_name(present: Sequence[str], source: str) -> dict[str, str]:
    for layout in LAYOUTS:
        if set(layout) <= set(present):
            return {role: role for role in layout}
    raise ValueError(
        f"{source} has none of the columns `text`, `anchor` and `positive`, or `embedding`. "
        f"Its columns: {', '.join(present)}. "
        "Say which is which with `data.columns`, for example {anchor: question, positive: answer}."
    )


def _label_names(dataset: Dataset, column: str) -> list:
    """Read classes by their names, where the data set knows them."""
    name_of = getattr(dataset.features[column], "int2str", None)
    values = list(dataset[column])
    if name_of is None:
        return values
    return [None if value is None or value < 0 else name_of(value) for value in values]


def _join_text(value: object, column: str, row: int) -> str:
    """Join a text or a list of texts; a missing value becomes an empty text."""
    parts: list[Any] = value if isinstance(value, list) else [value]
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise ValueError(f"column {column!r} holds {type(part).__name__}, not text, in row {row}.")
    return " ".join(part for part in parts if part)
