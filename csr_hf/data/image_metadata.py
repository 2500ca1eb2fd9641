"""Read the metadata files of a folder of images: one row for an image, chosen cells as texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from csr_hf.data.columns import cell_text
from csr_hf.data.json_files import Kind
from csr_hf.data.tables import Table

if TYPE_CHECKING:
    from csr_hf.data.arguments import SourceArguments

CAPTIONS = ("text", "caption", "captions", "description")
"""Names of columns that are taken for captions; the first that there is."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"


class Captions(NamedTuple):
    """What a metadata file says of images."""

    file: Path
    names: list[str]
    """Columns beside `file_name`, read or not."""
    rows: list[dict[str, Any]]
    """Column that is read -> text or None, and `path` -> where the image lies, a `Path`."""


def read_captions(file: Path, source: SourceArguments) -> Captions:
    """Read the columns of a metadata file that a source needs; what is missing is None, everything else its text.

    Args:
        file: a csv, jsonl or parquet file with the column `file_name`: paths from the folder of the file.
        source: its `columns`, `keep` and `id_column` are read; without `columns` the first of `CAPTIONS`, or `label`.

    Raises:
        ValueError: if it is damaged, lacks the column, or a row names no file or one outside of the folder; file, row
            (counted from 0) and value are named.
    """
    with _named(file):
        table = Table(file)
        names = table.names()
    if _FILE_NAME not in names:
        raise ValueError(
            f"{file} has no column `file_name`, which names the image of a row. Its columns: {', '.join(names)}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{file} has two columns of one name. Rename one. Its columns: {', '.join(names)}.")
    for reserved in {"path", "image"} & set(names):
        raise ValueError(f"{file} has a column {reserved!r}, which is that of the image itself. Rename it.")
    with _named(file):
        cells = [row for batch in table.batches(_choose(names, source)) for row in batch.to_pylist()]
    rows = [{name: cell_text(value) for name, value in row.items()} for row in cells]
    placed = [{**row, "path": _image_path(file, row[_FILE_NAME], number)} for number, row in enumerate(rows)]
    return Captions(file, [name for name in names if name != _FILE_NAME], placed)


def _choose(names: list[str], source: SourceArguments) -> dict[str, Kind]:
    """Choose the columns to read, and what each is read as."""
    caption = next((name for name in CAPTIONS if name in names), None)
    roles = source.columns or ({"text": caption} if caption else {"label": "label"})
    kinds: dict[str, Kind] = {**dict.fromkeys(source.keep, "shown"), source.id_column: "text"}
    kinds |= {column: "label" if role == "label" else "text" for role, column in roles.items()}
    return {name: kind for name, kind in {**kinds, _FILE_NAME: "text"}.items() if name in names}


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file in errors of reading."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _image_path(file: Path, name: str | None, row: int) -> Path:
    """Return where an image lies that a row names; it must be inside of the folder."""
    if not name:
        raise ValueError(f"{file} names no file in row {row}: `file_name` is empty. Drop that row.")
    path = Path(os.path.normpath(file.parent / name.replace("\\", "/")))
    if "\0" in name or not path.is_relative_to(file.parent):
        raise ValueError(f"{file} names {name!r} in row {row}, which is outside of its folder. Correct `file_name`.")
    return path
