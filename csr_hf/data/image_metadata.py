"""Read the metadata files of a folder of images: one row for an image, all cells as texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from csr_hf.data.json_files import Kind
from csr_hf.data.tables import Table

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"


class Captions(NamedTuple):
    """What a metadata file says of images."""

    file: Path
    names: list[str]
    """Columns beside `file_name`."""
    rows: list[dict[str, Any]]
    """Column -> text or None, and `path` -> where the image lies, a `Path`."""


def read_captions(file: Path) -> Captions:
    """Read a metadata file; what is missing is None, everything else its text.

    Args:
        file: a csv, jsonl or parquet file with the column `file_name`: paths from the folder of the file.

    Raises:
        ValueError: if it is damaged, lacks the column, or a row names no file or one outside of the folder; file, row
            (counted from 0) and value are named.
    """
    try:
        table = Table(file)
        names = table.names()
        kinds: dict[str, Kind] = dict.fromkeys(names, "text")
        rows = [
            {name: _as_text(value) for name, value in row.items()}
            for batch in table.batches(kinds)
            for row in batch.to_pylist()
        ]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if _FILE_NAME not in names:
        raise ValueError(
            f"{file} has no column `file_name`, which names the image of a row. Its columns: {', '.join(names)}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{file} has two columns of one name. Rename one. Its columns: {', '.join(names)}.")
    for reserved in {"path", "image"} & set(names):
        raise ValueError(f"{file} has a column {reserved!r}, which is that of the image itself. Rename it.")
    placed = [{**row, "path": _image_path(file, row.get(_FILE_NAME), number)} for number, row in enumerate(rows)]
    return Captions(file, [name for name in names if name != _FILE_NAME], placed)


def _image_path(file: Path, name: str | None, row: int) -> Path:
    """Return where an image lies that a row names; it must be inside of the folder."""
    if not name:
        raise ValueError(f"{file} names no file in row {row}: `file_name` is empty. Drop that row.")
    path = Path(os.path.normpath(file.parent / name.replace("\\", "/")))
    if "\0" in name or not path.is_relative_to(file.parent):
        raise ValueError(f"{file} names {name!r} in row {row}, which is outside of its folder. Correct `file_name`.")
    return path


def _as_text(value: Any) -> str | None:
    """Return a cell as a text; several captions are joined."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text for text in map(_as_text, value) if text)
    return json.dumps(value, ensure_ascii=False, default=str)
