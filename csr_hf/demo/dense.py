"""Embeddings of the documents of an index, for the dense model's side of the page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.data.columns import tell_apart
from csr_hf.plumbing.foreign import one_line
from csr_hf.runs.embedding import embed_loaded, load
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search_inputs import ID, TEXT

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.data.run_data import RunData
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.search.index import InvertedIndex

logger = logging.getLogger(__name__)

MOST_EMBEDDED = 2000
"""Documents that are embedded when the page opens, where no cache holds their embeddings."""
MOST_BYTES = 2 << 30
"""Of float32 embeddings in memory; without them there is no dense side."""


class Dense(NamedTuple):
    """Embeddings as the backbone makes them, or why there are none."""

    rows: np.ndarray | None
    """By position in the index, float32, shape (n, input_dim); those of deleted documents may be zero."""
    reason: str = ""
    """Why there are none, as a sentence."""


def find_dense(files: RunFolder, index: InvertedIndex, backbone: Backbone) -> Dense:
    """Find the embeddings of all documents: beside the index, in the run's cache, or by embedding a few of them.

    Args:
        files: of the run.
        index: of the documents, with their texts.
        backbone: that embeds queries.
    """
    size = len(index.alive)
    if size * backbone.dim * 4 > MOST_BYTES:
        return Dense(None, f"The embeddings of {size:,} documents are too large for this page.")
    if files.dense.is_file():
        saved = _read_saved(files, size, backbone.dim)
        if saved is not None:
            return Dense(saved)
    return _match_documents(files, index, backbone)


def save_dense(files: RunFolder, rows: np.ndarray) -> None:
    """Write embeddings beside an index, as float16.

    Raises:
        OSError: if the folder cannot be written.
    """
    np.save(files.dense, rows.astype(np.float16), allow_pickle=False)


def _read_saved(files: RunFolder, size: int, width: int) -> np.ndarray | None:
    try:
        rows = np.load(files.dense, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        logger.warning("%s cannot be read (%s), so that it is passed over", files.dense, one_line(str(error)))
        return None
    if rows.shape != (size, width) or rows.dtype.kind != "f":
        logger.warning("%s holds the embeddings of other documents, so that it is passed over", files.dense)
        return None
    return np.asarray(rows, np.float32)


def _match_documents(files: RunFolder, index: InvertedIndex, backbone: Backbone) -> Dense:
    """Look documents up in the data of the run by id and text; embed those that are not there, if they are few."""
    documents = index.documents
    if documents is None or TEXT not in documents.column_names:
        return Dense(None, "The index keeps no texts to embed.")
    known, vectors = _read_cache(files, backbone)
    size = documents.num_rows
    rows = np.zeros((size, backbone.dim), np.float32)
    ids, texts, alive = index.ids_of(np.arange(size)).tolist(), documents[TEXT].to_pylist(), index.alive
    places = [known.get((str(one), text), -1) for one, text in zip(ids, texts, strict=True)]
    found = np.array(places, np.int64)
    if vectors is not None and (found >= 0).any():
        rows[found >= 0] = vectors[found[found >= 0]]
    missing = np.flatnonzero((found < 0) & alive).tolist()
    if len(missing) > MOST_EMBEDDED:
        return Dense(
            None,
            f"No cache holds the embeddings of {len(missing):,} documents, which would take long to embed: "
            "there is no dense side.",
        )
    if missing:
        inputs = _inputs_of(documents, missing)
        if inputs is None:
            return Dense(None, "The pictures themselves are not here, so that they cannot be embedded.")
        logger.info("embeddings of %s documents are in no cache: they are made now", f"{len(missing):,}")
        rows[missing] = backbone.embed(inputs, task="document", show_progress_bar=False)
    return Dense(rows)


def _inputs_of(documents: pa.Table, positions: Sequence[int]) -> list[str] | None:
    """Return the texts of documents; None if one has none."""
    texts = [documents[TEXT][position].as_py() for position in positions]
    return texts if all(isinstance(text, str) and text.strip() for text in texts) else None


def _read_cache(files: RunFolder, backbone: Backbone) -> tuple[dict[tuple[str, Any], int], np.ndarray | None]:
    """Return the row of each document of the run's data, by id and text, and their embeddings."""
    if not files.recipe.is_file():
        return {}, None
    recipe = RunRecipe.load(files.recipe, {"output_dir": str(files.path)})
    try:
        data = load(recipe, backbone=backbone)
        if not data.is_embedded(recipe.embeddings_dir):
            return {}, None
        embed_loaded(recipe, data)
        return _read_documents(data)
    # The data of a run may have moved, changed, or need a package that is not there: the page does without.
    except (ValueError, OSError, ImportError) as error:
        logger.info("the data of the run is not used: %s", one_line(str(error))[:200])
        return {}, None


def _read_documents(data: RunData) -> tuple[dict[tuple[str, Any], int], np.ndarray | None]:
    shown = data.show_documents()
    if shown is None:
        return {}, None
    ids = [str(one) for one in shown[ID][:]]
    if len(set(ids)) < len(ids):
        ids = tell_apart(ids)
    places = {pair: row for row, pair in enumerate(zip(ids, shown[TEXT][:], strict=True))}
    return places, data.documents()
