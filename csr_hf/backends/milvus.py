"""`milvus-lite:./file.db` and `milvus://host`: one client, embedded or on a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from csr_hf.backends.contract import EngineError, Found, Limits, Row, Schema, batches
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_AT_ONCE = 100
_KEY = "csr_hf"


class Milvus(Engine):
    """A collection of Milvus with a primary key and a field of type SPARSE_FLOAT_VECTOR.

    Milvus takes inner products of weights that are not negative and vectors that are not empty. Reads see all writes
    (consistency level Strong), and no weight of a query is dropped (`drop_ratio_search` 0).

    Args:
        collection: its name.
        uri: a file of Milvus Lite, or http(s)://host:port.
        token: "user:password" or an API key.
        database: on a cluster; default the default one.
        timeout: seconds for a request.

    Raises:
        ImportError: if pymilvus, or milvus-lite for a file, is not installed.
    """

    name = "Milvus"
    limits = Limits(dim=2**32 - 1, top_k=16_384, id_bytes=512)

    def __init__(self, collection: str, uri: str, *, token: str = "", database: str = "", timeout: float = 60) -> None:
        super().__init__(collection)
        try:
            import pymilvus

            if "://" not in uri:
                import milvus_lite  # noqa: F401
        except ImportError as error:
            raise ImportError('milvus needs pymilvus and milvus-lite: pip install "csr_hf[milvus]"') from error
        self._client: MilvusClient = pymilvus.MilvusClient(uri=uri, token=token, db_name=database, timeout=timeout)
        self._timeout = timeout

    def close(self) -> None:
        """Close the connection, and the file."""
        self._client.close()

    def write(self, documents: Documents) -> None:
        """Upsert documents in one request."""
        rows = [
            {"id": one, "code": dict(zip(latents, weights, strict=True))} for one, latents, weights in documents.rows()
        ]
        if rows:
            self._client.upsert(self.collection, rows, timeout=self._timeout)

    def is_transient(self, error: Exception) -> bool:
        """Whether sending a request again may help."""
        from grpc import RpcError, StatusCode
        from pymilvus.exceptions import ConnectError, ErrorCode, MilvusException, MilvusUnavailableException

        if isinstance(error, MilvusException):
            busy = error.retriable or error.code == ErrorCode.RATE_LIMIT
            return busy or isinstance(error, ConnectError | MilvusUnavailableException)
        if isinstance(error, RpcError):
            return error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        return super().is_transient(error)

    def read_schema(self) -> Schema | None:
        """Of the collection, read anew; None if there is none that csr_hf made."""
        if not self._client.has_collection(self.collection, timeout=self._timeout):
            return None
        kept = self._client.describe_collection(self.collection, timeout=self._timeout)
        written = kept["properties"].get(_KEY)
        if written is None:
            raise EngineError(f"Milvus has {self.collection!r}, which csr_hf did not make. Choose another name.")
        self._client.load_collection(self.collection, timeout=self._timeout)
        return Schema(**json.loads(written))

    def _create(self, schema: Schema) -> None:
        from pymilvus import DataType

        fields = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        if schema.ids == "integers":
            fields.add_field("id", DataType.INT64, is_primary=True)
        else:
            fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=self.limits.id_bytes)
        fields.add_field("code", DataType.SPARSE_FLOAT_VECTOR)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_collection(
            self.collection,
            schema=fields,
            index_params=index,
            consistency_level="Strong",
            properties={_KEY: json.dumps(schema._asdict())},
            timeout=self._timeout,
        )

    def _drop(self) -> None:
        self._client.drop_collection(self.collection, timeout=self._timeout)

    def _count(self) -> int:
        (answer,) = self._client.query(self.collection, filter="", output_fields=["count(*)"], timeout=self._timeout)
        return int(answer["count(*)"])

    def _delete(self, ids: list[Any]) -> None:
        for some in batches(ids, 1000):
            # The client's own `ids=` does not escape quotes and backslashes; literals of JSON do.
            chosen = f"id in {json.dumps(list(some), ensure_ascii=False)}"
            self._client.delete(self.collection, filter=chosen, timeout=self._timeout)

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        found: list[Found] = []
        for some in batches(rows, _AT_ONCE):
            answers = self._client.search(
                self.collection,
                data=[dict(zip(latents, weights, strict=True)) for latents, weights in some],
                anns_field="code",
                limit=top_k,
                output_fields=["id"],
                search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
                timeout=self._timeout,
            )
            found += [[(hit["id"], float(hit["distance"])) for hit in hits] for hits in answers]
        return found
