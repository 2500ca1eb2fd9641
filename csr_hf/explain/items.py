"""What a head is explained by: texts, or pictures with their captions, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.codes import subtract_modality_mean

if TYPE_CHECKING:
    from csr_hf.data.run_data import RunData
    from csr_hf.data.sources import Source
    from csr_hf.modeling_csr import CSRModel

MOST_ITEMS = 100_000
"""Texts that are read by default: an even sample of more."""


@dataclass(frozen=True)
class Items:
    """Texts, or pictures with captions, each with its embedding.

    Raises:
        ValueError: if they are not as many.
    """

    texts: Sequence[str]
    """Of a picture its caption."""
    embeddings: np.ndarray
    """As the head takes them, less the mean of their modality, shape (n, input_dim)."""
    thumbnails: Sequence[bytes | None] | None = None
    """Small JPEG files of pictures."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.embeddings):
            raise ValueError(f"{len(self.texts)} texts for {len(self.embeddings)} embeddings. Give one each.")

    def __len__(self) -> int:
        return len(self.texts)

    def without_copies(self) -> Items:
        """Leave out all but the first of equal embeddings: what an equal text says is known already."""
        rows = np.ascontiguousarray(self.embeddings, np.float16)
        _, first = np.unique(rows.view(f"V{rows.shape[1] * 2}").ravel(), return_index=True)
        return self.take(np.sort(first))

    def take(self, rows: np.ndarray) -> Items:
        """Return some of the items."""
        thumbnails = None if self.thumbnails is None else [self.thumbnails[row] for row in rows]
        return Items([self.texts[row] for row in rows], self.embeddings[rows], thumbnails)


def gather_items(data: RunData, head: CSRModel, most: int = MOST_ITEMS) -> Items:
    """Gather the texts of a run, or its pictures with their captions or the names of their classes.

    Args:
        data: of the run, embedded.
        head: that takes the embeddings.
        most: items; of more every second, third, ... is taken.

    Raises:
        ValueError: if there are neither texts nor captions.
    """
    parts = [part for source in data.sources for part in _roles_with_words(source)]
    if not parts:
        raise ValueError(
            "the run has neither texts nor captions, so that its latents cannot be named. Give pictures a column of "
            "texts or of classes (`data.columns`)."
        )
    every = max(1, -(-sum(len(source) for source, _, _ in parts) // most))
    texts: list[str] = []
    embeddings, thumbnails = [], []
    for source, role, words in parts:
        rows = np.arange(0, len(source), every)
        texts += [words[int(row)] for row in rows]
        embeddings.append(subtract_modality_mean(head, source.vectors[role][rows], source.modality(role)))
        shown = source.show_documents() if role == "image" else None
        thumbnails += [None] * len(rows) if shown is None else list(shown.select(rows)["thumbnail"])
    pictures = thumbnails if any(thumbnail is not None for thumbnail in thumbnails) else None
    return Items(texts, np.concatenate(embeddings), pictures).without_copies()


def _roles_with_words(source: Source) -> list[tuple[Source, str, Sequence[str]]]:
    """Return the roles of a source that words say something of, and those words, row by row."""
    if source.rows is None:
        return []
    if "image" not in source.roles:
        return [(source, role, source.rows[role][:]) for role in source.roles if role in source.rows.column_names]
    if "text" in source.roles:
        return [(source, "image", source.rows["text"][:])]
    if source.labels is not None and source.class_names:
        names = source.class_names
        return [(source, "image", [names[label] if label >= 0 else "" for label in source.labels])]
    return []
