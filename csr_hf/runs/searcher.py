"""Search the documents of a finished run by questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.codes import head_fingerprint, project_queries, subtract_modality_mean
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.images import names_missing_image
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.evaluation.csr_methods import QUERY_K_FACTOR
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.heads import load_head
from csr_hf.plumbing.settings import suggest
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.backends import Backend
    from csr_hf.modeling_csr import CSRModel


class Hit(NamedTuple):
    """One document that was found."""

    score: float
    """Similarity of the dense query and the document as reranking knows it, a copy, or decoded: the cosine, or the dot
    product if the backbone compares by that."""
    id: str
    text: str
    thumbnail: bytes | None = None
    """A small JPEG of an image; None for texts, and where the id is the path of the image."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """What else is kept of the document, by column: its question in a set of pairs (`anchor`), and `data.keep`."""

    def read(self, column: str) -> Any:
        """Return the value of a column of the documents."""
        return getattr(self, column) if column in ("id", "text") else self.fields[column]


class RunSearcher:
    """Head, index and texts of a finished run, searched by questions or by their embeddings.

    Args:
        backbone: embeds the questions; None where there are embeddings alone.
        head: encodes them.
        index: of the documents' codes, or a search backend that holds them.
        documents: rows with `id` and `text`; the index calls them 0, 1, ... None where there are embeddings alone.
        settings: of a search that does not say; `load` takes those of the recipe.
        names: what the user calls columns of `documents`, by column; `load` takes the names of the recipe.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        head: CSRModel,
        index: InvertedIndex | Backend,
        documents: Dataset | None,
        settings: SearchParams = SearchParams(),
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.index = index
        self.documents = documents
        self.settings = settings
        self.names = dict(names or {})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | None = None,
        backend: Backend | None = None,
        texts: bool = True,
        trust_remote_code: bool = False,
    ) -> RunSearcher:
        """Open the output folder of `csr-hf run` or `csr-hf index`.

        Args:
            folder: with head and texts, and the index.
            device: of backbone and head; default the best there is.
            backend: the search backend that `csr-hf index --backend` put the codes into.
            texts: False takes embeddings as queries alone, for a run that was given embeddings: no backbone is loaded.
            trust_remote_code: run code of the backbone's repository.

        Raises:
            ValueError: if a part of it is missing or damaged, or the index was built with another head.
        """
        from datasets import Dataset

        files = RunFolder.of(folder)
        needed = [files.model, *([files.index] if backend is None else []), files.recipe]
        for name in files.missing(*needed):
            raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
        if texts and not files.documents.is_file():
            raise ValueError(
                f"{folder} has no {files.documents.name}, so no question finds anything: a run of embeddings has no "
                "texts. Search it in Python: "
                f'csr_hf.RunSearcher.load("{folder}", texts=False).search_embeddings(queries).'
            )
        index = InvertedIndex.load(files.index) if backend is None else backend
        indexed_head = index.head if isinstance(index, InvertedIndex) else index.schema.head
        repository = open_repository(files.model)
        head = load_head(repository)
        if indexed_head != head_fingerprint(head):
            where = f"{files.index} was built" if backend is None else f"{backend.collection!r} was filled"
            raise ValueError(
                f"{where} with another head ({indexed_head}) than {files.model} ({head_fingerprint(head)}). Run the "
                "recipe again, or index the documents with this head."
            )
        recipe = RunRecipe.load(files.recipe)
        if not texts:
            return cls(None, head.eval(), index, None, recipe.search.params)
        backbone = load_backbone_of(repository, head, device=device, trust_remote_code=trust_remote_code)
        head = head.to(backbone.model.device).eval()  # type: ignore[arg-type]
        documents = Dataset.from_parquet(str(files.documents))
        return cls(
            backbone, head, index, documents, recipe.search.params, _name_columns(recipe, documents.column_names)
        )

    def find_fields(self, names: Sequence[str] = ()) -> dict[str, str]:
        """Find the columns of the documents that the user means.

        Args:
            names: of columns, as the data has them or by role; none: the text, and the question of pairs before it.

        Returns:
            Name -> column, for `Hit.read`.

        Raises:
            ValueError: for a name that no column has; the nearest one is named.
        """
        found = self.documents.column_names if self.documents is not None else []
        columns = [name for name in found if name != "thumbnail"]
        known = {**{name: name for name in columns}, **{name: column for column, name in self.names.items()}}
        if not names:
            shown = [column for column in ("anchor", "text") if column in columns]
            return {self.names.get(column, column): column for column in shown}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no field of the documents. {suggest(name, list(known))} Other columns are kept by "
                    "`data.keep` when the documents are indexed."
                )
        return {name: known[name] for name in names}

    def search(
        self, question: Any, top_k: int = 5, *, query_k: int | None = None, candidates: int | None = None
    ) -> list[Hit]:
        """Find the best documents for a question, as `search_embeddings` does.

        Args:
            question: any text, or an image or its path, if the backbone takes images.
            top_k: hits wanted.
            query_k: latents of the query; default as the run was measured.
            candidates: documents to rerank; default as the run was measured.

        Raises:
            ValueError: for an empty question, the path of an image file that is not there, a run that was given
                embeddings instead of texts or images, or as `Backbone.embed` does.
        """
        if isinstance(question, str) and not question.strip():
            raise ValueError('the question is empty. Ask in words: csr-hf search RUN "how do I ...".')
        if self.backbone is None or self.documents is None:
            raise ValueError("`question` is nothing that embeddings alone can find. Use `search_embeddings`.")
        if isinstance(question, str) and "image" in self.backbone.modalities and names_missing_image(question):
            raise ValueError(f"{question} is no file, though it ends like an image. Correct the path, or add words.")
        embedding = self.backbone.embed([question], task="query")
        (modality,) = self.backbone.modalities_of([question])
        embedding = subtract_modality_mean(self.head, embedding, modality)
        numbers, scores = self.search_embeddings(embedding, top_k, query_k=query_k, candidates=candidates)
        return self._hits(self.documents, numbers[0], scores[0])

    def search_embeddings(
        self, queries: np.ndarray, top_k: int = 5, *, query_k: int | None = None, candidates: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best documents for embeddings of the backbone.

        An index is searched as the recipe says (`search:`). A search backend ranks by the codes of both sides alone.

        Args:
            queries: shape (n, input_dim), less the mean of their modality for a head of several.
            top_k: hits wanted.
            query_k: latents of the query for a search backend.
            candidates: documents to rerank; default as the recipe says.

        Returns:
            Numbers of the documents, best first, and their scores, both of shape (n, top_k); -1 where there are no
            more.
        """
        index = self.index
        if isinstance(index, InvertedIndex):
            params = self.settings if candidates is None else replace(self.settings, candidates=candidates)
            found = index.search(queries, top_k, params)
            return np.where(found.positions >= 0, found.ids, -1), found.scores
        query_k = min(query_k or QUERY_K_FACTOR * index.schema.k, self.head.config.hidden_dim)
        projections = project_queries(self.head, queries if self._by_dot else unit_rows(queries))
        sparse = index.search(projections.codes(query_k), top_k)
        return sparse.ids, sparse.scores

    @property
    def _by_dot(self) -> bool:
        """Whether norms of queries count."""
        if isinstance(self.index, InvertedIndex):
            return self.index.similarity == "dot"
        return self.backbone is not None and self.backbone.similarity_fn_name == "dot"

    @staticmethod
    def _hits(documents: Dataset, numbers: np.ndarray, scores: np.ndarray) -> list[Hit]:
        """Look up documents by their numbers; -1 is none."""
        hits = []
        for number, score in zip(numbers, scores, strict=True):
            if number < 0:
                continue
            if number >= len(documents):
                raise ValueError(f"the index has a document {number}, but there are {len(documents)} texts.")
            row = documents[int(number)]
            fields = {name: value for name, value in row.items() if name not in ("id", "text", "thumbnail")}
            hits.append(Hit(float(score), row["id"], row["text"], row.get("thumbnail"), fields))
        return hits


def _name_columns(recipe: RunRecipe, columns: Sequence[str]) -> dict[str, str]:
    """Find what the data of a recipe calls the columns of its documents: `positive` and `text` are their `text`."""
    sources, names = recipe.data.sources or [recipe.data], {}
    for role, name in sources[0].columns.items() if len(sources) == 1 else ():
        column = "text" if role == "positive" else role
        if column in columns and name not in columns:
            names[column] = name
    return names
