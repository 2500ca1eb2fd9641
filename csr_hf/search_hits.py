"""What a search finds, and what it may find: hits with texts and metadata, and conditions on them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.search.doc_ids import list_ids
from csr_hf.search.documents import TEXT, find_documents, read_rows
from csr_hf.search.index import InvertedIndex
from csr_hf.search_inputs import ID, THUMBNAIL

if TYPE_CHECKING:
    import pyarrow.compute as pc

Filter = Any
"""A condition as text (`lang == "en" and year > 2020`), an expression of pyarrow, ids, or a bool a position."""


class Hit(NamedTuple):
    """One document that was found."""

    id: Any
    """An integer or a text."""
    score: float
    """Cosine of the query and the document, as far as what is stored of it tells, or their dot product if the backbone
    compares by that."""
    text: str | None = None
    """None where the index keeps none."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    """What else is kept of the document, by column."""
    thumbnail: bytes | None = None
    """A small JPEG of an image; None for texts, and where the text is the path of the image."""

    def read(self, column: str) -> Any:
        """Return the value of a column of the documents."""
        return getattr(self, column) if column in (ID, TEXT) else self.metadata[column]


def find_allowed(index: InvertedIndex, condition: str | pc.Expression | Any) -> np.ndarray:
    """Return which documents a condition allows: a bool for every position, or ids."""
    is_condition = isinstance(condition, str) or type(condition).__name__ == "Expression"
    if not is_condition:
        given = list_ids(condition, "filter")
        is_mask = len(given) and all(isinstance(one, bool | np.bool_) for one in given)
        return np.asarray(given, bool) if is_mask else np.array([*given, None], object)[:-1]
    documents = index.documents
    if documents is None:
        raise ValueError("`filter`: the index keeps no metadata of its documents. Build it with `metadata`.")
    return find_documents(condition, documents)


def find_ids(index: InvertedIndex, condition: Filter) -> tuple[np.ndarray, bool]:
    """Return the ids of the documents that fit a condition, and whether they are the condition itself.

    Raises:
        ValueError: as `find_allowed` does, and for another number of bools than positions.
    """
    allowed, alive = find_allowed(index, condition), index.alive
    if allowed.dtype != bool:
        return allowed, True
    if allowed.shape != alive.shape:
        raise ValueError(f"`filter` has {len(allowed):,} bools, there are {len(alive):,} positions. Give one each.")
    # A document that was replaced still has its row, and its id is that of another one.
    return index.ids_of(np.flatnonzero(allowed & alive)), False


def make_hits(index: InvertedIndex, found: list[list[tuple[Any, int, float]]]) -> list[list[Hit]]:
    """Look up what is known of the documents that were found."""
    documents = index.documents
    if documents is None:
        return [[Hit(one, score) for one, _, score in hits] for hits in found]
    answers = []
    for hits in found:
        answer = []
        for (one, _, score), row in zip(hits, read_rows(documents, [hit[1] for hit in hits]), strict=True):
            text = row.pop(TEXT, None)
            # A column of this name may also be the user's own.
            thumbnail = row.pop(THUMBNAIL, None) if isinstance(row.get(THUMBNAIL), bytes | None) else None
            answer.append(Hit(one, score, text, row, thumbnail))
        answers.append(answer)
    return answers
