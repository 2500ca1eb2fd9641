"""`qdrant-local:./folder` and `qdrant://host`: one client, embedded or on a server."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csr_hf.backends.address import EMBEDDED, Address
from csr_hf.backends.backend import KEY, Backend, BackendError, Found, Limits, Schema
from csr_hf.backends.documents import Documents, Row

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

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
            self._client = QdrantClient(":memory:") if in_memory else QdrantClient(path=address.path)
        elif address.user or address.path:
            raise ValueError("`url`: Qdrant takes neither user nor path. Pass `api_key`.")
        else:
            self._client = QdrantClient(url=address.origin(6333), api_key=api_key, timeout=60)

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
                payload={} if isinstance(_point(one), int) else {"id": one},
            )
            for one, latents, weights in documents.rows()
        ]
        self._client.upsert(self.collection, points, wait=True)

    def _delete(self, ids: list[Any]) -> int:
        from qdrant_client import models

        points: list[Any] = [_point(one) for one in ids]
        found = self._client.retrieve(self.collection, points, with_payload=False, with_vectors=False)
        self._client.delete(self.collection, models.PointIdsList(points=points), wait=True)
        return len(found)

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        from qdrant_client import models

        requests = [
            models.QueryRequest(
                query=models.SparseVector(indices=latents, values=weights),
                using="code",
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
