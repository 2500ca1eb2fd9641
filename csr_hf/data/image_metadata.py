"""Read the metadata files of a folder of images: one row for an image, all cells as texts."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
    reader = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[file.suffix]
    try:
        rows = list(reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read: {error}. Save it as UTF-8, one row for an image.") from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows and _FILE_NAME not in names:
        raise ValueError(
            f"{file} has no column `file_name`, which names the image of a row. Its columns: {', '.join(names)}."
        )
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


def _read_csv(file: Path) -> Iterator[dict[str, str | None]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise ValueError(f"two columns have one name: {', '.join(names)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells for {len(names)} columns")
            yield {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _read_jsonl(file: Path) -> Iterator[dict[str, str | None]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            # Numbers keep their digits as they are written.
            row = json.loads(line, parse_int=str, parse_float=str)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds no object")
            yield {name: _as_text(value) for name, value in row.items()}


def _read_parquet(file: Path) -> Iterator[dict[str, str | None]]:
    import pyarrow.parquet as pq

    for row in pq.read_table(file, partitioning=None).to_pylist():
        yield {name: _as_text(value) for name, value in row.items()}


def _as_text(value: Any) -> str | None:
    """Return a cell as a text; several captions are joined."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text for text in map(_as_text, value) if text)
    return json.dumps(value, ensure_ascii=False, default=str)
