"""`elasticsearch://host` and `opensearch://host`: nearly the same API, with different types of fields and queries.

Both keep the weights of a field in Lucene with 9 significant bits, so scores may be 0.4 % below the exact ones, and
documents that are closer than that may change places. Latents are features of one field instead of fields, so the
limit on fields of a mapping does not matter.
"""

from __future__ import annotations

import re
import ssl
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from csr_hf.backends.address import Address
from csr_hf.backends.backend import Backend
from csr_hf.backends.conditions import Among, Bound, Presence, Test, fold
from csr_hf.backends.contract import KEY, BackendError, Found, Limits, Unavailable
from csr_hf.backends.documents import Documents, Row
from csr_hf.backends.metadata import fields_of
from csr_hf.backends.schema import Schema

_FIELD = "code"
_TYPES = {"text": "keyword", "integer": "long", "number": "double", "boolean": "boolean"}
_BUSY = (429, 502, 503, 504)
_TIMEOUT = 60
_Number = TypeVar("_Number", int, float)


class _LuceneBackend(Backend):
    """What Elasticsearch and OpenSearch share.

    Limits are the servers' defaults: `index.max_result_window`, 10,000 hits; `indices.query.bool.max_clause_count`,
    1,024 latents of a query; ids of 512 bytes. Clients do not retry: `upload` does.
    """

    limits = Limits(query_latents=1024, top_k=10_000, id_bytes=512, text_bytes=32_766)
    _client: Any
    _unreachable: tuple[type[Exception], ...]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _is_transient(self, error: Exception) -> bool:
        from urllib3.exceptions import NameResolutionError, SSLError

        # An unknown host or a wrong certificate stays so.
        lasting = isinstance(error.__context__, NameResolutionError | SSLError)
        return getattr(error, "status_code", None) in _BUSY or (isinstance(error, self._unreachable) and not lasting)

    def _advise(self, error: Exception, transient: bool) -> str:
        if isinstance(error, self._unreachable):
            return "Check that the server runs, and the host, the port and `tls` in the URL."
        return super()._advise(error, transient)

    def _read_schema(self) -> dict[str, Any] | None:
        if not self._client.indices.exists(index=self.collection):
            return None
        mappings = self._client.indices.get_mapping(index=self.collection)[self.collection]["mappings"]
        stored: dict[str, Any] = mappings.get("_meta", {}).get(KEY, {})
        if stored:
            self._check_field(mappings["properties"][_FIELD])
        return stored

    def _create(self, schema: Schema) -> None:
        settings, field = self._design(self._client.info()["version"])
        columns = {name: {"type": _TYPES[kind]} for name, kind in fields_of(schema.columns).items()}
        properties = {_FIELD: field, **columns}
        mappings = {"dynamic": "strict", "_meta": {KEY: asdict(schema)}, "properties": properties}
        self._client.indices.create(index=self.collection, body={"settings": settings, "mappings": mappings})

    def _drop(self) -> None:
        self._client.indices.delete(index=self.collection)

    def _count(self) -> int:
        return int(self._client.count(index=self.collection)["count"])

    def _flush(self) -> None:
        self._client.indices.refresh(index=self.collection)

    def _write(self, documents: Documents) -> None:
        self._send_bulk(
            line
            for one, latents, weights, fields in documents.rows()
            for line in ({"index": {"_id": str(one)}}, {_FIELD: _features(latents, weights), **fields})
        )

    def _delete(self, ids: list[Any]) -> int:
        results = self._send_bulk({"delete": {"_id": str(one)}} for one in ids)
        return sum(result["result"] == "deleted" for result in results)

    def _send_bulk(self, lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send operations, each of which succeeds or fails by itself; returns what became of them."""
        answer = self._client.bulk(index=self.collection, body=list(lines))
        results = [result for item in answer["items"] for result in item.values()]
        if not answer["errors"]:
            return results
        failed = [result for result in results if "error" in result]
        names, first = ", ".join(repr(result["_id"]) for result in failed[:10]), failed[0]["error"]
        # Documents that were taken are written again with the others, which changes nothing.
        busy = all(result["status"] in _BUSY for result in failed)
        raise (Unavailable if busy else BackendError)(
            f"{self.name} refused {len(failed)} of {len(results)} documents ({names}): "
            f"{first['type']}: {first['reason']}"
        )

    def _search(self, rows: list[Row], top_k: int, test: Test | None) -> list[Found]:
        to_id = int if self.schema.ids == "integers" else str
        lines: list[Any] = []
        for latents, weights in rows:
            query = self._query(_features(latents, weights), top_k)
            if test is not None:
                query = {"bool": {"must": [query], "filter": [fold(test, _condition, _join)]}}
            lines += [{}, {"size": top_k, "_source": False, "track_total_hits": False, "query": query}]
        found: list[Found] = []
        for answer in self._client.msearch(index=self.collection, body=lines)["responses"]:
            if "error" in answer:
                kind = Unavailable if answer.get("status") in _BUSY else BackendError
                raise kind(f"{self.name}: {answer['error']['type']}: {answer['error']['reason']}")
            found.append([(to_id(hit["_id"]), float(hit["_score"])) for hit in answer["hits"]["hits"]])
        return found

    @abstractmethod
    def _design(self, version: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings of an index and its field; raise BackendError for servers that are too old."""

    def _check_field(self, field: dict[str, Any]) -> None:
        """Compare the field of an existing index with what the URL says."""

    @abstractmethod
    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]: ...


class Elasticsearch(_LuceneBackend):
    """An index of Elasticsearch, 8.15 or newer, with a field of type `sparse_vector`.

    Queries turn token pruning off: its defaults drop latents that many documents share, or of small weight, which is
    meant for words. From 9.1 on it is also off in the field, for queries that others send.
    """

    name = "Elasticsearch"

    def __init__(self, url: str, collection: str, api_key: str | None = None) -> None:
        super().__init__(collection)
        import elasticsearch

        address = Address.parse(url)
        options = _connection_options(address)
        if api_key is not None:
            options["api_key"] = api_key
        elif address.user:
            options["basic_auth"] = (address.user, address.password)
        self.errors = (elasticsearch.TransportError, elasticsearch.ApiError)
        self._unreachable = (elasticsearch.ConnectionError, elasticsearch.ConnectionTimeout)
        self._client = elasticsearch.Elasticsearch(request_timeout=_TIMEOUT, **options)

    def _describe(self, error: Exception) -> str:
        from elasticsearch import TransportError, UnsupportedProductError

        if isinstance(error, UnsupportedProductError):
            return "the server is another product. For OpenSearch, use a URL that begins with opensearch://."
        # The text of a `TransportError` leaves the reason out.
        return str(error.message) if isinstance(error, TransportError) else str(error)

    def _design(self, version: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        # Serverless has all features, whatever number it gives.
        number = (99, 0) if version.get("build_flavor") == "serverless" else _numbers(version["number"])
        if number < (8, 15):
            raise BackendError(f"Elasticsearch {version['number']} has no sparse_vector query. Use 8.15 or newer.")
        options = {"index_options": {"prune": False}} if number >= (9, 1) else {}
        return {}, {"type": "sparse_vector", **options}

    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]:
        return {"sparse_vector": {"field": _FIELD, "query_vector": features, "prune": False}}


class OpenSearch(_LuceneBackend):
    """An index of OpenSearch with a field of type `rank_features`, or `sparse_vector`.

    `rank_features` (2.11 or newer) scores every document that shares a latent with the query. `sparse_vector` (3.3 or
    newer) is approximate in segments of a million documents and more: it keeps `n_postings` documents of a latent and
    bytes for weights, of which the largest stands for `ceiling`. The server's defaults, 3 for documents and 16 for
    queries, would leave a few levels for weights of unit vectors.

    The URL may set `field`, `n_postings` and `ceiling`. `n_postings` should be the number of documents of the most
    frequent latent for a recall near 1; the server's default, 0.0005 of all, is far below what codes need: k / dim of
    all on average. `ceiling` is 1 by default, which only weights of documents with decoded norms exceed.
    """

    name = "OpenSearch"

    def __init__(self, url: str, collection: str, api_key: None = None) -> None:
        super().__init__(collection)
        import opensearchpy

        address = Address.parse(url, "field", "n_postings", "ceiling")
        field = address.options.get("field", "rank_features")
        if field not in ("rank_features", "sparse_vector"):
            raise ValueError(f"`field` ({field!r}) must be rank_features or sparse_vector.")
        self._field = field
        self._n_postings = _number(address, "n_postings", 0)
        self._ceiling = _number(address, "ceiling", 1.0)
        if field == "sparse_vector":
            if self._n_postings < 1:
                raise ValueError(
                    f"`n_postings` ({self._n_postings}) must be given for sparse_vector: documents to keep of "
                    "a latent. Those of the most frequent latent lose nothing; k / dim of all is the average."
                )
            # The server keeps the number of a latent modulo this.
            self.limits = self.limits._replace(dim=32_768)
        if not (np.isfinite(self._ceiling) and self._ceiling > 0):
            raise ValueError(f"`ceiling` ({self._ceiling}) must be above 0: the largest weight of a document.")
        options = _connection_options(address)
        if address.user:
            options["http_auth"] = (address.user, address.password)
        self.errors = (opensearchpy.OpenSearchException,)
        self._unreachable = (opensearchpy.ConnectionError, opensearchpy.ConnectionTimeout)
        # By default the client keeps one connection, and warns of every further thread.
        self._client = opensearchpy.OpenSearch(timeout=_TIMEOUT, pool_maxsize=10, **options)

    def _describe(self, error: Exception) -> str:
        from opensearchpy import ConnectionError

        # The text of this one has the reason twice.
        return str(error.error if isinstance(error, ConnectionError) else error)

    def _design(self, version: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if version.get("distribution") != "opensearch":
            raise BackendError("the server is not OpenSearch. Use a URL that begins with elasticsearch://.")
        quantized = self._field == "sparse_vector"
        if _numbers(version["number"]) < ((3, 3) if quantized else (2, 11)):
            oldest = "3.3" if quantized else "2.11"
            raise BackendError(f"OpenSearch {version['number']} is too old for {self._field}. Use {oldest} or newer.")
        if not quantized:
            return {}, {"type": "rank_features"}
        parameters = {
            "n_postings": self._n_postings,
            "quantization_ceiling_ingest": self._ceiling,
            # Queries have unit norm.
            "quantization_ceiling_search": 1.0,
        }
        method = {"name": "seismic", "parameters": parameters}
        return {"index": {"sparse": True}}, {"type": "sparse_vector", "method": method}

    def _check_field(self, field: dict[str, Any]) -> None:
        if field["type"] != self._field:
            raise ValueError(
                f"`field` ({self._field}) in the URL is not that of the index {self.collection!r} ({field['type']}). "
                "Open it with that, or choose another `collection`."
            )
        if self._field == "sparse_vector":
            self._ceiling = float(field["method"]["parameters"]["quantization_ceiling_ingest"])

    def _check_documents(self, documents: Documents) -> None:
        largest = documents.weights.max(initial=0)
        # Rounding may lift the weight of a document with a single latent a little above 1.
        if self._field == "sparse_vector" and largest > self._ceiling * (1 + 1e-6):
            row = int(np.argmax(documents.weights.max(axis=1)))
            raise ValueError(
                f"`codes`: document {documents.ids.tolist()[row]!r} has a weight of {largest:.4g}, above `ceiling` "
                f"({self._ceiling}). Create a collection with `ceiling={largest * 1.01:.3g}` in its URL."
            )

    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]:
        query: dict[str, Any] = {"query_tokens": features}
        if self._field == "sparse_vector":
            # By default the server would use only the ten largest weights.
            query["method_parameters"] = {"k": top_k, "top_n": len(features), "heap_factor": 1.0}
        return {"neural_sparse": {_FIELD: query}}


def _connection_options(address: Address) -> dict[str, Any]:
    """Return what both clients take. The TLS context trusts the system and SSL_CERT_FILE; no redirect is followed."""
    options: dict[str, Any] = {"hosts": [f"{address.origin(9200)}/{address.path}".rstrip("/")], "max_retries": 0}
    if address.secure:
        options["ssl_context"] = ssl.create_default_context()
    return options


def _number(address: Address, name: str, default: _Number) -> _Number:
    try:
        return type(default)(address.options.get(name, default))
    except ValueError as error:
        raise ValueError(f"`{name}` ({address.options[name]!r}) in the URL is no number.") from error


def _features(latents: list[int], weights: list[float]) -> dict[str, float]:
    return {str(latent): weight for latent, weight in zip(latents, weights, strict=True)}


def _condition(test: Among | Bound | Presence) -> dict[str, Any]:
    """Write a test of a field as a query. What is missing fits no query but the negation of `exists`."""
    present = {"exists": {"field": test.field}}
    if isinstance(test, Presence):
        return present if test.expected else {"bool": {"must_not": [present]}}
    if isinstance(test, Bound):
        names = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
        return {"range": {test.field: {names[test.operator]: test.value}}}
    found = {"terms": {test.field: list(test.values)}}
    return {"bool": {"must": [present], "must_not": [found]}} if test.excluded else found


def _join(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if operator == "and":
        return {"bool": {"must": parts}}
    return {"bool": {"should": parts, "minimum_should_match": 1}}


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise BackendError(f"the server's version ({version!r}) is not a number. Check the host and port in the URL.")
    return int(found[1]), int(found[2])
