"""`opensearch://host` and `elasticsearch://host`: one REST API for documents, two types of field and query.

Both keep weights of a field in Lucene with 9 significant bits, so scores may be 0.4 % below the exact ones, and
documents that are closer than that may change places. Latents are features of one field, not fields of their own, so
the limit on fields of a mapping is not touched.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from csr_hf.backends.contract import EngineError, Found, Limits, Row, Schema, Unavailable, batches
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine
from csr_hf.backends.rest import Rest

_AT_ONCE = 50
_KEY = "csr_hf"
_FIELD = "code"


class _RestEngine(Engine):
    """What OpenSearch and Elasticsearch share.

    Limits are the servers' defaults: `index.max_result_window`, 10,000 hits; `indices.query.bool.max_clause_count`,
    1,024 latents of a query; ids of 512 bytes.

    Args:
        collection: name of the index.
        server: where to send requests.
    """

    limits = Limits(query_latents=1024, top_k=10_000, id_bytes=512)

    def __init__(self, collection: str, server: Rest) -> None:
        super().__init__(collection)
        self._server = server
        self._path = f"/{collection}"

    def write(self, documents: Documents) -> None:
        """Index documents in one bulk request; searches see them after `flush`."""
        self._bulk(self._lines(documents))

    def _lines(self, documents: Documents) -> Iterator[dict[str, Any]]:
        for one, latents, weights in documents.rows():
            yield {"index": {"_id": str(one)}}
            yield {_FIELD: _features(latents, weights)}

    def flush(self) -> None:
        """Refresh the index."""
        self._server.call("POST", f"{self._path}/_refresh")

    def read_schema(self) -> Schema | None:
        """Of the index, read anew; None if there is none."""
        answer = self._server.call("GET", f"{self._path}/_mapping", missing_ok=True)
        if answer is None:
            return None
        mappings = answer[self.collection]["mappings"]
        written = mappings.get("_meta", {}).get(_KEY)
        if written is None:
            raise EngineError(f"{self.name} has {self.collection!r}, which csr_hf did not make. Choose another name.")
        self._check_field(mappings["properties"][_FIELD])
        return Schema(**written)

    def _create(self, schema: Schema) -> None:
        version = self._version()
        mappings = {
            "dynamic": "strict",
            "_meta": {_KEY: schema._asdict()},
            "properties": {_FIELD: self._field(version)},
        }
        self._server.call("PUT", self._path, {"settings": self._settings(), "mappings": mappings})

    def _drop(self) -> None:
        self._server.call("DELETE", self._path)

    def _count(self) -> int:
        return int(self._server.call("GET", f"{self._path}/_count")["count"])

    def _delete(self, ids: list[Any]) -> None:
        for some in batches(ids, 1000):
            self._bulk({"delete": {"_id": str(one)}} for one in some)

    def _bulk(self, lines: Iterator[dict[str, Any]]) -> None:
        """Send operations; each of them succeeds or fails by itself."""
        sent = list(lines)
        if not sent:
            return
        answer = self._server.call_lines("POST", f"{self._path}/_bulk", sent)
        if not answer["errors"]:
            return
        results = [result for item in answer["items"] for result in item.values()]
        failed = [result for result in results if "error" in result]
        named = ", ".join(repr(result["_id"]) for result in failed[:10])
        first = failed[0]["error"]
        message = (
            f"{self.name} refused {len(failed)} of {len(results)} documents ({named}): "
            f"{first['type']}: {first['reason']}"
        )
        # The documents that were taken are written once more with the others, which changes nothing.
        if all(result["status"] in (429, 503) for result in failed):
            raise Unavailable(message)
        raise EngineError(message)

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        number = int if self.schema.ids == "integers" else str
        found: list[Found] = []
        for some in batches(rows, _AT_ONCE):
            lines: list[Any] = []
            for latents, weights in some:
                query = self._query(_features(latents, weights), top_k)
                lines += [{}, {"size": top_k, "_source": False, "track_total_hits": False, "query": query}]
            for answer in self._server.call_lines("POST", f"{self._path}/_msearch", lines)["responses"]:
                if "error" in answer:
                    failure = Unavailable if answer.get("status") in (429, 503) else EngineError
                    raise failure(f"{self.name}: {answer['error']['type']}: {answer['error']['reason']}")
                found.append([(number(hit["_id"]), float(hit["_score"])) for hit in answer["hits"]["hits"]])
        return found

    @abstractmethod
    def _version(self) -> tuple[int, int]:
        """Of the server.

        Raises:
            EngineError: if it is another product or too old.
        """

    def _settings(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def _field(self, version: tuple[int, int]) -> dict[str, Any]: ...

    def _check_field(self, field: dict[str, Any]) -> None:
        """Compare the field of an index that is there with what this object expects."""

    @abstractmethod
    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]: ...


class Elasticsearch(_RestEngine):
    """An index of Elasticsearch, 8.15 or newer, with a field of type `sparse_vector`.

    Queries turn token pruning off: its defaults drop latents that many documents share, or of small weight, which is
    meant for words. From 9.1 on it is also off in the field, for queries that others send.

    Args:
        collection: name of the index.
        server: where to send requests.
    """

    name = "Elasticsearch"

    def _version(self) -> tuple[int, int]:
        said = self._server.call("GET", "/")["version"]
        if said.get("distribution") == "opensearch":
            raise EngineError("the server is OpenSearch. Use a URL that begins with opensearch://.")
        # Serverless has all features, whatever number it gives.
        version = (99, 0) if said.get("build_flavor") == "serverless" else _numbers(said["number"])
        if version < (8, 15):
            raise EngineError(f"Elasticsearch {said['number']} has no sparse_vector query. Use 8.15 or newer.")
        return version

    def _field(self, version: tuple[int, int]) -> dict[str, Any]:
        field: dict[str, Any] = {"type": "sparse_vector"}
        return field if version < (9, 1) else {**field, "index_options": {"prune": False}}

    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]:
        return {"sparse_vector": {"field": _FIELD, "query_vector": features, "prune": False}}


class OpenSearch(_RestEngine):
    """An index of OpenSearch with a field of type `rank_features`, or `sparse_vector`.

    `rank_features` (2.11 or newer) scores every document that shares a latent with the query. `sparse_vector` (3.3 or
    newer) is approximate in segments of a million documents and more: it keeps `n_postings` documents of a latent and
    bytes for weights, of which the largest stands for `ceiling`. The server's defaults, 3 for documents and 16 for
    queries, would leave a few levels of weights of unit vectors.

    Args:
        collection: name of the index.
        server: where to send requests.
        field: "rank_features" or "sparse_vector".
        n_postings: for `sparse_vector`: documents of a latent to keep, at least those of the busiest one for a recall
            near 1. The server's default, 0.0005 of all, is far below what codes need: k / dim of all on average.
        ceiling: for `sparse_vector`: the largest weight of a document; at most 1 unless documents have decoded norms.

    Raises:
        ValueError: for an unknown field, numbers out of range, or `sparse_vector` without `n_postings`.
    """

    name = "OpenSearch"

    def __init__(
        self,
        collection: str,
        server: Rest,
        *,
        field: str = "rank_features",
        n_postings: int | None = None,
        ceiling: float = 1.0,
    ) -> None:
        super().__init__(collection, server)
        if field not in ("rank_features", "sparse_vector"):
            raise ValueError(f"`field` ({field!r}) must be rank_features or sparse_vector.")
        self._quantized = field == "sparse_vector"
        if self._quantized:
            if n_postings is None or n_postings < 1:
                raise ValueError(
                    f"`n_postings` ({n_postings}) must be given for sparse_vector: documents of a latent to keep. "
                    "The documents of the busiest latent lose nothing; k / dim of all documents is the average."
                )
            # The server keeps the number of a latent modulo this.
            self.limits = self.limits._replace(dim=32_768)
        if not (np.isfinite(ceiling) and ceiling > 0):
            raise ValueError(f"`ceiling` ({ceiling}) must be above 0: the largest weight of a document.")
        self._n_postings, self._ceiling = n_postings, float(ceiling)

    def _version(self) -> tuple[int, int]:
        said = self._server.call("GET", "/")["version"]
        if said.get("distribution") != "opensearch":
            raise EngineError("the server is not OpenSearch. Use a URL that begins with elasticsearch://.")
        needed = (3, 3) if self._quantized else (2, 11)
        if _numbers(said["number"]) < needed:
            oldest = ".".join(map(str, needed))
            raise EngineError(f"OpenSearch {said['number']} is too old for this field. Use {oldest} or newer.")
        return _numbers(said["number"])

    def _settings(self) -> dict[str, Any]:
        return {"index": {"sparse": True}} if self._quantized else {}

    def _field(self, version: tuple[int, int]) -> dict[str, Any]:
        if not self._quantized:
            return {"type": "rank_features"}
        parameters = {
            "n_postings": self._n_postings,
            "quantization_ceiling_ingest": self._ceiling,
            # Queries are of unit norm.
            "quantization_ceiling_search": 1.0,
        }
        return {"type": "sparse_vector", "method": {"name": "seismic", "parameters": parameters}}

    def _check_field(self, field: dict[str, Any]) -> None:
        expected = "sparse_vector" if self._quantized else "rank_features"
        if field["type"] != expected:
            raise ValueError(
                f"`field` ({expected}) in the URL is not that of the index {self.collection!r} ({field['type']}). "
                "Open it with that, or choose another `collection`."
            )
        if self._quantized:
            self._ceiling = float(field["method"]["parameters"]["quantization_ceiling_ingest"])

    def _check_documents(self, documents: Documents) -> None:
        weights = documents.weights
        # Rounding may lift a document with a single latent a little above 1.
        if self._quantized and weights.size and weights.max() > self._ceiling * (1 + 1e-6):
            row = int(np.argmax(weights.max(axis=1)))
            raise ValueError(
                f"`codes`: document {documents.ids[row].item()!r} has a weight of {weights.max():.4g}, above "
                f"`ceiling` ({self._ceiling}). Create one with `ceiling={weights.max() * 1.01:.3g}` in its URL."
            )

    def _query(self, features: dict[str, float], top_k: int) -> dict[str, Any]:
        query: dict[str, Any] = {"query_tokens": features}
        if self._quantized:
            # By default the server would look at the ten largest weights alone.
            query["method_parameters"] = {"k": top_k, "top_n": len(features), "heap_factor": 1.0}
        return {"neural_sparse": {_FIELD: query}}


def _features(latents: list[int], weights: list[float]) -> dict[str, float]:
    return {str(latent): weight for latent, weight in zip(latents, weights, strict=True)}


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise EngineError(f"the server's version ({version!r}) is not a number. Check the host and port in the URL.")
    return int(found[1]), int(found[2])
