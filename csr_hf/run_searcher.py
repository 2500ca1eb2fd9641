"""Questions to a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csr_hf.encoder import CSREncoder, project_queries
from csr_hf.recipe import EvaluationArguments, Recipe
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from datasets import Dataset

_MODEL, _INDEX, _DOCUMENTS, _RECIPE = "model", "index", "documents.parquet", "recipe.yaml"
_BY_EXACTNESS: tuple[Literal["float16", "int8", "binary"], ...] = ("float16", "int8", "binary")


class Hit(NamedTuple):
    """One answer."""

    score: float
    """Cosine of the dense query and the document as the second stage knows it: a copy, or decoded."""
    id: str
    text: str
    thumbnail: bytes | None = None
    """A small JPEG of an image; None for texts, and where the id is the path of the image."""


class RunSearcher:
    """Questions to a finished run: its head, index and texts.

    Args:
        encoder: backbone and head.
        index: of the documents' codes.
        documents: rows with `id` and `text`; the index calls them 0, 1, ...
        settings: query_k_factor and candidates of a search that does not say; `load` takes those of the recipe.
    """

    def __init__(
        self, encoder: CSREncoder, index: InvertedIndex, documents: Dataset, settings: EvaluationArguments
    ) -> None:
        self.settings = settings
        self.encoder = encoder
        self.index = index
        self.documents = documents

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> RunSearcher:
        """Open the output folder of `csr-hf run` or `csr-hf index`.

        Raises:
            ValueError: if a part of it is missing or damaged, or the index was built with another head.
        """
        from datasets import Dataset

        folder = Path(folder)
        for name in (_MODEL, _INDEX, _DOCUMENTS, _RECIPE):
            if not (folder / name).exists():
                raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
        index = InvertedIndex.load(folder / _INDEX)
        encoder = CSREncoder.from_pretrained(folder / _MODEL, device=device)
        if index.head != encoder.fingerprint:
            raise ValueError(
                f"{folder / _INDEX} was built with another head ({index.head}) than {folder / _MODEL} "
                f"({encoder.fingerprint}). Run the recipe again, or index the documents with this head."
            )
        settings = Recipe.load(folder / _RECIPE).evaluation
        return cls(encoder, index, Dataset.from_parquet(str(folder / _DOCUMENTS)), settings)

    def search(
        self, question: Any, top_k: int = 5, *, query_k: int | None = None, candidates: int | None = None
    ) -> list[Hit]:
        """The best documents for a question, rescored by the most exact copy that the index keeps, or by the codes.

        Args:
            question: any text, or an image or its path, if the backbone takes images.
            top_k: answers wanted.
            query_k: latents of the query; default as the run was measured.
            candidates: documents that the first stage hands to the second; default as the run was measured.
        """
        head = self.encoder.head
        query_k = min(query_k or self.settings.query_k_factor * self.index.k, head.config.hidden_dim)
        embedding = self.encoder.centre(self.encoder.embed(question, prompt_name="query"), question)
        embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        projections = project_queries(head, embedding)
        found = self.index.search(
            projections.codes(query_k),
            top_k,
            rescore=next((kind for kind in _BY_EXACTNESS if kind in self.index.copies), "self"),
            candidates=max(candidates or self.settings.candidates, top_k),
            projections=projections,
            embeddings=embedding,
        )
        hits = []
        for position, number, score in zip(found.positions[0], found.ids[0], found.scores[0], strict=True):
            if position >= 0:
                if not 0 <= number < len(self.documents):
                    raise ValueError(f"the index has a document {number}, but there are {len(self.documents)} texts.")
                row = self.documents[int(number)]
                hits.append(Hit(float(score), row["id"], row["text"], row.get("thumbnail")))
        return hits
