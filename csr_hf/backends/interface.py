"""What all engines have in common: five calls, checked in one place, and documents as vectors of a dot product."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from csr_hf.backends.contract import EngineError, Found, Hits, Limits, Row, Schema, padded, rows_of
from csr_hf.backends.documents import Documents, checked_ids, checked_weights
from csr_hf.search.ids import listed
from csr_hf.search.queries import unit_queries
from csr_hf.sparse_codes import SparseCodes


class Engine(ABC):
    """A collection of documents in some search engine; see `csr_hf.backends.open_engine`.

    A document is stored as its code's values (rounded to float16) over what `InvertedIndex` divides by: the norm of
    the code, or that of the decoded document. Queries are of unit norm, so the engine's dot product is the index's
    score. Everything is checked before anything is sent.

    Args:
        collection: its name in the engine.

    Raises:
        ValueError: for a name that some engine would refuse.
    """

    name: str
    """For messages."""
    limits = Limits()

    def __init__(self, collection: str) -> None:
        plain = collection.isascii() and collection.replace("_", "a").isalnum() and collection == collection.lower()
        if not (plain and collection[0].isalpha() and len(collection) <= 63):
            raise ValueError(
                f"`collection` ({collection!r}) must be 1 to 63 of a-z, 0-9 and _, the first a letter, "
                "so that every engine takes it."
            )
        self.collection = collection
        self._known: Schema | None = None

    def create(
        self,
        dim: int,
        k: int,
        *,
        ids: Literal["integers", "strings"] = "integers",
        head: str | None = None,
        decoded: bool = False,
        replace: bool = False,
    ) -> None:
        """Make the collection; one that is there already with the same settings stays as it is.

        Args:
            dim: length of the latents axis, `codes.dim`.
            k: latents of a document at most.
            ids: what documents are named by.
            head: fingerprint of the head, `codes.head_fingerprint`; codes of another one are refused later.
            decoded: whether documents come with the norms of the decoded documents.
            replace: remove a collection of this name, with its documents, first.

        Raises:
            ValueError: for sizes that the engine has no room for, or a collection with other settings.
            EngineError: if the engine refuses.
        """
        self._check_sizes(dim, k)
        if ids not in ("integers", "strings"):
            raise ValueError(f'`ids` ({ids!r}) must be "integers" or "strings".')
        schema = Schema(int(dim), int(k), ids, head, bool(decoded), uuid.uuid4().hex)
        there = self.read_schema()
        if there is not None and not replace:
            self._check_same(there, schema)
            self._known = there
            return
        self._known = None
        if there is not None:
            self._drop()
        self._create(schema)
        self._known = self.read_schema()
        if self._known != schema:
            raise EngineError(f"{self.name} did not keep the settings of {self.collection!r}. Use a newer version.")

    def upsert(
        self,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray,
        *,
        decoded_norms: np.ndarray | None = None,
    ) -> None:
        """Add documents; those whose id is in use take the place of the older ones. For many, see `upload`.

        Args:
            codes: of the documents, not normalized.
            ids: one a document, unique.
            decoded_norms: ||decode(z)||, float32, shape (n,), if the collection was created with `decoded`.

        Raises:
            ValueError: for what `InvertedIndex.add` refuses, documents that can never be found, or a rule of the
                engine; nothing is sent.
            EngineError: if the engine refuses.
        """
        self.write(self.prepare(codes, ids, decoded_norms=decoded_norms))
        self.flush()

    def delete(self, ids: Iterable[Hashable]) -> None:
        """Remove documents; ids that are not there are passed over.

        Raises:
            ValueError: for ids of another kind than the collection's.
            EngineError: if the engine refuses.
        """
        wanted = list(dict.fromkeys(listed(ids, "ids")))
        if wanted:
            self._delete(checked_ids(wanted, len(wanted), self.schema.ids, self.limits.id_bytes, self.name).tolist())
            self.flush()

    def search(self, codes: SparseCodes, top_k: int = 10, *, query_k: int | None = None) -> Hits:
        """Find the best documents for every query.

        Args:
            codes: of the queries, by the head that made the documents' codes; they may keep more latents.
            top_k: hits of a query.
            query_k: latents of a query to use; default all of `codes`.

        Raises:
            ValueError: for codes of another head or dim, numbers out of range, or a rule of the engine.
            EngineError: if the engine refuses.
        """
        schema = self.schema
        self._check_codes(codes, schema)
        if top_k < 1 or (self.limits.top_k is not None and top_k > self.limits.top_k):
            bound = "" if self.limits.top_k is None else f" and at most {self.limits.top_k}"
            raise ValueError(f"`top_k` ({top_k}) must be at least 1{bound}.")
        latents, values, norms = unit_queries(codes, query_k)
        rows = rows_of(latents, values.astype(np.float32))
        longest, most = max((len(row[0]) for row in rows), default=0), self.limits.query_latents
        if most is not None and longest > most:
            raise ValueError(
                f"`codes` has a query of {longest} latents; {self.name} takes {most}. Pass `query_k={most}`."
            )
        asked = [at for at, row in enumerate(rows) if row[0]]
        found = self._search([rows[at] for at in asked], top_k) if asked else []
        hits = padded(len(rows), top_k, schema.ids, dict(zip(asked, found, strict=True)))
        if schema.decoded:
            hits.scores[:] *= norms
        return hits

    def count(self) -> int:
        """Documents in the collection.

        Raises:
            ValueError: if there is no such collection.
        """
        # Raises if there is no collection; some engines would count 0.
        _ = self.schema
        return self._count()

    def close(self) -> None:
        """Let go of connections and files."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def schema(self) -> Schema:
        """Of the collection.

        Raises:
            ValueError: if there is none.
        """
        if self._known is None:
            self._known = self.read_schema()
        if self._known is None:
            raise ValueError(f"`collection`: {self.name} has no {self.collection!r} made by csr_hf. Call `create`.")
        return self._known

    def prepare(
        self,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray,
        *,
        decoded_norms: np.ndarray | None = None,
        schema: Schema | None = None,
    ) -> Documents:
        """Check documents, against the engine's rules too, as `upsert` does; nothing is sent.

        Args:
            codes: as for `upsert`.
            ids: as for `upsert`.
            decoded_norms: as for `upsert`.
            schema: of a collection to be created; default that of the one there is.

        Raises:
            ValueError: as `upsert` does.
        """
        schema = schema or self.schema
        self._check_codes(codes, schema)
        if codes.k > schema.k:
            raise ValueError(f"`codes.k` ({codes.k}) is above the collection's ({schema.k}). Truncate to that.")
        if (decoded_norms is not None) != schema.decoded:
            given = "be given" if schema.decoded else "not be given"
            raise ValueError(f"`decoded_norms` must {given}, as the collection was created.")
        names = checked_ids(ids, len(codes), schema.ids, self.limits.id_bytes, self.name)
        documents = checked_weights(codes, names, decoded_norms)
        self._check_documents(documents)
        return documents

    @abstractmethod
    def write(self, documents: Documents) -> None:
        """Send checked documents; any number of threads up to `limits.threads` may do so at a time.

        Raises:
            EngineError: if the engine refuses; the documents are named.
        """

    def flush(self) -> None:
        """Make what was written visible to searches."""

    def is_transient(self, error: Exception) -> bool:
        """Whether sending a request again may help."""
        return isinstance(error, ConnectionError | TimeoutError)

    def _check_documents(self, documents: Documents) -> None:
        """Rules of this engine beyond its limits; raises ValueError."""

    def _check_sizes(self, dim: int, k: int) -> None:
        """Refuse what the engine has no room for."""
        if not 1 <= k <= dim:
            raise ValueError(f"`k` ({k}) must be between 1 and `dim` ({dim}).")
        for name, value, most in (("dim", dim, self.limits.dim), ("k", k, self.limits.document_latents)):
            if most is not None and value > most:
                raise ValueError(f"`{name}` ({value}) is above what {self.name} takes ({most}). Use a smaller one.")

    def _check_same(self, there: Schema, schema: Schema) -> None:
        """Refuse other settings than those of the collection there is."""
        for field, old, new in zip(Schema._fields, there, schema, strict=True):
            # Codes of an unknown head go with those of any.
            open_question = field == "created" or (field == "head" and None in (old, new))
            if not open_question and old != new:
                raise ValueError(
                    f"`{field}` ({new!r}) is not that of the collection {self.collection!r} ({old!r}). Choose "
                    "another `collection`, or pass `replace=True` to remove the one that is there."
                )

    def _check_codes(self, codes: SparseCodes, schema: Schema) -> None:
        if codes.dim != schema.dim:
            raise ValueError(
                f"`codes.dim` ({codes.dim}) is not the collection's dim ({schema.dim}). Encode with its head."
            )
        if None not in (codes.head_fingerprint, schema.head) and codes.head_fingerprint != schema.head:
            raise ValueError(
                f"`codes.head_fingerprint` ({codes.head_fingerprint}) is not the head the collection was created with "
                f"({schema.head}). "
                "Encode with that head, or create another collection."
            )

    @abstractmethod
    def read_schema(self) -> Schema | None:
        """Of the collection, read anew; None if there is none that csr_hf made."""

    @abstractmethod
    def _create(self, schema: Schema) -> None: ...

    @abstractmethod
    def _drop(self) -> None: ...

    @abstractmethod
    def _count(self) -> int: ...

    @abstractmethod
    def _delete(self, ids: list[Any]) -> None: ...

    @abstractmethod
    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        """Hits of each query, by dot product."""
