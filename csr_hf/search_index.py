"""Search texts and images by texts and images: an encoder, an index, and what is known of the documents."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from csr_hf.codes import head_fingerprint
from csr_hf.coding.coder import Coder
from csr_hf.coding.fitting import fit_index_coder
from csr_hf.coding.product import ProductQuantizer
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder
from csr_hf.search.doc_ids import list_ids
from csr_hf.search.documents import TEXT, append_documents, find_documents, read_rows
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.search_inputs import (
    ID,
    THUMBNAIL,
    Encoder,
    describe_documents,
    embed,
    embed_queries,
    load_encoder,
    split_table,
)

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


class SearchIndex:
    """Documents that are found by texts, images or embeddings; made by `SearchIndex.build` or `SearchIndex.load`.

    Any number of threads may search while another adds and deletes.

    Args:
        index: of the documents' embeddings, with their texts and metadata.
        encoder: the backbone and the head that made them.
        params: how to search where nobody says otherwise.
    """

    def __init__(self, index: InvertedIndex, encoder: Encoder, params: SearchParams = SearchParams()) -> None:
        self.index, self.encoder, self.params = index, encoder, params

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        texts: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        row_bytes: int = 48,
        residual_bytes: int = 128,
        copies: Sequence[Literal["float16"]] = (),
    ) -> SearchIndex:
        """Embed and index documents.

        Args:
            encoder: a `CSREncoder`.
            texts: texts or images in a list, Series or column; or a `Dataset` or table with a column `text`, whose
                column `id` are the ids and whose other columns are the metadata.
            ids: unique integers or strings, one a document; default 0 to n - 1.
            metadata: a table, data frame, mapping of columns, or list of mappings, one a document.
            row_bytes: of a document's packed code, which gets as many latents as fit.
            residual_bytes: at most, for what the code leaves of the embedding; fitted where there are 256 documents.
            copies: "float16" keeps the embeddings as well, for exact ranking of candidates.

        Raises:
            ValueError: for documents that cannot be embedded, ids that repeat, metadata of another number of rows, and
                settings out of range.
        """
        inputs, ids, metadata = split_table(texts, ids, metadata)
        embeddings = embed(encoder, inputs, "document")
        coder = fit_index_coder(encoder.head, embeddings, row_bytes=row_bytes, residual_bytes=residual_bytes)
        by_dot = encoder.backbone is not None and encoder.backbone.similarity_fn_name == "dot"
        index = InvertedIndex.build(
            embeddings,
            coder,
            ids,
            similarity="dot" if by_dot else "cosine",
            copies=copies,
            documents=describe_documents(inputs, metadata),
        )
        return cls(index, encoder)

    def add(self, texts: Any, *, ids: Any = None, metadata: Any = None, replace: bool = False) -> None:
        """Embed and index further documents.

        Args:
            texts: as for `build`.
            ids: as for `build`, and of the same kind; default the numbers after the largest there is.
            metadata: as for `build`; columns that are left out are None.
            replace: documents whose id is in use take its place; else they are refused.

        Raises:
            ValueError: as `build` does, and for ids in use, columns that the other documents have not (the nearest one
                is named) or values of another type.
        """
        inputs, ids, metadata = split_table(texts, ids, metadata)
        known = self.index.documents
        new = describe_documents(inputs, metadata) if known is not None or metadata is not None else None
        if known is not None and new is not None and TEXT not in known.column_names:
            new = new.drop_columns([TEXT])
        documents = append_documents([] if known is None else [known], new, len(inputs))
        embeddings = embed(self.encoder, inputs, "document")
        self.index.add(embeddings, self.coder, ids, replace=replace, documents=documents)

    def delete(self, ids: Iterable[Hashable] | None = None, *, filter: Filter = None, missing_ok: bool = False) -> int:
        """Delete documents by their ids, or those that fit a condition. Returns how many there were.

        Args:
            ids: of the documents.
            filter: as for `search`, instead of ids.
            missing_ok: pass over ids that are not there.

        Raises:
            ValueError: for both or neither of `ids` and `filter`, ids that are not there (then nothing is deleted), or
                a condition that cannot be read.
        """
        if (ids is None) == (filter is None):
            raise ValueError("`delete` takes either `ids` or `filter`. Pass one of them.")
        if ids is not None:
            return self.index.delete(ids, missing_ok=missing_ok)
        snapshot = copy.copy(self.index)
        mask = _find_allowed(snapshot, filter)
        if mask.dtype != bool:
            return self.index.delete(mask, missing_ok=missing_ok)
        return self.index.delete(snapshot.ids_of(np.flatnonzero(mask)), missing_ok=True)

    @overload
    def search(
        self, queries: str, top_k: int = 10, params: SearchParams | None = None, *, filter: Filter = None
    ) -> list[Hit]: ...

    @overload
    def search(
        self, queries: Any, top_k: int = 10, params: SearchParams | None = None, *, filter: Filter = None
    ) -> list[Any]: ...

    def search(
        self, queries: Any, top_k: int = 10, params: SearchParams | None = None, *, filter: Filter = None
    ) -> list[Any]:
        """Find the best documents for one query or several.

        Args:
            queries: a text, an image or an embedding (one dimension), or several of them (embeddings of two
                dimensions, less the mean of their modality for a head of several).
            top_k: hits of a query, at most.
            params: how to search; default as the index was opened.
            filter: which documents may be found: a condition on their metadata as text, such as
                `lang == "en" and not (price >= 10 or sku in ["a", "b"])`, an expression of pyarrow, a list of ids, or
                a bool for every position.

        Returns:
            The hits of one query, best first; of several, a list of such lists. Where fewer documents fit, there are
            fewer hits.

        Raises:
            ValueError: for an empty query, the path of an image that is not there, texts where there is no backbone,
                a condition that cannot be read, and values out of range.
        """
        rows, single = embed_queries(self.encoder, queries)
        # What is found is looked up in the same state of the index.
        snapshot = copy.copy(self.index)
        allowed = None if filter is None else _find_allowed(snapshot, filter)
        found = snapshot.search(rows, top_k, params or self.params, allowed=allowed)
        answers = _make_hits(snapshot, found.rows())
        return answers[0] if single else answers

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write index, texts and metadata to `folder/index`, and the head to `folder/model`, unless it is there.

        What the folder holds already is not written again, so saving after `add` costs what was added.

        Args:
            folder: it and its parents are created. `csr-hf search` takes it, too.
            overwrite: replace an index that is none of this one's earlier states.

        Raises:
            ValueError: if the folder holds another head, something that is no index, or an index that others saved
                since this one was loaded or saved; it is left alone.
            OSError: if writing fails; an index already there stays.
        """
        files, own = RunFolder.of(folder), head_fingerprint(self.encoder.head)
        if not files.model_config.is_file():
            self.encoder.head.save_pretrained(files.model)
        elif head_fingerprint(load_head(open_repository(files.model))) != own:
            raise ValueError(f"{files.model} holds another head than this index. Choose another folder.")
        self.index.save(files.index, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        encoder: Encoder | None = None,
        *,
        device: str | None = None,
        texts: bool = True,
        trust_remote_code: bool = False,
        verify: bool | None = None,
    ) -> SearchIndex:
        """Open what `save`, `csr-hf run` or `csr-hf index` wrote; the index is mapped into memory.

        Args:
            folder: with `index` and `model`.
            encoder: a `CSREncoder`; default the head in the folder, and the backbone that it names.
            device: of backbone and head; default the best there is.
            texts: False takes embeddings as queries alone: no backbone is loaded.
            trust_remote_code: run code of the backbone's repository.
            verify: compare all files of the index with their checksums, which reads them whole.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if a part of it is missing or damaged, or the index was built with another head.
        """
        files = RunFolder.of(folder)
        index = InvertedIndex.load(files.index, verify=bool(verify), documents=True)
        if encoder is None:
            encoder = load_encoder(files, device=device, texts=texts, trust_remote_code=trust_remote_code)
        found = head_fingerprint(encoder.head)
        if index.head != found:
            raise ValueError(
                f"{files.index} was built with another head ({index.head}) than that of the encoder ({found}). Index "
                "the documents again with this head."
            )
        return cls(index, encoder)

    @property
    def columns(self) -> list[str]:
        """Names of what is kept of every document, the text included."""
        documents = self.index.documents
        return [] if documents is None else documents.column_names

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, one: Hashable) -> bool:
        return one in self.index

    def __repr__(self) -> str:
        kept = f", {', '.join(self.columns)}" if self.columns else ""
        return f"SearchIndex(n={len(self)}, {self.index.bytes_per_vector:.0f} bytes a document{kept})"

    def read_ids(self, words: Sequence[str]) -> list[Any]:
        """Read ids that are given as text: as integers where those of the index are integers.

        Raises:
            ValueError: for a word that is no integer, where ids are integers.
        """
        if self.index.ids_of(np.empty(0, np.int64)).dtype == object:
            return list(words)
        try:
            return [int(word) for word in words]
        except ValueError:
            raise ValueError(f"the ids of this index are integers, not {', '.join(words):.80}.") from None

    @property
    def coder(self) -> Coder:
        """What encodes further documents like those that are there."""
        settings, centroids = self.index.settings, self.index.encoder.residual
        residual = ProductQuantizer(np.array(centroids), settings["input_dim"]) if len(centroids) else None
        sizes = {name: settings[name] for name in ("row_bytes", "k", "bits")}
        return Coder(self.encoder.head, residual=residual, **sizes)


def _find_allowed(index: InvertedIndex, condition: str | pc.Expression | Any) -> np.ndarray:
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


def _make_hits(index: InvertedIndex, found: list[list[tuple[Any, int, float]]]) -> list[list[Hit]]:
    """Look up what is known of the documents that were found."""
    documents = index.documents
    if documents is None:
        return [[Hit(one, score) for one, _, score in hits] for hits in found]
    answers = []
    for hits in found:
        answer = []
        for (one, _, score), row in zip(hits, read_rows(documents, [hit[1] for hit in hits]), strict=True):
            text, thumbnail = row.pop(TEXT, None), row.pop(THUMBNAIL, None)
            answer.append(Hit(one, score, text, row, thumbnail))
        answers.append(answer)
    return answers
