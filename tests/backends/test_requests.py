"""The exact requests to OpenSearch and Elasticsearch, and what becomes of every kind of answer."""

import base64

import numpy as np
import pytest

from csr_hf.backends import EngineError, Unavailable, open_engine, upload
from csr_hf.sparse_codes import SparseCodes
from tests.backends.stand_in import StandIn
from tests.search.test_index import random_codes

DOCUMENTS = SparseCodes(np.array([[7, 2], [4, 0]]), np.array([[4.0, 3.0], [2.0, 0.0]], np.float16), 10)
QUERY = SparseCodes(np.array([[2, 9]]), np.array([[0.8, 0.6]], np.float32), 10)


@pytest.fixture
def served(request):
    """A function that starts a stand-in of a product, and opens a collection on it."""

    def start(product, options="", version=None, user=""):
        server = StandIn(product)
        request.addfinalizer(server.close)
        server.version = {**server.version, **(version or {})}
        url = server.url.replace("//", f"//{user}") + options
        return server, open_engine(
            url, "notes", api_key="key" if options == "" and product == "elasticsearch" else None
        )

    return start


def filled(engine):
    engine.create(10, 2, ids="strings", head="abc", decoded=True)
    engine.upsert(DOCUMENTS, ["a", "b"], decoded_norms=np.array([4, 8], np.float32))
    return engine.search(QUERY, 3)


def test_elasticsearch_is_asked_as_published(served):
    server, engine = served("elasticsearch")
    hits = filled(engine)
    assert hits.ids.tolist() == [["a", "", ""]]
    assert hits.scores[0, 0] == pytest.approx(0.8 * 0.75, rel=4e-3)
    (created,) = server.sent("PUT", "/notes")[0]
    settings = {"dim": 10, "k": 2, "ids": "strings", "head": "abc", "decoded": True, "created": engine.schema.created}
    assert created == {
        "settings": {},
        "mappings": {
            "dynamic": "strict",
            "_meta": {"csr_hf": settings},
            "properties": {"code": {"type": "sparse_vector", "index_options": {"prune": False}}},
        },
    }
    assert server.sent("POST", "/notes/_bulk") == [
        [
            {"index": {"_id": "a"}},
            {"code": {"2": pytest.approx(0.75, abs=2e-3), "7": 1.0}},
            {"index": {"_id": "b"}},
            {"code": {"4": 0.25}},
        ]
    ]
    weights = {str(latent): float(np.float32(value)) for latent, value in ((2, 0.8), (9, 0.6))}
    query = {"sparse_vector": {"field": "code", "query_vector": pytest.approx(weights), "prune": False}}
    search = {"size": 3, "_source": False, "track_total_hits": False, "query": query}
    assert server.sent("POST", "/notes/_msearch") == [[{}, search]]
    assert all(headers["Authorization"] == "ApiKey key" for _, _, headers, _ in server.requests)
    engine.delete(["b", "unknown"])
    assert server.sent("POST", "_bulk")[-1] == [{"delete": {"_id": "b"}}, {"delete": {"_id": "unknown"}}]
    assert engine.count() == 1
    kinds = {headers.get("Content-Type") for _, path, headers, _ in server.requests if "_bulk" in path}
    assert kinds == {"application/x-ndjson"}


def test_versions_of_elasticsearch(served):
    for number, options in (("8.15.0", None), ("9.0.4", None), ("9.1.0", {"prune": False})):
        server, engine = served("elasticsearch", version={"number": number})
        engine.create(10, 2)
        assert server.sent("PUT", "/notes")[0][0]["mappings"]["properties"]["code"].get("index_options") == options
    server, engine = served("elasticsearch", version={"number": "8.11.0", "build_flavor": "serverless"})
    engine.create(10, 2)
    assert len(server.indices) == 1
    server, engine = served("elasticsearch", version={"number": "8.14.3"})
    with pytest.raises(EngineError, match=r"8\.14\.3 has no sparse_vector query\. Use 8\.15"):
        engine.create(10, 2)
    assert not server.indices


def test_opensearch_is_asked_as_published(served):
    server, engine = served("opensearch", user="me:p%40ss@")
    assert filled(engine).ids.tolist() == [["a", "", ""]]
    created = server.sent("PUT", "/notes")[0][0]
    assert created["mappings"]["properties"] == {"code": {"type": "rank_features"}}
    assert created["settings"] == {}
    ((_, search),) = server.sent("POST", "/notes/_msearch")
    assert search["query"] == {"neural_sparse": {"code": {"query_tokens": pytest.approx({"2": 0.8, "9": 0.6})}}}
    basic = base64.b64encode(b"me:p@ss").decode()
    assert all(headers["Authorization"] == f"Basic {basic}" for _, _, headers, _ in server.requests)


def test_bytes_of_opensearch_span_the_weights_there_are(served):
    server, engine = served("opensearch", "?field=sparse_vector&n_postings=500&ceiling=1.5")
    filled(engine)
    created = server.sent("PUT", "/notes")[0][0]
    assert created["settings"] == {"index": {"sparse": True}}
    parameters = {"n_postings": 500, "quantization_ceiling_ingest": 1.5, "quantization_ceiling_search": 1.0}
    method = {"name": "seismic", "parameters": parameters}
    assert created["mappings"]["properties"] == {"code": {"type": "sparse_vector", "method": method}}
    ((_, search),) = server.sent("POST", "/notes/_msearch")
    assert search["query"]["neural_sparse"]["code"]["method_parameters"] == {"k": 3, "top_n": 2, "heap_factor": 1.0}
    with pytest.raises(ValueError, match=r"document 'c' has a weight of 1\.6, above `ceiling` \(1\.5\)"):
        engine.upsert(DOCUMENTS[:1], ["c"], decoded_norms=np.array([2.5], np.float32))
    # Whoever opens it without naming the ceiling gets that of the index.
    again = open_engine(f"{server.url}?field=sparse_vector&n_postings=500", "notes")
    again.upsert(DOCUMENTS[:1], ["c"], decoded_norms=np.array([3], np.float32))
    assert again.count() == 3
    with pytest.raises(ValueError, match=r"`field` \(rank_features\) in the URL is not that of the index"):
        open_engine(server.url, "notes").count()
    with pytest.raises(ValueError, match=r"`dim` \(32769\) is above what OpenSearch takes \(32768\)"):
        open_engine(f"{server.url}?field=sparse_vector&n_postings=500", "more").create(32_769, 8)


def test_one_product_is_not_taken_for_the_other(served):
    for product, other, options in (
        ("opensearch", "elasticsearch", ""),
        ("elasticsearch", "opensearch", ""),
        ("opensearch", "opensearch", "?field=sparse_vector&n_postings=5"),
    ):
        server, _ = served(product, version={"number": "3.2.0"} if options else None)
        engine = open_engine(f"{other}://127.0.0.1:{server.server_port}{options}", "notes")
        with pytest.raises(EngineError, match="Use a URL that begins with" if not options else "3.2.0 is too old"):
            engine.create(10, 2)
        assert not server.indices


def test_limits_of_the_servers_defaults(served):
    server, engine = served("opensearch")
    engine.create(5_000, 8, ids="strings")
    before = len(server.requests)
    wide = SparseCodes(np.arange(1_025)[None], np.ones((1, 1_025), np.float32), 5_000)
    with pytest.raises(ValueError, match=r"a query of 1025 latents; OpenSearch takes 1024\. Pass `query_k=1024`"):
        engine.search(wide)
    with pytest.raises(ValueError, match=r"`top_k` \(10001\) must be at least 1 and at most 10000"):
        engine.search(wide, 10_001, query_k=10)
    with pytest.raises(ValueError, match="has 513 bytes; OpenSearch takes 512"):
        engine.upsert(random_codes(1, 8, 5_000, 1), ["x" * 513])
    assert len(server.requests) == before


BUSY = (429, {"error": {"type": "es_rejected_execution_exception", "reason": "queue full"}, "status": 429})


def item(one, status, kind=None):
    error = {"error": {"type": kind, "reason": f"reason of {one}"}} if kind else {}
    return {"index": {"_id": one, "status": status, **error}}


def test_a_busy_server_gets_the_documents_later(served, monkeypatch):
    waits = []
    monkeypatch.setattr("csr_hf.backends.uploading.time.sleep", waits.append)
    server, engine = served("elasticsearch")
    partly = {"errors": True, "items": [item("0", 201), item("1", 429, "es_rejected_execution_exception")]}
    server.faults = [BUSY, (503, {}), (200, partly)]
    codes = random_codes(40, 8, 100, 2)
    assert upload(engine, codes, np.arange(40), batch_size=20, threads=2) == 40
    assert len(waits) == 3
    assert engine.count() == 40
    assert engine.search(codes[:9], 1).ids[:, 0].tolist() == list(range(9))


def test_refused_documents_are_named(served):
    server, engine = served("opensearch")
    engine.create(100, 8)
    refused = [item("0", 201), item("5", 400, "mapper_parsing_exception"), item("6", 429, "rejected")]
    server.faults = [(200, {"errors": True, "items": refused})]
    message = r"OpenSearch refused 2 of 3 documents \('5', '6'\): mapper_parsing_exception: reason of 5"
    with pytest.raises(EngineError, match=message):
        upload(engine, random_codes(3, 8, 100, 3), [0, 5, 6])
    server.faults = [(413, {"error": "too large"})]
    with pytest.raises(EngineError, match="_bulk: 413"):
        engine.upsert(random_codes(3, 8, 100, 3), [0, 5, 6])


def test_redirects_are_not_followed_and_silence_is_transient(served):
    server, engine = served("opensearch", user="me:secret@")
    engine.create(100, 8)
    server.faults = [(302, {"error": {"type": "moved", "reason": "elsewhere"}})]
    with pytest.raises(EngineError, match=r"302.*moved: elsewhere") as caught:
        engine.upsert(random_codes(1, 8, 100, 3), [1])
    assert "secret" not in str(caught.value)
    server.close()
    with pytest.raises(Unavailable, match=r"Connection(Refused|Reset)Error") as gone:
        engine.count()
    assert engine.is_transient(gone.value)
    assert not engine.is_transient(caught.value)


def test_other_peoples_indices_are_left_alone(served):
    server, engine = served("opensearch")
    server.indices["notes"] = ({"mappings": {"properties": {"text": {"type": "text"}}}}, {})
    with pytest.raises(EngineError, match="has 'notes', which csr_hf did not make"):
        engine.create(10, 2, replace=True)
    assert "notes" in server.indices


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("opensearch://localhost", "http://localhost:9200"),
        ("opensearch://127.0.0.1:9201/below/", "http://127.0.0.1:9201/below"),
        ("opensearch://[::1]", "http://[::1]:9200"),
        ("elasticsearch://search.example.org", "https://search.example.org:9200"),
        ("elasticsearch://search.example.org?tls=false", "http://search.example.org:9200"),
        ("elasticsearch://localhost?tls=true", "https://localhost:9200"),
    ],
)
def test_other_machines_are_asked_over_tls(url, origin):
    assert open_engine(url)._server._base == origin
