"""Read a folder of images, its captions or its classes, and account for every file in it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.data.columns import name_few
from csr_hf.data.image_metadata import CAPTIONS, METADATA, Captions, read_captions
from csr_hf.data.readers import is_saved_dataset
from csr_hf.embedding.images import SUFFIXES, missing_reader

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.data.arguments import SourceArguments

logger = logging.getLogger(__name__)

# Written by file managers and archivers, also on disks that are shared.
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
_BEYOND = "beyond `limit`"


@dataclass
class ImageFolder:
    """The images of a folder as rows, and what became of every other file."""

    folder: Path
    pictures: int = 0
    """Files that are images by their names, or that a metadata file names."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why images are left out -> their paths within the folder."""
    notes: list[str] = field(default_factory=list)
    """What else is to be said, a line each."""
    rows: Dataset | None = None
    """Column `image`, the columns of metadata files, empty where no role needs them, and `label` of sub-folders."""

    def leave_out(self, reason: str, path: Path) -> None:
        """Count an image that is not used."""
        self.left_out.setdefault(reason, []).append(str(path.relative_to(self.folder)))

    @property
    def names_left_out(self) -> tuple[str, ...]:
        """Paths of all images that are left out, within the folder."""
        return tuple(chain(*self.left_out.values()))

    def report(self, rows: Dataset, broken: Sequence[str]) -> None:
        """Log one line that accounts for all images, then the names of those that are left out, and notes.

        Args:
            rows: with the column `image`, those that are used.
            broken: paths of images that cannot be opened.
        """
        if broken:
            self.left_out["broken"] = [os.path.relpath(path, self.folder) for path in broken]
        used = len({cell["path"] for cell in rows["image"]})
        logger.log(logging.WARNING if self.left_out else logging.INFO, "images     %s", self.count(used))
        for reason, names in self.left_out.items():
            if reason != _BEYOND:
                logger.info("left out   %s: %s", reason, name_few(names))
        for note in self.notes:
            logger.warning("images     %s", note)

    def count(self, used: int) -> str:
        """Say in one line how many images are used, and why others are not."""
        parts = [f"{used:,} used", *(f"{len(names):,} {reason}" for reason, names in self.left_out.items())]
        others = self.pictures - used - sum(map(len, self.left_out.values()))
        parts += [f"{others:,} without a caption"] if others else []
        return f"{self.pictures:,} picture{'' if self.pictures == 1 else 's'}: {', '.join(parts)}"


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder holds files that are images by their names, and is no saved data set."""
    return folder.is_dir() and not is_saved_dataset(folder) and any(map(_is_picture, _walk(folder)))


def read_image_folder(source: SourceArguments) -> ImageFolder:
    """Read the images of a folder, or of its sub-folder that is named like the split, as they are now.

    Where there are files `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, their rows are the rows; column
    `file_name` names the image from where the file lies. Without any, every image is a row, and sub-folders of one
    depth are its classes. Files of file managers and hidden ones are passed over.

    Args:
        source: its `source` is the folder. Without `columns`, the first column of `CAPTIONS` is called `text`.

    Raises:
        ValueError: if no image is left, or a metadata file is damaged, names no files or files outside of the folder.
    """
    folder = Path(source.source).expanduser().absolute()
    folder = folder / source.split if (folder / source.split).is_dir() else folder
    found, tables, others = ImageFolder(folder), [], []
    pictures: list[Path] = []
    for path in _walk(folder):
        if path.name in METADATA:
            tables.append(read_captions(path, source))
        elif _is_picture(path):
            pictures.append(path)
        else:
            others.append(path)
    rows = _caption_rows(found, tables, pictures, others) if tables else [{"path": path} for path in pictures]
    found.pictures = len(pictures)
    is_readable = {path: _is_readable(found, path) for path in dict.fromkeys(row["path"] for row in rows)}
    rows = [row for row in rows if is_readable[row["path"]]]
    if others:
        suffixes = Counter(path.suffix.lower() or "no ending" for path in others).most_common()
        listed = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
        found.notes.append(f"passed over: {len(others):,} other files ({listed})")
    if not rows:
        raise ValueError(f"{source.source} has no image to read. {found.count(0)}. {' '.join(found.notes)}".strip())
    if not tables:
        _add_classes(rows)
    if source.limit is not None:
        kept = rows[: source.limit]
        for path in dict.fromkeys(row["path"] for row in rows).keys() - {row["path"] for row in kept}:
            found.leave_out(_BEYOND, path)
        rows = kept
    found.rows = _make_dataset(rows, [name for table in tables for name in table.names], source, found)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order, through links too, but for those of systems and hidden ones."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(files):
            if name[0] != "." and name.lower() not in _OF_SYSTEMS:
                yield Path(place, name)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _caption_rows(found: ImageFolder, tables: list[Captions], pictures: list[Path], others: list[Path]) -> list[dict]:
    """Return the rows of metadata files whose image is there; account for images without a row and the reverse."""
    rows: list[dict] = []
    named: set[Path] = set()
    known, there = set(pictures), {*pictures, *others}
    for table in tables:
        missing = [row["path"] for row in table.rows if row["path"] not in there]
        rows += [row for row in table.rows if row["path"] in there]
        named.update(row["path"] for row in table.rows)
        if missing:
            few = name_few([path.name for path in missing])
            found.notes.append(f"{table.file.name} names {len(missing):,} files that are not there: {few}")
    # What a row names is an image, whatever its ending.
    pictures += [path for path in others if path in named]
    others[:] = [path for path in others if path not in named]
    where = ", ".join(sorted({table.file.name for table in tables}))
    for path in sorted(known - named):
        found.leave_out(f"not in {where}", path)
    return rows


def _is_readable(found: ImageFolder, path: Path) -> bool:
    """Tell whether a file can be opened at all; account for one that cannot."""
    command = missing_reader(path.suffix)
    reason = (
        "linked to nothing" if not path.exists() else f"{path.suffix[1:].upper()} ({command})" if command else None
    )
    if reason:
        found.leave_out(reason, path)
    return reason is None


def _add_classes(rows: list[dict]) -> None:
    """Add the names of the sub-folders as classes, if all images lie equally deep in several of them."""
    if len({row["path"].parent.name for row in rows}) > 1 and len({len(row["path"].parts) for row in rows}) == 1:
        for row in rows:
            row["label"] = row["path"].parent.name


def _make_dataset(rows: list[dict], names: list[str], source: SourceArguments, found: ImageFolder) -> Dataset:
    from datasets import Dataset, Features, Image, Value

    names = list(dict.fromkeys([*names, *(["label"] if "label" in rows[0] else [])]))
    columns: dict[str, list] = {"image": [{"bytes": None, "path": str(row["path"])} for row in rows]}
    caption = next((name for name in CAPTIONS if name in names), None)
    for name in names:
        is_caption = name == caption and not source.columns
        columns["text" if is_caption else name] = [row.get(name) for row in rows]
    if names and caption is None and "label" not in names and not source.columns:
        found.notes.append(
            f"no captions are used: none of the columns {', '.join(names)} is called {', '.join(CAPTIONS)} or label. "
            f"Name the one: --data.columns '{{image: image, text: {names[0]}}}'"
        )
    features = Features({name: Image(decode=False) if name == "image" else Value("string") for name in columns})
    return Dataset.from_dict(columns, features=features)
