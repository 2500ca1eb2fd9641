"""Search the documents of a finished run by questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from csr_hf.codes import choose_query_k, head_fingerprint, project_queries
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.explain.steering import Steer
from csr_hf.plumbing.settings import suggest
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search.params import SearchParams
from csr_hf.search_index import Hit, SearchIndex
from csr_hf.search_inputs import ID, TEXT, THUMBNAIL, Encoder, embed_queries, load_encoder

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.backends import Backend
    from csr_hf.explain.why import Match

__all__ = ["Hit", "RunSearcher"]


class RunSearcher:
    """A finished run, searched by questions or by their embeddings; `RunSearcher.load` opens it.

    Args:
        encoder: backbone and head of the run.
        index: of its documents, or a search backend that holds their codes.
        documents: rows with `id` and `text`, which a backend calls 0, 1, ...; an index has its own.
        names: what the user calls columns of the documents, by column; `load` takes the names of the recipe.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: SearchIndex | Backend,
        documents: Dataset | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.encoder, self.index, self._documents, self.names = encoder, index, documents, dict(names or {})

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
        files = RunFolder.of(folder)
        for name in files.missing(files.model, *([files.index] if backend is None else [])):
            raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
        if texts and not files.has_texts:
            raise ValueError(
                f"{folder} has no texts, so no question finds anything: it is a run of embeddings. Search it in "
                f'Python: csr_hf.SearchIndex.load("{folder}", texts=False).search(embeddings).'
            )
        # What `SearchIndex.save` wrote has no recipe.
        recipe = RunRecipe.load(files.recipe) if files.recipe.is_file() else None
        if backend is None:
            index = SearchIndex.load(files.path, device=device, texts=texts, trust_remote_code=trust_remote_code)
            index.params = index.params if recipe is None else recipe.search.params
            return cls(index.encoder, index, None, _name_columns(recipe, index.columns))
        encoder = load_encoder(files, device=device, texts=texts, trust_remote_code=trust_remote_code)
        if backend.schema.head != head_fingerprint(encoder.head):
            raise ValueError(
                f"{backend.collection!r} was filled with another head ({backend.schema.head}) than {files.model} "
                f"({head_fingerprint(encoder.head)}). Index the documents again with this head."
            )
        from datasets import Dataset

        documents = Dataset.from_parquet(str(files.documents)) if texts else None
        return cls(encoder, backend, documents, _name_columns(recipe, documents.column_names if documents else []))

    @property
    def documents(self) -> Dataset | None:
        """Rows with `id`, `text` and whatever else is kept, deleted ones included; None where there are no texts."""
        if not isinstance(self.index, SearchIndex):
            return self._documents
        from datasets import Dataset

        table = self.index.index.documents
        if table is None:
            return None
        ids = self.index.index.ids_of(np.arange(table.num_rows)).tolist()
        return Dataset(table.add_column(0, ID, [ids]))

    @property
    def has_images(self) -> bool:
        """Whether there are images among the documents."""
        if isinstance(self.index, SearchIndex):
            return THUMBNAIL in self.index.columns
        return self._documents is not None and THUMBNAIL in self._documents.column_names

    def __len__(self) -> int:
        if isinstance(self.index, SearchIndex):
            return len(self.index)
        return len(self._documents or ())

    def find_fields(self, names: Sequence[str] = ()) -> dict[str, str]:
        """Find the columns of the documents that the user means.

        Args:
            names: of columns, as the data has them or by role; none: the text, and the question of pairs before it.

        Returns:
            Name -> column, for `Hit.read`.

        Raises:
            ValueError: for a name that no column has; the nearest one is named.
        """
        if isinstance(self.index, SearchIndex):
            found = [ID, *self.index.columns]
        else:
            found = [] if self._documents is None else self._documents.column_names
        columns = [name for name in found if name != THUMBNAIL]
        known = {**{name: name for name in columns}, **{name: column for column, name in self.names.items()}}
        if not names:
            shown = [column for column in ("anchor", TEXT) if column in columns]
            return {self.names.get(column, column): column for column in shown}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no field of the documents. {suggest(name, list(known))} Other columns are kept by "
                    "`data.keep` (--keep) when the documents are indexed."
                )
        return {name: known[name] for name in names}

    def search(
        self,
        question: Any,
        top_k: int = 5,
        params: SearchParams | None = None,
        *,
        filter: Any = None,
        query_k: int | None = None,
        **steer: Unpack[Steer],
    ) -> list[Any]:
        """Find the best documents for a question, or for each of several.

        An index is searched as the recipe says (`search:`). A search backend ranks by the codes of both sides alone.

        Args:
            question: as for `SearchIndex.search`.
            top_k: hits wanted.
            params: how to search an index; default as the recipe says.
            filter: which documents may be found, as for `SearchIndex.search`; in a backend, a condition on the columns
                that are kept (`data.keep`).
            query_k: latents of the query for a search backend.
            **steer: latents to search an index with more of, without or with alone, as for `SearchIndex.search`.

        Raises:
            ValueError: as `SearchIndex.search` does.
        """
        if isinstance(self.index, SearchIndex):
            return self.index.search(question, top_k, params, filter=filter, **steer)
        for name, given in steer.items():
            if given:
                raise ValueError(f"`{name}` needs an index of the library's own; this run is in a backend.")
        rows, single = embed_queries(self.encoder, question)
        backbone, head = self.encoder.backbone, self.encoder.head
        by_dot = backbone is not None and backbone.similarity_fn_name == "dot"
        projections = project_queries(head, rows if by_dot else unit_rows(rows))
        known = choose_query_k(self.index.schema.k, head.config.hidden_dim)
        query_k = known if not query_k else min(query_k, head.config.hidden_dim)
        found = self.index.search(projections.codes(query_k), top_k, filter=filter)
        answers = [
            [self._look_up(number, score) for number, score in zip(*row, strict=True) if number >= 0]
            for row in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        ]
        return answers[0] if single else answers

    def explain(self, question: Any, hits: Sequence[Hit], **steer: Unpack[Steer]) -> list[Match]:
        """Split the scores of hits into what each latent adds, as `SearchIndex.explain` does.

        Args:
            question: that they were found for.
            hits: of `search`.
            **steer: as for `search`.

        Raises:
            ValueError: where the run is in a search backend.
        """
        if not isinstance(self.index, SearchIndex):
            raise ValueError("`explain` (--why) needs an index of the library's own; this run is in a backend.")
        return self.index.explain(question, [hit.id for hit in hits], **steer)

    def find_strongest(self, latent: int, count: int) -> list[Hit]:
        """Find the documents in which a latent is strongest; none where the run is in a search backend."""
        return self.index.find_strongest(latent, count) if isinstance(self.index, SearchIndex) else []

    def _look_up(self, number: int, score: float) -> Hit:
        """Return what is known of a document that a backend found."""
        if self._documents is None:
            return Hit(number, score)
        if number >= len(self._documents):
            raise ValueError(f"the backend has a document {number}, but there are {len(self._documents)} texts.")
        row = dict(self._documents[number])
        return Hit(row.pop(ID), score, row.pop(TEXT), thumbnail=row.pop(THUMBNAIL, None), metadata=row)


def _name_columns(recipe: RunRecipe | None, columns: Sequence[str]) -> dict[str, str]:
    """Find what the data of a recipe calls the columns of its documents: `positive` and `text` are their `text`."""
    if recipe is None:
        return {}
    sources, names = recipe.data.sources or [recipe.data], {}
    for role, name in sources[0].columns.items() if len(sources) == 1 else ():
        column = TEXT if role == "positive" else role
        if column in [ID, *columns] and name not in columns:
            names[column] = name
    return names
