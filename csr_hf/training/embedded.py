"""The data of a run with its embeddings: what is trained on, what is held out, what is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.backbone import Backbone
from csr_hf.training.data import SourceData
from csr_hf.training.embeddings import EmbeddingCache
from csr_hf.training.rows import TrainingSource

if TYPE_CHECKING:
    from datasets import Dataset

_FIELDS = {"positive": "positives", "negative": "negatives"}


@dataclass
class EmbeddedSource:
    """A source and the embeddings of its roles."""

    data: SourceData
    caches: dict[str, EmbeddingCache]
    """By role; empty where the embeddings came with the data."""

    def embeddings(self, role: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Embeddings of a role, or those that a bool mask chooses, as stored."""
        if self.data.embeddings is not None:
            return self.data.embeddings if rows is None else self.data.embeddings[rows]
        return self.caches[role].to_numpy(rows)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        if self.data.embeddings is not None:
            return self.data.embeddings.shape[1]
        return next(iter(self.caches.values())).dim

    @property
    def training(self) -> TrainingSource:
        """What may be trained on."""
        rows, data = ~self.data.held_out, self.data
        arrays = {_FIELDS.get(role, "embeddings"): self.embeddings(role, rows) for role in data.roles}
        labels = None if data.labels is None else data.labels[rows]
        return TrainingSource(**arrays, labels=labels, weight=data.weight)


@dataclass
class Embedded:
    """All sources of a run."""

    backbone: Backbone | None
    """None where all embeddings came with the data."""
    sources: Sequence[EmbeddedSource]

    @property
    def name(self) -> str:
        """Of the data, for tables."""
        first, others = self.sources[0].data.name, len(self.sources) - 1
        return f"{first} and {others} more" if others else first

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.sources[0].dim

    @cached_property
    def training(self) -> list[TrainingSource]:
        """What may be trained on, by source."""
        return [source.training for source in self.sources]

    @property
    def train(self) -> np.ndarray:
        """Everything that may be trained on, shape (n, dim)."""
        return np.concatenate([array for source in self.training for array in source.arrays])

    @property
    def documents(self) -> np.ndarray:
        """Embeddings of every document, held out or not."""
        return np.concatenate([source.embeddings(source.data.document_role) for source in self.sources])

    @property
    def held_out_documents(self) -> np.ndarray:
        """Embeddings of the documents that are held out; those of pairs first."""
        return np.concatenate(
            [source.embeddings(source.data.document_role, source.data.held_out) for source in self._pairs_first]
        )

    @property
    def held_out_queries(self) -> np.ndarray | None:
        """Embeddings of the queries that are held out, row i answered by document i; None if there are no pairs."""
        pairs = [source for source in self._pairs_first if source.data.is_pairs]
        if not pairs:
            return None
        return np.concatenate([source.embeddings("anchor", source.data.held_out) for source in pairs])

    def texts(self) -> Dataset | None:
        """Columns `id` and `text` of every document; None where there is none to show."""
        from datasets import concatenate_datasets

        if any(source.data.embeddings is not None for source in self.sources):
            return None
        parts = []
        for source in self.sources:
            role, name = source.data.document_role, source.data.name
            part = source.data.dataset.select_columns(["id", role]).rename_columns({role: "text"})
            if len(self.sources) > 1:
                ids = [f"{name}:{number}" for number in part["id"]]
                part = part.remove_columns("id").add_column("id", ids).select_columns(["id", "text"])
            parts.append(part)
        return concatenate_datasets(parts)

    @property
    def _pairs_first(self) -> list[EmbeddedSource]:
        return sorted(self.sources, key=lambda source: not source.data.is_pairs)
