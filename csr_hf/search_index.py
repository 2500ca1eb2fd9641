"""Search texts and images by texts and images: an encoder, an index, and what is known of the documents."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np

from csr_hf.codes import head_fingerprint
from csr_hf.coding.coder import Coder
from csr_hf.coding.fitting import fit_index_coder
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.explain.latents import Latents
from csr_hf.explain.steering import Steer, Steering, read_steering, turn_queries
from csr_hf.explain.why import Match, split_score
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder
from csr_hf.search.documents import TEXT, append_documents
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.search_hits import Filter, Hit, find_allowed, find_ids, make_hits
from csr_hf.search_inputs import (
    Encoder,
    describe_documents,
    embed,
    embed_queries,
    load_encoder,
    split_table,
)

__all__ = ["Hit", "SearchIndex"]


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
        self._latents: Latents | Path | None = None

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        texts: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        row_bytes: int = 24,
        residual_bytes: int | None = None,
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
            residual_bytes: of what the code leaves; default one for two dimensions, none below 256 documents.
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
        chosen, are_given = find_ids(copy.copy(self.index), filter)
        return self.index.delete(chosen, missing_ok=missing_ok or not are_given)

    @overload
    def search(
        self,
        queries: str,
        top_k: int = 10,
        params: SearchParams | None = None,
        *,
        filter: Filter = None,
        **steer: Unpack[Steer],
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Any,
        top_k: int = 10,
        params: SearchParams | None = None,
        *,
        filter: Filter = None,
        **steer: Unpack[Steer],
    ) -> list[Any]: ...

    def search(
        self,
        queries: Any,
        top_k: int = 10,
        params: SearchParams | None = None,
        *,
        filter: Filter = None,
        **steer: Unpack[Steer],
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
            **steer: latents by name or number: `more={"refunds": 0.3}` adds to the query, in its norms, `without`
                removes from it, `must=["refunds"]` finds documents alone whose code has it.

        Returns:
            The hits of one query, best first; of several, a list of such lists. Where fewer documents fit, there are
            fewer hits.

        Raises:
            ValueError: for an empty query, the path of an image that is not there, texts where there is no backbone,
                a condition that cannot be read, an unknown latent (the nearest is named), and values out of range.
        """
        rows, single = embed_queries(self.encoder, queries)
        # What is found is looked up in the same state of the index.
        snapshot = copy.copy(self.index)
        steering = self._read_steering(steer)
        allowed = None if filter is None else find_allowed(snapshot, filter)
        asked = turn_queries(snapshot.encoder.atoms, rows, steering) if steering.changes_query else rows
        found = snapshot.search(asked, top_k, params or self.params, allowed=allowed, must=steering.must)
        answers = make_hits(snapshot, found.rows())
        return answers[0] if single else answers

    def explain(self, query: Any, ids: Sequence[Hashable], **steer: Unpack[Steer]) -> list[Match]:
        """Split the scores of a query and documents into what each latent of a document adds.

        Args:
            query: a text, an image or an embedding, as for `search`.
            ids: of the documents, such as those of hits.
            **steer: as for `search`: the score is that of the steered query.

        Returns:
            One for each document: its shares sum to the score, that of code and residual.

        Raises:
            ValueError: as `search` does, and for an unknown id.
        """
        rows, _ = embed_queries(self.encoder, query)
        if len(rows) != 1:
            raise ValueError(f"`query` holds {len(rows)} queries. Explain one at a time.")
        index, steering = copy.copy(self.index), self._read_steering(steer)
        asked = turn_queries(index.encoder.atoms, rows, steering)[0]
        by_dot, norm, head = index.similarity == "dot", index.settings["norm"], self.encoder.head
        # Rows were brought to one norm before they were coded.
        return [
            split_score(head, asked / norm, *index.decode(int(position)), by_dot=by_dot, latents=self.latents)
            for position in index.positions_of(ids)
        ]

    def find_strongest(self, latent: int | str, top_k: int = 5) -> list[Hit]:
        """Find the documents, at most `top_k`, in which a latent is strongest; their scores are its values.

        Args:
            latent: its number or name; an unknown one is refused.
            top_k: hits, at most.
        """
        snapshot, (number,) = copy.copy(self.index), self._read_steering({"must": [latent]}).must
        positions, values = snapshot.find_strongest(number, top_k)
        rows = zip(snapshot.ids_of(positions).tolist(), positions.tolist(), values.tolist(), strict=True)
        return make_hits(snapshot, [list(rows)])[0]

    @property
    def latents(self) -> Latents | None:
        """Names of the head's latents, of the folder (`csr-hf explain`) or the encoder; None where there are none."""
        if isinstance(self._latents, Path):
            self._latents = Latents.load(self._latents, self.index.head) if self._latents.is_file() else None
        self._latents = self._latents or getattr(self.encoder, "latents", None)
        return self._latents

    @latents.setter
    def latents(self, found: Latents) -> None:
        self._latents = found

    def _read_steering(self, steer: Steer) -> Steering:
        return read_steering(self.latents or self.index.dim, **steer) if steer else Steering({})

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
        if self.latents is not None and not files.latents.exists():
            self.latents.save(files.latents)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        encoder: Encoder | None = None,
        *,
        device: str | None = None,
        texts: bool = True,
        trust_remote_code: bool = False,
        verify: bool = False,
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
        index = InvertedIndex.load(files.index, verify=verify, documents=True)
        if encoder is None:
            encoder = load_encoder(files, device=device, texts=texts, trust_remote_code=trust_remote_code)
        found = head_fingerprint(encoder.head)
        if index.head != found:
            raise ValueError(
                f"{files.index} was built with another head than the encoder's ({index.head}, {found}). Index it anew."
            )
        opened = cls(index, encoder)
        opened._latents = files.latents
        return opened

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
        return f"SearchIndex(n={len(self)}, {self.index.bytes_per_document:.0f} bytes a document{kept})"

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
        settings, axes = self.index.settings, self.index.encoder.residual
        residual = ScalarQuantizer(np.array(axes), settings["residual_bytes"]) if len(axes) else None
        sizes = {name: settings[name] for name in ("row_bytes", "k", "bits")}
        return Coder(self.encoder.head, residual=residual, **sizes)
