"""Thumbnails for the pictures of a Space, whose image files stay on the machine of the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.data.sources import load_sources
from csr_hf.embedding.images import ImageColumn, make_thumbnail
from csr_hf.plumbing.foreign import one_line
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search_inputs import TEXT, THUMBNAIL

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.search.index import InvertedIndex

logger = logging.getLogger(__name__)

MOST_BYTES = 200_000_000
"""Of all thumbnails of a Space together, which has 1 GB for its files."""


class _Picture(NamedTuple):
    """Where a picture is read from, and its path, if its id is one."""

    images: ImageColumn
    row: int
    path: str | None


def add_thumbnails(files: RunFolder, index: InvertedIndex) -> list[str]:
    """Add thumbnails to the documents of a compact index that are known by the paths of their image files alone.

    Pictures are read from the data that the recipe names, never from a path that an id of the index holds: an index
    may be of a stranger, and whatever it names would be published. Ids that are paths lose the folders that all share.

    Args:
        files: of the run.
        index: of its documents; changed in memory.

    Returns:
        What the user should know, one sentence each.
    """
    documents = index.documents
    if documents is None or THUMBNAIL not in documents.column_names:
        return []
    thumbnails = documents[THUMBNAIL].to_pylist()
    ids = index.ids_of(np.arange(documents.num_rows)).tolist()
    missing = [at for at, thumbnail in enumerate(thumbnails) if thumbnail is None]
    known = _find_pictures(files) if missing else {}
    size, added = sum(len(thumbnail) for thumbnail in thumbnails if thumbnail is not None), 0
    for at in missing:
        made = _make(known[ids[at]]) if ids[at] in known and size < MOST_BYTES else None
        if made is not None:
            thumbnails[at], size, added = made, size + len(made), added + 1
    if known:
        index.relabel(*_rename(ids, documents, thumbnails, known))
    if added:
        logger.info("pictures   thumbnails of %s image files go along, %.1f MB", f"{added:,}", size / 1e6)
    return _explain(len(missing) - added, size)


def _find_pictures(files: RunFolder) -> dict[str, _Picture]:
    """Find the pictures of the run's data, by the ids that their documents have."""
    if not files.recipe.is_file():
        return {}
    try:
        sources = load_sources(RunRecipe.load(files.recipe, {"output_dir": str(files.path)}).data)
    # The data of a run may have moved or changed: the Space does without.
    except (ValueError, OSError, ImportError) as error:
        logger.info("the data of the run is not used: %s", one_line(str(error))[:200])
        return {}
    found: dict[str, _Picture] = {}
    for source in sources:
        if source.rows is None or source.document_role != "image":
            continue
        images = ImageColumn(source.rows, "image")
        for row, one in enumerate(map(str, source.rows["id"][:])):
            path = one if images.encoded(row).get("path") == one else None
            found[f"{source.name}:{one}" if len(sources) > 1 else one] = _Picture(images, row, path)
    return found


def _make(picture: _Picture) -> bytes | None:
    """Make a thumbnail; None where the file is gone or broken."""
    try:
        return make_thumbnail(picture.images[picture.row])
    except ValueError as error:
        logger.warning("%s", one_line(str(error)))
        return None


def _rename(
    ids: Sequence[Any], documents: pa.Table, thumbnails: Sequence[bytes | None], known: Mapping[str, _Picture]
) -> tuple[list[Any], pa.Table]:
    """Return ids and documents with thumbnails, and without the folders of this machine where ids are paths."""
    import pyarrow as pa

    paths = [picture.path for picture in known.values() if picture.path is not None and os.path.isabs(picture.path)]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    names = {path: os.path.relpath(path, shared) for path in paths}
    found = {one: picture.path for one, picture in known.items() if picture.path in names}
    new = [one.removesuffix(found[one]) + names[found[one]] if one in found else one for one in ids]
    # A document that was added later may have the name of one.
    new = new if len(set(new)) == len(new) else list(ids)
    columns = {name: documents[name] for name in documents.column_names}
    columns[THUMBNAIL] = pa.array(thumbnails, pa.large_binary())
    # A picture without words is shown by its path.
    columns[TEXT] = pa.array([names.get(text, text) for text in documents[TEXT].to_pylist()], documents[TEXT].type)
    return new, pa.table(columns)


def _explain(missing: int, size: int) -> list[str]:
    """Word a note on pictures that stay here."""
    if not missing:
        return []
    reason = (
        f"thumbnails take at most {MOST_BYTES // 10**6} MB"
        if size >= MOST_BYTES
        else "the data of the run does not have them"
    )
    return [f"{missing:,} documents have no picture in the Space: {reason}."]
