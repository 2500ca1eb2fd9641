"""`qdrant-local:./folder` and `qdrant://host`: one client, embedded or on a server."""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csr_hf.backends.address import EMBEDDED, Address
from csr_hf.backends.backend import Backend
from csr_hf.backends.conditions import Among, Bound, Presence, Test, fold
from csr_hf.backends.contract import KEY, BackendError, Found, Limits, Unavailable
from csr_hf.backends.documents import Documents, Row
from csr_hf.backends.schema import Schema

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_LARGEST_EXACT = 2**53
_NAMESPACE = uuid.UUID("6f2c5c6e-3f0e-5d83-9b4e-7f6f8f4d2a10")


class Qdrant(Backend):
    """A collection of Qdrant with one sparse vector in a point, compared by dot product, exactly.

    Points are named by unsigned integers or UUIDs. Strings and negative numbers become UUIDs that are computed from
    them, and are kept in the payload.
    """

    name = "Qdrant"
    limits = Limits(dim=2**32 - 1)

    def __init__(self, url: str, collection: str, api_key: str | None = None) -> None:
        super().__init__(collection)
        # Its client brings gRPC, whose core writes its log to stderr by itself, and reads this when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from qdrant_client import QdrantClient
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        address = Address.parse(url)
        self.errors = (ApiException, QdrantException)
        self._client: QdrantClient
        if address.scheme in EMBEDDED:
            # The embedded form cannot be used by several threads.
            self.limits = self.limits._replace(threads=1)
            in_memory = address.path == ":memory:"
            try:
                self._client = QdrantClient(":memory:") if in_memory else QdrantClient(path=address.path)
            except RuntimeError as error:
                # The client says so of a folder that another process holds, in several lines.
                raise Unavailable(
                    f"Qdrant: another process uses {address.path}. Wait for it, or start a server and use qdrant://."
                ) from error
        elif address.user or address.path:
            raise ValueError("`url`: Qdrant takes neither user nor path. Pass `api_key`.")
        else:
            self._client = QdrantClient(
                url=address.origin(6333), api_key=api_key, timeout=60, check_compatibility=False
            )

    def close(self) -> None:
        """Close the connection, or the folder."""
        self._client.close()

    def _is_transient(self, error: Exception) -> bool:
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        if isinstance(error, UnexpectedResponse):
            return error.status_code in (429, 502, 503, 504)
        return isinstance(error, ResponseHandlingException | ResourceExhaustedResponse)

    def _read_schema(self) -> dict[str, Any] | None:
        if not self._client.collection_exists(self.collection):
            return None
        stored: dict[str, Any] | None
        stored = (self._client.get_collection(self.collection).config.metadata or {}).get(KEY)
        if stored is None:
            raise BackendError(
                f"Qdrant has {self.collection!r} without a schema of csr_hf: something else created it, or the server "
                "is older than 1.16, which stores none. Choose another `collection`, or a newer server."
            )
        return stored

    def _create(self, schema: Schema) -> None:
        from qdrant_client import models

        self._client.create_collection(
            self.collection,
            vectors_config={},
            sparse_vectors_config={
                "code": models.SparseVectorParams(index=models.SparseIndexParams(datatype=models.Datatype.FLOAT32))
            },
            metadata={KEY: asdict(schema)},
        )

    def _drop(self) -> None:
        self._client.delete_collection(self.collection)

    def _count(self) -> int:
        return self._client.count(self.collection, exact=True).count

    def _write(self, documents: Documents) -> None:
        from qdrant_client import models

        points = [
            models.PointStruct(
                id=_point(one),
                vector={"code": models.SparseVector(indices=latents, values=weights)},
                payload=fields if isinstance(_point(one), int) else {"id": one, **fields},
            )
            for one, latents, weights, fields in documents.rows()
        ]
        self._client.upsert(self.collection, points, wait=True)

    def _delete(self, ids: list[Any]) -> int:
        from qdrant_client import models

        points: list[Any] = [_point(one) for one in ids]
        found = self._client.retrieve(self.collection, points, with_payload=False, with_vectors=False)
        self._client.delete(self.collection, models.PointIdsList(points=points), wait=True)
        return len(found)

    def _check_test(self, test: Test) -> None:
        if isinstance(test, Bound):
            if isinstance(test.value, str):
                raise ValueError("`filter`: Qdrant compares texts by ==, != and in alone, not by <. Name the values.")
            if abs(test.value) > _LARGEST_EXACT and isinstance(test.value, int):
                raise ValueError(f"`filter`: Qdrant rounds {test.value} to a float. Use == or a float.")
        for each in getattr(test, "tests", ()):
            self._check_test(each)

    def _search(self, rows: list[Row], top_k: int, test: Test | None) -> list[Found]:
        from qdrant_client import models

        chosen = None if test is None else models.Filter(must=[fold(test, _condition, _join)])
        requests = [
            models.QueryRequest(
                query=models.SparseVector(indices=latents, values=weights),
                using="code",
                filter=chosen,
                limit=top_k,
                with_payload=["id"],
            )
            for latents, weights in rows
        ]
        answers = self._client.query_batch_points(self.collection, requests)
        return [[((hit.payload or {}).get("id", hit.id), hit.score) for hit in answer.points] for answer in answers]


def _point(one: int | str) -> int | str:
    """Return the name of the point of a document."""
    if isinstance(one, int) and one >= 0:
        return one
    return str(uuid.uuid5(_NAMESPACE, f"{type(one).__name__}:{one}"))


def _condition(test: Among | Bound | Presence) -> Any:
    """Write a test of a field as a condition of Qdrant, for which a missing key is empty."""
    from qdrant_client import models

    missing = models.IsEmptyCondition(is_empty=models.PayloadField(key=test.field))
    if isinstance(test, Presence):
        return models.Filter(must_not=[missing]) if test.expected else missing
    if isinstance(test, Bound):
        bound: dict[str, Any] = {{"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[test.operator]: test.value}
        return models.FieldCondition(key=test.field, range=models.Range(**bound))
    values: list[Any] = list(test.values)
    if isinstance(values[0], float):
        # A match takes no floats.
        ranges = [models.Range(gte=each, lte=each) for each in values]
        equal = [models.FieldCondition(key=test.field, range=each) for each in ranges]
    else:
        equal = [models.FieldCondition(key=test.field, match=models.MatchValue(value=each)) for each in values]
    return models.Filter(must_not=[missing, *equal]) if test.excluded else _join("or", equal)


def _join(operator: str, parts: list[Any]) -> Any:
    from qdrant_client import models

    return models.Filter(must=parts) if operator == "and" else models.Filter(should=parts)
