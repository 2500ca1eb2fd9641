"""`milvus-lite:./file.db` and `milvus://host`: one client, embedded or on a cluster."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from csr_hf.backends.address import EMBEDDED, Address
from csr_hf.backends.backend import Backend
from csr_hf.backends.conditions import Among, Bound, Presence, Test, fold
from csr_hf.backends.contract import KEY, Found, Limits
from csr_hf.backends.documents import Documents, Row
from csr_hf.backends.metadata import fields_of
from csr_hf.backends.schema import Schema

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_TIMEOUT = 60


class Milvus(Backend):
    """A collection of Milvus with a primary key and a field of type SPARSE_FLOAT_VECTOR.

    Milvus computes inner products of weights that are not negative and vectors that are not empty. Reads see all
    writes (consistency level Strong), and no weight of a query is dropped (`drop_ratio_search` 0).
    """

    name = "Milvus"
    limits = Limits(dim=2**32 - 1, top_k=16_384, id_bytes=512, text_bytes=65_535)

    def __init__(self, url: str, collection: str, api_key: str | None = None) -> None:
        super().__init__(collection)
        # The core of gRPC writes its log to stderr by itself, and reads this when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import pymilvus
        from grpc import RpcError

        # The client writes every error to stderr before it raises it.
        logging.getLogger("pymilvus").handlers = [logging.NullHandler()]

        address = Address.parse(url)
        if address.scheme in EMBEDDED:
            import milvus_lite  # noqa: F401

            # The embedded server logs a traceback of what the client asks and it does not know.
            logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
            where = {"uri": address.path}
        else:
            token = api_key or (f"{address.user}:{address.password}" if address.user else "")
            where = {"uri": address.origin(19530), "token": token, "db_name": address.path}
        self.errors = (pymilvus.MilvusException, RpcError)
        # A client of a server connects at once.
        self._client: MilvusClient = self._attempt(lambda: pymilvus.MilvusClient(**where, timeout=_TIMEOUT))

    def close(self) -> None:
        """Close the connection, and the file."""
        self._client.close()

    def _describe(self, error: Exception) -> str:
        # The text of the client's own errors is that of the object.
        return str(getattr(error, "message", error))

    def _is_transient(self, error: Exception) -> bool:
        from grpc import RpcError, StatusCode
        from pymilvus.client.types import Status
        from pymilvus.exceptions import ConnectError, ErrorCode, MilvusException, MilvusUnavailableException

        if isinstance(error, MilvusException):
            busy = error.retriable or error.code in (ErrorCode.RATE_LIMIT, Status.CONNECT_FAILED)
            return busy or isinstance(error, ConnectError | MilvusUnavailableException)
        return isinstance(error, RpcError) and error.code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)

    def _read_schema(self) -> dict[str, Any] | None:
        if not self._client.has_collection(self.collection, timeout=_TIMEOUT):
            return None
        stored = self._client.describe_collection(self.collection, timeout=_TIMEOUT)["properties"].get(KEY)
        if stored is None:
            return {}
        self._client.load_collection(self.collection, timeout=_TIMEOUT)
        found: dict[str, Any] = json.loads(stored)
        return found

    def _create(self, schema: Schema) -> None:
        from pymilvus import DataType

        fields = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        if schema.ids == "integers":
            fields.add_field("id", DataType.INT64, is_primary=True)
        else:
            fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=self.limits.id_bytes)
        fields.add_field("code", DataType.SPARSE_FLOAT_VECTOR)
        types = {"integer": DataType.INT64, "number": DataType.DOUBLE, "boolean": DataType.BOOL}
        for name, kind in fields_of(schema.columns).items():
            if kind == "text":
                fields.add_field(name, DataType.VARCHAR, max_length=self.limits.text_bytes, nullable=True)
            else:
                fields.add_field(name, types[kind], nullable=True)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_collection(
            self.collection,
            schema=fields,
            index_params=index,
            consistency_level="Strong",
            properties={KEY: json.dumps(asdict(schema))},
            timeout=_TIMEOUT,
        )

    def _drop(self) -> None:
        self._client.drop_collection(self.collection, timeout=_TIMEOUT)

    def _count(self) -> int:
        (answer,) = self._client.query(self.collection, filter="", output_fields=["count(*)"], timeout=_TIMEOUT)
        return int(answer["count(*)"])

    def _write(self, documents: Documents) -> None:
        rows = [
            {"id": one, "code": dict(zip(latents, weights, strict=True)), **fields}
            for one, latents, weights, fields in documents.rows()
        ]
        self._client.upsert(self.collection, rows, timeout=_TIMEOUT)

    def _delete(self, ids: list[Any]) -> int:
        # The client's `ids=` does not escape quotes and backslashes.
        chosen = f"id in {_literals(ids)}"
        # The client counts what was asked for, not what was there.
        found = self._client.query(self.collection, filter=chosen, output_fields=["id"], timeout=_TIMEOUT)
        self._client.delete(self.collection, filter=chosen, timeout=_TIMEOUT)
        return len(found)

    def _search(self, rows: list[Row], top_k: int, test: Test | None) -> list[Found]:
        answers = self._client.search(
            self.collection,
            data=[dict(zip(latents, weights, strict=True)) for latents, weights in rows],
            anns_field="code",
            filter="" if test is None else fold(test, _expression, lambda word, parts: f"({f' {word} '.join(parts)})"),
            limit=top_k,
            output_fields=["id"],
            search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
            timeout=_TIMEOUT,
        )
        return [[(hit["id"], float(hit["distance"])) for hit in hits] for hits in answers]


def _expression(test: Among | Bound | Presence) -> str:
    """Write a test of a field in Milvus' language. Names of fields are plain words."""
    if isinstance(test, Presence):
        return f"{test.field} is {'not ' if test.expected else ''}null"
    if isinstance(test, Bound):
        return f"{test.field} {test.operator} {_literals([test.value])[1:-1]}"
    found = f"{test.field} in {_literals(test.values)}"
    return f"({test.field} is not null and not ({found}))" if test.excluded else found


def _literals(values: Sequence[str | int | float | bool]) -> str:
    """Write values as a list. Texts are quoted; unlike JSON, Milvus knows no escape but those of C."""
    return f"[{', '.join(_quote(one) if isinstance(one, str) else json.dumps(one) for one in values)}]"


def _quote(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}
    return f'"{"".join(escapes.get(char, char) for char in text)}"'
