"""The data of a run with its embeddings: what is trained on, what is held out, what is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.sources import SourceData
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.training.rows import TrainingSource

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.modeling_csr import CSRModel

# The first role of a layout is what is embedded; of an image and its text, the text is the positive.
_FIELDS = {"negative": "negatives"}


@dataclass
class EmbeddedSource:
    """A source and the embeddings of its roles."""

    data: SourceData
    caches: dict[str, EmbeddingCache]
    """By role; empty where the embeddings came with the data."""
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    """What is subtracted from the embeddings of a modality; see `Embedded.centered`."""

    def embeddings(self, role: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Embeddings of a role, or those that a bool mask chooses, as stored or centered."""
        if self.data.embeddings is not None:
            return self.data.embeddings if rows is None else self.data.embeddings[rows]
        found = self.caches[role].to_numpy(rows)
        bias = self.biases.get(self.data.modality(role))
        return found if bias is None else found.astype(np.float32) - bias

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        if self.data.embeddings is not None:
            return self.data.embeddings.shape[1]
        return next(iter(self.caches.values())).dim

    def training(self, modalities: Sequence[str] | None) -> TrainingSource:
        """What may be trained on, by a head of these modalities."""
        rows, data = ~self.data.held_out, self.data
        first, *others = data.roles
        arrays: dict[str, Any] = {_FIELDS.get(role, "positives"): self.embeddings(role, rows) for role in others}
        labels = None if data.labels is None else data.labels[rows]
        places = [modalities.index(data.modality(role)) if modalities else 0 for role in (first, *others[:1])]
        return TrainingSource(
            self.embeddings(first, rows),
            **arrays,
            labels=labels,
            weight=data.weight,
            modality=places[0],
            positive_modality=places[-1],
        )


@dataclass
class Embedded:
    """All sources of a run."""

    backbone: Backbone | None
    """None where all embeddings came with the data."""
    sources: Sequence[EmbeddedSource]
    head_modalities: list[str] | None = None
    """Those of the head that the embeddings are centered for."""

    @property
    def name(self) -> str:
        """Of the data, for tables."""
        first, others = self.sources[0].data.name, len(self.sources) - 1
        return f"{first} and {others} more" if others else first

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.sources[0].dim

    @property
    def modalities(self) -> list[str] | None:
        """Those of the data, in alphabetical order, if there are several."""
        found = sorted({source.data.modality(role) for source in self.sources for role in source.data.roles})
        return found if len(found) > 1 else None

    def mean(self, modality: str) -> np.ndarray:
        """Mean embedding of what may be trained on in a modality, float32, shape (dim,).

        If there are images with texts, theirs alone: the means of both then stand for the same content.
        """
        paired = [source for source in self.sources if source.data.query_role == "text"]
        parts = [
            source.embeddings(role, ~source.data.held_out)
            for source in paired or self.sources
            for role in source.data.roles
            if source.data.modality(role) == modality
        ]
        return np.concatenate(parts).mean(0, dtype=np.float64).astype(np.float32)

    def centered(self, head: CSRModel) -> Embedded:
        """The same with embeddings as the head takes them, see `CSRModel.subtract_modality_mean`."""
        if not head.config.modalities:
            return self
        biases = dict(zip(head.config.modalities, head.modality_bias.float().cpu().numpy(), strict=True))
        sources = [replace(source, biases=biases) for source in self.sources]
        return replace(self, sources=sources, head_modalities=head.config.modalities)

    @cached_property
    def training(self) -> list[TrainingSource]:
        """What may be trained on, by source."""
        return [source.training(self.head_modalities) for source in self.sources]

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
        pairs = [(source, source.data.query_role) for source in self._pairs_first if source.data.query_role]
        if not pairs:
            return None
        return np.concatenate([source.embeddings(role, source.data.held_out) for source, role in pairs if role])

    @property
    def has_captions(self) -> bool:
        """Whether any images come with texts."""
        return any(source.data.query_role == "text" for source in self.sources)

    def held_out_captions(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Embeddings of the images that are held out and of their captions, row by row, and the captions."""
        pairs = [source for source in self.sources if source.data.query_role == "text"]
        images, texts = (
            np.concatenate([source.embeddings(role, source.data.held_out) for source in pairs])
            for role in ("image", "text")
        )
        rows = [source.data.dataset.select(np.flatnonzero(source.data.held_out)) for source in pairs]
        return images, texts, [text for part in rows for text in part["text"]]

    def texts(self) -> Dataset | None:
        """Columns `id` and `text` of every document, and `thumbnail` if there are images; None where nothing shows."""
        from datasets import concatenate_datasets

        if any(source.data.embeddings is not None for source in self.sources):
            return None
        parts = []
        for source in self.sources:
            part = source.data.to_show()
            if len(self.sources) > 1:
                ids = [f"{source.data.name}:{number}" for number in part["id"]]
                part = part.remove_columns("id").add_column("id", ids).select_columns(["id", *part.column_names[1:]])
            parts.append(part)
        return concatenate_datasets(parts)

    @property
    def _pairs_first(self) -> list[EmbeddedSource]:
        return sorted(self.sources, key=lambda source: source.data.query_role is None)
