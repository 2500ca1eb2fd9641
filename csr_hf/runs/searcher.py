"""Questions to a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csr_hf.codes import project_queries
from csr_hf.encoder import CSREncoder
from csr_hf.runs.recipe import EvaluationArguments, RunRecipe
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.backends import Backend

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
        index: of the documents' codes, or a search engine that holds them.
        documents: rows with `id` and `text`; the index calls them 0, 1, ...
        settings: query_k_factor and candidates of a search that does not say; `load` takes those of the recipe.
    """

    def __init__(
        self,
        encoder: CSREncoder,
        index: InvertedIndex | Backend,
        documents: Dataset,
        settings: EvaluationArguments,
    ) -> None:
        self.settings = settings
        self.encoder = encoder
        self.index = index
        self.documents = documents

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None, engine: Backend | None = None) -> RunSearcher:
        """Open the output folder of `csr-hf run` or `csr-hf index`.

        Args:
            folder: with head and texts, and the index.
            device: of backbone and head; default the best at hand.
            engine: the search engine that `csr-hf index --engine` put the codes into.

        Raises:
            ValueError: if a part of it is missing or damaged, or the index was built with another head.
        """
        from datasets import Dataset

        folder = Path(folder)
        for name in (_MODEL, *([_INDEX] if engine is None else []), _DOCUMENTS, _RECIPE):
            if not (folder / name).exists():
                raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
        index = InvertedIndex.load(folder / _INDEX) if engine is None else engine
        made_with = index.head if isinstance(index, InvertedIndex) else index.schema.head
        encoder = CSREncoder.from_pretrained(folder / _MODEL, device=device)
        if made_with != encoder.fingerprint:
            where = f"{folder / _INDEX} was built" if engine is None else f"{engine.collection!r} was filled"
            raise ValueError(
                f"{where} with another head ({made_with}) than {folder / _MODEL} "
                f"({encoder.fingerprint}). Run the recipe again, or index the documents with this head."
            )
        settings = RunRecipe.load(folder / _RECIPE).evaluation
        return cls(encoder, index, Dataset.from_parquet(str(folder / _DOCUMENTS)), settings)

    def search(
        self, question: Any, top_k: int = 5, *, query_k: int | None = None, candidates: int | None = None
    ) -> list[Hit]:
        """The best documents for a question, rescored by the most exact copy that the index keeps, or by the codes.

        Signs find what a more exact copy rescores, where the index has both; else inverted lists do.

        A search engine ranks by the codes of both sides alone.

        Args:
            question: any text, or an image or its path, if the backbone takes images.
            top_k: answers wanted.
            query_k: latents of the query; default as the run was measured.
            candidates: documents that the first stage hands to the second; default as the run was measured.
        """
        head, index = self.encoder.head, self.index
        k = index.k if isinstance(index, InvertedIndex) else index.schema.k
        query_k = min(query_k or self.settings.query_k_factor * k, head.config.hidden_dim)
        embedding = self.encoder.subtract_modality_means(self.encoder.embed(question, prompt_name="query"), question)
        embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        projections = project_queries(head, embedding)
        if isinstance(index, InvertedIndex):
            kind = next((kind for kind in _BY_EXACTNESS if kind in index.copies), None)
            found = index.search(
                projections.codes(query_k),
                top_k,
                rescore=kind or "self",
                scan="binary" if "binary" in index.copies and kind != "binary" else None,
                candidates=max(candidates or self.settings.candidates, top_k),
                projections=projections,
                embeddings=embedding,
            )
            answers = [*zip(found.positions[0], found.ids[0], found.scores[0], strict=True)]
        else:
            sparse = index.search(projections.codes(query_k), top_k)
            answers = [*zip(sparse.ids[0], sparse.ids[0], sparse.scores[0], strict=True)]
        hits = []
        for position, number, score in answers:
            if position >= 0:
                if not 0 <= number < len(self.documents):
                    raise ValueError(f"the index has a document {number}, but there are {len(self.documents)} texts.")
                row = self.documents[int(number)]
                hits.append(Hit(float(score), row["id"], row["text"], row.get("thumbnail")))
        return hits
