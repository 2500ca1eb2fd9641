"""The data of a run with its embeddings: what is trained on, what is held out, what is indexed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.codes import subtract_modality_mean
from csr_hf.data.sources import Source
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache import embed_dataset, locate_cache
from csr_hf.embedding.cache_manifest import MANIFEST

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)
_BLOCK_ROWS = 16_384
_MOST_ROWS = 1_000_000


@dataclass
class RunData:
    """All sources of a run.

    Embeddings are given as the backbone makes them; with a `head` of several modalities, each less the mean of its
    modality, as the head takes them (`CSRModel.subtract_modality_mean`).
    """

    backbone: Backbone | None
    """None where all embeddings come with the data."""
    sources: list[Source]

    @property
    def name(self) -> str:
        """Name of the data, for tables."""
        first, others = self.sources[0].name, len(self.sources) - 1
        return f"{first} and {others} more" if others else first

    @property
    def dim(self) -> int:
        """Width of the embeddings, made or to be made."""
        return self.backbone.dim if self.backbone else self.sources[0].dim

    @property
    def modalities(self) -> list[str] | None:
        """Modalities of the data in alphabetical order, if there are several."""
        found = sorted({source.modality(role) for source in self.sources for role in source.roles})
        return found if len(found) > 1 else None

    def check(self) -> None:
        """Check that the sources fit each other.

        Raises:
            ValueError: if embeddings that come with the data differ in width, or stand beside images.
        """
        widths = {source.dim for source in self.sources if source.vectors}
        if self.backbone:
            widths.add(self.backbone.dim)
        if len(widths) > 1:
            raise ValueError(
                f"the sources' embeddings differ in width: {sorted(widths)}. They must be of one backbone."
            )
        is_embedded = {bool(source.vectors) for source in self.sources}
        if len(is_embedded) > 1 and any("image" in source.roles for source in self.sources):
            raise ValueError(
                "`data.sources` has images beside precomputed embeddings, and nothing says whether those are of "
                "images or of texts. Train on one of both."
            )

    def check_head(self, head: CSRModel) -> None:
        """Check that a head can take the data.

        Raises:
            ValueError: if it subtracts the mean of each modality, and embeddings come with the data.
        """
        named = [source.name for source in self.sources if "embedding" in source.roles]
        if head.config.modalities and named:
            raise ValueError(
                f"`data.source` {named[0]} holds precomputed embeddings, and the head subtracts another mean from "
                "images than from texts: nothing says which of both these are. Give the images or texts themselves."
            )

    def embed(self, cache_dir: str | Path, batch_size: int) -> None:
        """Embed every role of every source once, or find its embeddings in a cache.

        Args:
            cache_dir: folder of embedding caches.
            batch_size: inputs in one pass of the backbone.

        Raises:
            ValueError: as `embed_dataset` does.
        """
        for source in self.sources:
            held_out = int(source.held_out.sum())
            logger.info(
                "data       %s: %s rows of %s%s",
                source.name,
                f"{len(source):,}",
                " + ".join(source.roles),
                f", {held_out:,} held out" if held_out else "",
            )
            for role in source.roles:
                if role not in source.vectors and self.backbone is not None:
                    self._embed_role(source, role, self.backbone, cache_dir, batch_size)

    def is_embedded(self, cache_dir: str | Path) -> bool:
        """Return whether every role of every source has embeddings, at hand or whole in a cache."""
        return all(
            role in source.vectors
            or (self.backbone is not None and _is_cached(source, role, self.backbone, cache_dir))
            for source in self.sources
            for role in source.roles
        )

    def modality_mean(self, modality: str) -> np.ndarray:
        """Compute the mean embedding of what may be trained on in a modality, float32, shape (dim,).

        If there are images with texts, theirs alone: the means of both then stand for the same content.
        """
        paired = [source for source in self.sources if source.query_role == "text"]
        total, count = np.zeros(self.dim), 0
        for source in paired or self.sources:
            rows = np.flatnonzero(~source.held_out)
            for role in source.roles:
                if source.modality(role) != modality:
                    continue
                for start in range(0, len(rows), _BLOCK_ROWS):
                    total += source.vectors[role][rows[start : start + _BLOCK_ROWS]].sum(0, dtype=np.float64)
                count += len(rows)
        return (total / max(count, 1)).astype(np.float32)

    def train_embeddings(self, head: CSRModel | None = None, most: int = _MOST_ROWS) -> np.ndarray:
        """Return what may be trained on, every role a row, shape (n, dim): all, or an even sample of about `most`."""
        kept = [(source, role, np.flatnonzero(~source.held_out)) for source in self.sources for role in source.roles]
        every = max(1, -(-sum(len(rows) for _, _, rows in kept) // most))
        return _gather([(source, role, rows[::every]) for source, role, rows in kept], head)

    def documents(self, head: CSRModel | None = None) -> np.ndarray:
        """Return the embeddings of every document, held out or not, shape (n, dim)."""
        every = [(source, source.document_role, np.arange(len(source))) for source in self.sources]
        return _gather(every, head)

    def held_out_documents(self, head: CSRModel | None = None) -> np.ndarray:
        """Return the embeddings of the documents that are held out, those of pairs first."""
        return _gather([(source, source.document_role, _held_out(source)) for source in self._pairs_first], head)

    def held_out_queries(self, head: CSRModel | None = None) -> np.ndarray | None:
        """Return the embeddings of the queries that are held out; document i answers query i. None without pairs."""
        pairs = [(source, source.query_role, _held_out(source)) for source in self._pairs_first if source.query_role]
        return _gather(pairs, head) if pairs else None

    @property
    def has_captions(self) -> bool:
        """Whether any images come with texts."""
        return any(source.query_role == "text" for source in self.sources)

    def held_out_captions(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the embeddings of held-out images and of their captions, row by row, and the captions."""
        pairs = [source for source in self.sources if source.query_role == "text"]
        images, texts = (
            _gather([(source, role, _held_out(source)) for source in pairs], None) for role in ("image", "text")
        )
        captions = []
        for source in pairs:
            if source.rows is not None:
                captions += list(source.rows.select(np.flatnonzero(source.held_out))["text"])
        return images, texts, captions

    def show_documents(self) -> Dataset | None:
        """Return columns `id` and `text` of every document, and `thumbnail` if there are images.

        None where some source holds embeddings alone.
        """
        from datasets import concatenate_datasets

        parts = []
        for source in self.sources:
            part = source.show_documents()
            if part is None:
                return None
            if len(self.sources) > 1:
                ids = [f"{source.name}:{number}" for number in part["id"]]
                part = part.remove_columns("id").add_column("id", ids).select_columns(["id", *part.column_names[1:]])
            parts.append(part)
        return concatenate_datasets(parts)

    @property
    def _pairs_first(self) -> list[Source]:
        return sorted(self.sources, key=lambda source: source.query_role is None)

    @staticmethod
    def _embed_role(source: Source, role: str, backbone: Backbone, cache_dir: str | Path, batch_size: int) -> None:
        cache = embed_dataset(
            source.inputs(role),
            backbone,
            cache_dir,
            prompt_name=prompt_name(role, backbone),
            task=source.task(role),
            batch_size=batch_size,
            label=f"embedding {role}",
        )
        found = "found in" if cache.reused else "->"
        logger.info("embeddings %s: %s x %d %s %s", role, f"{len(cache):,}", cache.dim, found, cache.folder)
        source.vectors[role] = cache


def prompt_name(role: str, backbone: Backbone) -> str | None:
    """Return the prompt of a role; None for that of its task."""
    # What the user says of a role goes before what is said of its task.
    return role if role in backbone.settings.prompts else None


def _is_cached(source: Source, role: str, backbone: Backbone, cache_dir: str | Path) -> bool:
    prompt = backbone.prompt(prompt_name(role, backbone), source.task(role))
    folder, _ = locate_cache(source.inputs(role), backbone, cache_dir, prompt, source.task(role), "float16")
    return (folder / MANIFEST).is_file()


def _held_out(source: Source) -> np.ndarray:
    return np.flatnonzero(source.held_out)


def _gather(parts: Sequence[tuple[Source, str, np.ndarray]], head: CSRModel | None) -> np.ndarray:
    """Read chosen rows of roles into one array, less the mean of their modality for a head of several.

    Args:
        parts: source, role and numbers of rows.
        head: what the embeddings are for; None leaves them as they are.
    """
    shifts = head is not None and bool(head.config.modalities)
    dtypes = [source.vectors[role][:0].dtype for source, role, _ in parts]
    shape = sum(len(rows) for _, _, rows in parts), parts[0][0].dim
    found, filled = np.empty(shape, np.float32 if shifts else np.result_type(*dtypes)), 0
    for source, role, rows in parts:
        # In blocks: nothing is in memory twice.
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = source.vectors[role][rows[start : start + _BLOCK_ROWS]]
            if head is not None:
                block = subtract_modality_mean(head, block, source.modality(role))
            found[filled : filled + len(block)] = block
            filled += len(block)
    return found
