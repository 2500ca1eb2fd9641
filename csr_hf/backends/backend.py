"""The contract of all backends: what they take, return and raise."""

from __future__ import annotations

import dataclasses
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from csr_hf.backends.conditions import Test, read_condition
from csr_hf.backends.contract import BackendError, Found, Hits, Limits, Unavailable
from csr_hf.backends.documents import (
    Documents,
    Row,
    active_rows,
    batches,
    check_documents,
    check_ids,
    check_queries,
)
from csr_hf.backends.metadata import check_length, read_metadata, to_fields
from csr_hf.backends.schema import Schema
from csr_hf.plumbing.foreign import one_line
from csr_hf.plumbing.redaction import without_secrets
from csr_hf.search.doc_ids import distinct_ids
from csr_hf.sparse_codes import SparseCodes

_IDS_PER_REQUEST = 1000
_QUERIES_PER_REQUEST = 100
_Result = TypeVar("_Result")


class Backend(ABC):
    """A collection of documents in a search engine or a database; `csr_hf.backends.open_backend` opens one.

    A document is stored as the values of its code (rounded to eight bits) divided by the norm that `InvertedIndex`
    divides by: that of the code, or of the decoded document. Queries have unit norm, so the dot product that the
    backend computes is the score of the index. All arguments are checked before anything is sent.

    Subclasses take `url`, `collection` and `api_key` as `open_backend` does.

    Args:
        collection: name of the collection, 1 to 63 of a-z, 0-9 and _, the first a letter.

    Raises:
        ValueError: for a name that some backend would refuse.
    """

    name: str
    """Name of the product, for messages."""
    limits = Limits()
    errors: tuple[type[Exception], ...] = ()
    """What the client raises. Callers see `Unavailable` or `BackendError` instead."""

    def __init__(self, collection: str) -> None:
        plain = collection.isascii() and collection.replace("_", "a").isalnum() and collection == collection.lower()
        if not (plain and collection[0].isalpha() and len(collection) <= 63):
            raise ValueError(
                f"`collection` ({collection!r}) must be 1 to 63 of a-z, 0-9 and _, the first a letter, "
                "so that every backend takes it."
            )
        self.collection = collection
        self._known: Schema | None = None

    def create(self, schema: Schema, *, replace: bool = False) -> None:
        """Create the collection. An existing one stays as it is if its schema is the same, or differs by a larger `k`.

        Args:
            schema: what the documents have in common; `created` is ignored.
            replace: first remove an existing collection of this name, with its documents.

        Raises:
            ValueError: for sizes that the backend does not take, or an existing collection with another schema.
            BackendError: if the backend refuses, or the collection was not created by csr_hf.
            Unavailable: if the backend is busy or out of reach; all methods that send something may raise both.
        """
        limits = self.limits
        for name, value, most in (("dim", schema.dim, limits.dim), ("k", schema.k, limits.document_latents)):
            if most is not None and value > most:
                raise ValueError(f"`{name}` ({value}) is above what {self.name} takes ({most}). Use a smaller one.")
        existing = self.read_schema()
        if existing is None or replace:
            self._known = None
            if existing is not None:
                self._attempt(self._drop)
            schema = dataclasses.replace(schema, created=uuid.uuid4().hex)
            self._attempt(self._create, schema)
            existing = self.read_schema()
            if existing != schema:
                raise BackendError(f"{self.name} did not keep the schema of {self.collection!r}. Use a newer version.")
        else:
            existing.check_fits(schema, self.collection)
        self._known = existing

    def upsert(
        self,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray,
        *,
        decoded_norms: np.ndarray | None = None,
        metadata: Any = None,
    ) -> None:
        """Add documents, and replace those whose id is in use. For many documents, see `upload`.

        Args:
            codes: of the documents, not normalized.
            ids: one unique id for each document.
            decoded_norms: ||decode(z)||, float32, shape (n,), for a collection whose schema says `decoded`.
            metadata: in columns of the schema, one row a document, in any form that `SearchIndex.build` takes; columns
                that are left out are None.

        Raises:
            ValueError: for documents that `InvertedIndex.add` refuses, that no query can find, or that break a rule of
                the backend. Nothing is sent then.
        """
        self.write(self.prepare(codes, ids, decoded_norms=decoded_norms, metadata=metadata))
        self.flush()

    def delete(self, ids: Iterable[Hashable]) -> int:
        """Remove documents; unknown ids are ignored. Returns how many there were.

        Raises:
            ValueError: for ids of another type than the schema says.
        """
        wanted, deleted = distinct_ids(ids, "ids"), 0
        if wanted:
            checked = check_ids(wanted, len(wanted), self.schema.ids, self.limits.id_bytes, self.name)
            for some in batches(checked.tolist(), _IDS_PER_REQUEST):
                deleted += self._attempt(self._delete, some)
            self.flush()
        return deleted

    def search(
        self, codes: SparseCodes, top_k: int = 10, *, query_k: int | None = None, filter: str | None = None
    ) -> Hits:
        """Find the best documents for every query.

        Args:
            codes: of the queries, by the head that encoded the documents; they may keep more latents.
            top_k: number of hits of a query.
            query_k: number of latents of a query to use; default all of `codes`.
            filter: a condition on the metadata that hits fulfil, as `SearchIndex.search` reads it:
                `lang == "en" and not (price >= 10)`.

        Raises:
            ValueError: for codes of another head or dim, numbers out of range, a condition that cannot be read, or a
                rule of the backend.
        """
        schema = self.schema
        schema.check_codes(codes)
        if top_k < 1 or (self.limits.top_k is not None and top_k > self.limits.top_k):
            bound = "" if self.limits.top_k is None else f" and at most {self.limits.top_k}"
            raise ValueError(f"`top_k` ({top_k}) must be at least 1{bound}.")
        latents, values, norms = check_queries(codes, query_k)
        rows = list(active_rows(latents, values.astype(np.float32)))
        longest, most = max((len(row[0]) for row in rows), default=0), self.limits.query_latents
        if most is not None and longest > most:
            raise ValueError(
                f"`codes` has a query of {longest} latents; {self.name} takes {most}. Pass `query_k={most}`."
            )
        missing, kind = (-1, np.int64) if schema.ids == "integers" else ("", object)
        ids, scores = np.full((len(rows), top_k), missing, kind), np.full((len(rows), top_k), -np.inf, np.float32)
        test = None if filter is None else read_condition(filter, schema.columns)
        if test is not None:
            self._check_test(test)
        # Backends refuse vectors without weights; where no document can fit, there is nothing to ask.
        sent = [at for at, row in enumerate(rows) if row[0] and (filter is None or test is not None)]
        found: list[Found] = []
        for some in batches(sent, _QUERIES_PER_REQUEST):
            found += self._attempt(self._search, [rows[at] for at in some], top_k, test)
        for at, hits in zip(sent, found, strict=True):
            # Some backends return documents whose dot product is 0, which are no hits.
            best = sorted((hit for hit in hits if hit[1] > 0), key=lambda hit: (-hit[1], hit[0]))[:top_k]
            for rank, (one, score) in enumerate(best):
                ids[at, rank], scores[at, rank] = one, score
        if schema.decoded:
            scores *= norms
        return Hits(ids if schema.ids == "integers" else ids.astype(str), scores)

    def count(self) -> int:
        """Count the documents of the collection.

        Raises:
            ValueError: if there is no such collection.
        """
        # Some backends would count 0 documents of a missing collection; this raises.
        _ = self.schema
        return self._attempt(self._count)

    def close(self) -> None:
        """Close connections and files."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def schema(self) -> Schema:
        """Schema of the collection.

        Raises:
            ValueError: if there is no such collection.
        """
        if self._known is None:
            self._known = self.read_schema()
        if self._known is None:
            raise ValueError(f"`collection`: {self.name} has no {self.collection!r} created by csr_hf. Call `create`.")
        return self._known

    def read_schema(self) -> Schema | None:
        """Read the schema from the backend; None if there is no such collection.

        Raises:
            BackendError: for a collection that csr_hf did not create.
        """
        stored = self._attempt(self._read_schema)
        if stored is None:
            return None
        if not stored:
            raise BackendError(
                f"{self.name} has {self.collection!r}, which csr_hf did not create. Choose another `collection`."
            )
        return Schema(**stored)

    def prepare(
        self,
        codes: SparseCodes,
        ids: Sequence[Hashable] | np.ndarray,
        *,
        decoded_norms: np.ndarray | None = None,
        metadata: Any = None,
        schema: Schema | None = None,
    ) -> Documents:
        """Check documents as `upsert` does, without sending them.

        Args:
            codes: as for `upsert`.
            ids: as for `upsert`.
            decoded_norms: as for `upsert`.
            metadata: as for `upsert`.
            schema: of a collection that does not exist yet; default that of the existing one.

        Raises:
            ValueError: as `upsert` does.
        """
        schema = schema or self.schema
        schema.check_codes(codes)
        if codes.k > schema.k:
            raise ValueError(f"`codes.k` ({codes.k}) is above the collection's ({schema.k}). Truncate to that.")
        if (decoded_norms is not None) != schema.decoded:
            given = "be given" if schema.decoded else "not be given"
            raise ValueError(f"`decoded_norms` must {given}, as the collection was created.")
        names = check_ids(ids, len(codes), schema.ids, self.limits.id_bytes, self.name)
        fields = to_fields(read_metadata(metadata, len(codes))[1], schema.columns, len(codes))
        check_length(fields, names, self.limits.text_bytes, self.name)
        documents = check_documents(codes, names, decoded_norms, fields)
        self._check_documents(documents)
        return documents

    def write(self, documents: Documents) -> None:
        """Send checked documents in one request. Up to `limits.threads` threads may do so at the same time.

        Raises:
            BackendError: if the backend refuses documents, which are named.
        """
        if len(documents.ids):
            self._attempt(self._write, documents)

    def flush(self) -> None:
        """Make written documents visible to searches."""
        self._attempt(self._flush)

    def _attempt(self, request: Callable[..., _Result], *arguments: Any) -> _Result:
        """Send a request, and translate what the client raises."""
        known: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, *self.errors)
        try:
            return request(*arguments)
        except Unavailable:
            raise
        except known as error:
            transient = isinstance(error, ConnectionError | TimeoutError) or self._is_transient(error)
            said = without_secrets(one_line(self._describe(error)))
            text, advice = f"{self.name}: {said}", self._advise(error, transient)
            if advice:
                text += f"{'' if text.endswith(('.', '?')) else '.'} {advice}"
            raise (Unavailable if transient else BackendError)(text) from error

    # What every backend implements. Errors of the client may pass.

    def _check_documents(self, documents: Documents) -> None:
        """Raise ValueError for documents that break a rule beyond the limits."""

    def _check_test(self, test: Test) -> None:
        """Raise ValueError for a test of metadata that the backend cannot make."""

    def _flush(self) -> None:
        """Make written documents visible; not needed where writes are visible at once."""

    def _describe(self, error: Exception) -> str:
        return str(error)

    def _advise(self, error: Exception, transient: bool) -> str:
        """Return what to do about an error; nothing where the text of the server must do."""
        return "Check that the server runs and that the URL names it, or try again later." if transient else ""

    @abstractmethod
    def _is_transient(self, error: Exception) -> bool:
        """Return whether sending the request again may help."""

    @abstractmethod
    def _read_schema(self) -> dict[str, Any] | None:
        """Return what `_create` stored; None without a collection, {} for one that csr_hf did not create."""

    @abstractmethod
    def _create(self, schema: Schema) -> None: ...

    @abstractmethod
    def _drop(self) -> None: ...

    @abstractmethod
    def _count(self) -> int: ...

    @abstractmethod
    def _write(self, documents: Documents) -> None: ...

    @abstractmethod
    def _delete(self, ids: list[Any]) -> int:
        """Remove documents, and return how many there were."""

    @abstractmethod
    def _search(self, rows: list[Row], top_k: int, test: Test | None) -> list[Found]: ...
