"""`qdrant-local:./folder` and `qdrant://host`: one client, embedded or on a server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from csr_hf.backends.contract import EngineError, Found, Limits, Row, Schema, batches
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_AT_ONCE = 100
_KEY = "csr_hf"
_NAMES = uuid.UUID("6f2c5c6e-3f0e-5d83-9b4e-7f6f8f4d2a10")


class Qdrant(Engine):
    """A collection of Qdrant with one sparse vector a point, compared by dot product, exactly.

    Points are named by unsigned integers or UUIDs: strings and negative numbers become a UUID made of them, the same
    every time, and are kept in the payload.

    Args:
        collection: its name.
        path: folder of the embedded form, or ":memory:".
        url: of a server, http(s)://host:port. One of both.
        api_key: for a server.
        timeout: seconds for a request.

    Raises:
        ImportError: if qdrant-client is not installed.
    """

    name = "Qdrant"
    limits = Limits(dim=2**32 - 1)

    def __init__(
        self,
        collection: str,
        *,
        path: str | None = None,
        url: str | None = None,
        api_key: str | None = None,
        timeout: int = 60,
    ) -> None:
        super().__init__(collection)
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise ImportError('qdrant needs qdrant-client: pip install "csr_hf[qdrant]"') from error
        self._client: QdrantClient
        if path is not None:
            # The embedded form is not made for several threads.
            self.limits = self.limits._replace(threads=1)
            self._client = QdrantClient(location=path) if path == ":memory:" else QdrantClient(path=path)
        else:
            self._client = QdrantClient(url=url, api_key=api_key, timeout=timeout)

    def close(self) -> None:
        """Close the connection, or the folder."""
        self._client.close()

    def write(self, documents: Documents) -> None:
        """Upsert documents in one request, and wait until they are there."""
        from qdrant_client import models

        points = [
            models.PointStruct(
                id=_point(one),
                vector={"code": models.SparseVector(indices=latents, values=weights)},
                payload={} if isinstance(_point(one), int) else {"id": one},
            )
            for one, latents, weights in documents.rows()
        ]
        if points:
            self._client.upsert(self.collection, points, wait=True)

    def is_transient(self, error: Exception) -> bool:
        """Whether sending a request again may help."""
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        if isinstance(error, UnexpectedResponse):
            return error.status_code in (429, 502, 503, 504)
        return isinstance(error, ResponseHandlingException | ResourceExhaustedResponse) or super().is_transient(error)

    def read_schema(self) -> Schema | None:
        """Of the collection, read anew; None if there is none that csr_hf made."""
        if not self._client.collection_exists(self.collection):
            return None
        written = (self._client.get_collection(self.collection).config.metadata or {}).get(_KEY)
        if written is None:
            raise EngineError(
                f"Qdrant has {self.collection!r} without the settings of csr_hf: something else made it, or the "
                "server is older than 1.16, which keeps none. Choose another name, or a newer server."
            )
        return Schema(**written)

    def _create(self, schema: Schema) -> None:
        from qdrant_client import models

        self._client.create_collection(
            self.collection,
            vectors_config={},
            sparse_vectors_config={
                "code": models.SparseVectorParams(index=models.SparseIndexParams(datatype=models.Datatype.FLOAT32))
            },
            metadata={_KEY: schema._asdict()},
        )

    def _drop(self) -> None:
        self._client.delete_collection(self.collection)

    def _count(self) -> int:
        return self._client.count(self.collection, exact=True).count

    def _delete(self, ids: list[Any]) -> None:
        from qdrant_client import models

        for some in batches(ids, 1000):
            chosen = models.PointIdsList(points=[_point(one) for one in some])
            self._client.delete(self.collection, chosen, wait=True)

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        from qdrant_client import models

        found: list[Found] = []
        for some in batches(rows, _AT_ONCE):
            requests = [
                models.QueryRequest(
                    query=models.SparseVector(indices=latents, values=weights),
                    using="code",
                    limit=top_k,
                    with_payload=["id"],
                )
                for latents, weights in some
            ]
            for answer in self._client.query_batch_points(self.collection, requests):
                found.append([((hit.payload or {}).get("id", hit.id), hit.score) for hit in answer.points])
        return found


def _point(one: int | str) -> int | str:
    """What Qdrant names the document by."""
    if isinstance(one, int) and one >= 0:
        return one
    return str(uuid.uuid5(_NAMES, f"{type(one).__name__}:{one}"))
