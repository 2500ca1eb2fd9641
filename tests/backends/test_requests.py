"""The exact requests to OpenSearch and Elasticsearch, and what becomes of every kind of answer."""

import base64
import shutil
import subprocess

import numpy as np
import pytest

from csr_hf.backends import BackendError, Schema, Unavailable, UploadSettings, open_backend, upload
from csr_hf.backends.address import Address
from csr_hf.sparse_codes import SparseCodes
from tests.backends.reference import random_codes
from tests.backends.stand_in import StandIn

pytest.importorskip("elasticsearch", reason='pip install "csr_hf[elasticsearch]"')
pytest.importorskip("opensearchpy", reason='pip install "csr_hf[opensearch]"')

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
        return server, open_backend(
            url, "notes", api_key="key" if options == "" and product == "elasticsearch" else None
        )

    return start


def filled(backend):
    backend.create(Schema(dim=10, k=2, ids="strings", head="abc", decoded=True))
    backend.upsert(DOCUMENTS, ["a", "b"], decoded_norms=np.array([4, 8], np.float32))
    return backend.search(QUERY, 3)


def test_requests_to_elasticsearch_are_as_published(served):
    server, backend = served("elasticsearch")
    hits = filled(backend)
    assert hits.ids.tolist() == [["a", "", ""]]
    assert hits.scores[0, 0] == pytest.approx(0.8 * 0.75, rel=4e-3)
    (created,) = server.sent("PUT /notes")[0]
    settings = {"dim": 10, "k": 2, "ids": "strings", "head": "abc", "decoded": True, "columns": {}}
    settings["created"] = backend.schema.created
    assert created == {
        "settings": {},
        "mappings": {
            "dynamic": "strict",
            "_meta": {"csr_hf": settings},
            "properties": {"code": {"type": "sparse_vector", "index_options": {"prune": False}}},
        },
    }
    assert server.sent("/notes/_bulk") == [
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
    assert server.sent("/notes/_msearch") == [[{}, search]]
    assert all(headers["authorization"] == "ApiKey key" for _, _, headers, _ in server.requests)
    backend.delete(["b", "unknown"])
    assert server.sent("_bulk")[-1] == [{"delete": {"_id": "b"}}, {"delete": {"_id": "unknown"}}]
    assert backend.count() == 1
    # What a server of 8.15 understands, and one of 9 as well.
    accepted = {headers["accept"] for _, _, headers, _ in server.requests}
    assert accepted == {"application/vnd.elasticsearch+json; compatible-with=8"}


def test_versions_of_elasticsearch(served):
    for number, options in (("8.15.0", None), ("9.0.4", None), ("9.1.0", {"prune": False})):
        server, backend = served("elasticsearch", version={"number": number})
        backend.create(Schema(dim=10, k=2))
        assert server.sent("PUT /notes")[0][0]["mappings"]["properties"]["code"].get("index_options") == options
    server, backend = served("elasticsearch", version={"number": "8.11.0", "build_flavor": "serverless"})
    backend.create(Schema(dim=10, k=2))
    assert len(server.indices) == 1
    server, backend = served("elasticsearch", version={"number": "8.14.3"})
    with pytest.raises(BackendError, match=r"8\.14\.3 has no sparse_vector query\. Use 8\.15"):
        backend.create(Schema(dim=10, k=2))
    assert not server.indices


def test_requests_to_opensearch_are_as_published(served):
    server, backend = served("opensearch", user="me:p%40ss@")
    assert filled(backend).ids.tolist() == [["a", "", ""]]
    created = server.sent("PUT /notes")[0][0]
    assert created["mappings"]["properties"] == {"code": {"type": "rank_features"}}
    assert created["settings"] == {}
    ((_, search),) = server.sent("/notes/_msearch")
    assert search["query"] == {"neural_sparse": {"code": {"query_tokens": pytest.approx({"2": 0.8, "9": 0.6})}}}
    basic = base64.b64encode(b"me:p@ss").decode()
    assert all(headers["authorization"] == f"Basic {basic}" for _, _, headers, _ in server.requests)


def test_bytes_of_opensearch_span_the_weights_there_are(served):
    server, backend = served("opensearch", "?field=sparse_vector&n_postings=500&ceiling=1.5")
    filled(backend)
    created = server.sent("PUT /notes")[0][0]
    assert created["settings"] == {"index": {"sparse": True}}
    parameters = {"n_postings": 500, "quantization_ceiling_ingest": 1.5, "quantization_ceiling_search": 1.0}
    method = {"name": "seismic", "parameters": parameters}
    assert created["mappings"]["properties"] == {"code": {"type": "sparse_vector", "method": method}}
    ((_, search),) = server.sent("/notes/_msearch")
    assert search["query"]["neural_sparse"]["code"]["method_parameters"] == {"k": 3, "top_n": 2, "heap_factor": 1.0}
    with pytest.raises(ValueError, match=r"document 'c' has a weight of 1\.6, above `ceiling` \(1\.5\)"):
        backend.upsert(DOCUMENTS[:1], ["c"], decoded_norms=np.array([2.5], np.float32))
    # Whoever opens it without naming the ceiling gets that of the index.
    again = open_backend(f"{server.url}?field=sparse_vector&n_postings=500", "notes")
    again.upsert(DOCUMENTS[:1], ["c"], decoded_norms=np.array([3], np.float32))
    assert again.count() == 3
    with pytest.raises(ValueError, match=r"`field` \(rank_features\) in the URL is not that of the index"):
        open_backend(server.url, "notes").count()
    with pytest.raises(ValueError, match=r"`dim` \(32769\) is above what OpenSearch takes \(32768\)"):
        open_backend(f"{server.url}?field=sparse_vector&n_postings=500", "more").create(Schema(dim=32_769, k=8))


def test_one_product_is_not_taken_for_the_other(served):
    for product, other, options in (
        ("opensearch", "elasticsearch", ""),
        ("elasticsearch", "opensearch", ""),
        ("opensearch", "opensearch", "?field=sparse_vector&n_postings=5"),
    ):
        server, _ = served(product, version={"number": "3.2.0"} if options else None)
        backend = open_backend(f"{other}://127.0.0.1:{server.server_port}{options}", "notes")
        with pytest.raises(BackendError, match="[Uu]se a URL that begins with" if not options else "3.2.0 is too old"):
            backend.create(Schema(dim=10, k=2))
        assert not server.indices


def test_limits_of_the_servers_defaults(served):
    server, backend = served("opensearch")
    backend.create(Schema(dim=5_000, k=8, ids="strings"))
    before = len(server.requests)
    wide = SparseCodes(np.arange(1_025)[None], np.ones((1, 1_025), np.float32), 5_000)
    with pytest.raises(ValueError, match=r"a query of 1025 latents; OpenSearch takes 1024\. Pass `query_k=1024`"):
        backend.search(wide)
    with pytest.raises(ValueError, match=r"`top_k` \(10001\) must be at least 1 and at most 10000"):
        backend.search(wide, 10_001, query_k=10)
    with pytest.raises(ValueError, match=r"has 513 bytes; OpenSearch takes 512\. Shorten it"):
        backend.upsert(random_codes(1, 8, 5_000, 1), ["x" * 513])
    assert len(server.requests) == before


BUSY = (429, {"error": {"type": "es_rejected_execution_exception", "reason": "queue full"}, "status": 429})


def item(one, status, kind=None):
    error = {"error": {"type": kind, "reason": f"reason of {one}"}} if kind else {}
    return {"index": {"_id": one, "status": status, **error}}


def test_a_busy_server_gets_the_documents_later(served):
    server, backend = served("elasticsearch")
    partly = {"errors": True, "items": [item("0", 201), item("1", 429, "es_rejected_execution_exception")]}
    server.faults = [BUSY, (503, {}), (200, partly)]
    codes = random_codes(40, 8, 100, 2)
    assert upload(backend, codes, np.arange(40), settings=UploadSettings(batch_size=20, threads=2, delay=0)) == 40
    assert len(server.sent("_bulk")) == 5
    assert backend.count() == 40
    assert backend.search(codes[:9], 1).ids[:, 0].tolist() == list(range(9))


def test_waits_grow(served):
    server, backend = served("opensearch")
    server.faults = [BUSY] * 3
    upload(backend, random_codes(5, 8, 100, 2), np.arange(5), settings=UploadSettings(delay=0.05))
    waits = np.diff(server.times)
    assert len(waits) == 3
    assert (waits >= [0.05, 0.1, 0.2]).all()


def test_retries_have_an_end(served):
    server, backend = served("opensearch")
    server.faults = [BUSY] * 9
    with pytest.raises(Unavailable, match="429"):
        upload(backend, random_codes(5, 8, 100, 2), np.arange(5), settings=UploadSettings(retries=2, delay=0))
    assert len(server.sent("_bulk")) == 3


def test_refused_documents_are_named(served):
    server, backend = served("opensearch")
    backend.create(Schema(dim=100, k=8))
    refused = [item("0", 201), item("5", 400, "mapper_parsing_exception"), item("6", 429, "rejected")]
    server.faults = [(200, {"errors": True, "items": refused})]
    message = r"OpenSearch refused 2 of 3 documents \('5', '6'\): mapper_parsing_exception: reason of 5"
    with pytest.raises(BackendError, match=message):
        upload(backend, random_codes(3, 8, 100, 3), [0, 5, 6])
    server.faults = [(413, {"error": "too large"})]
    with pytest.raises(BackendError, match=r"OpenSearch: .*413.*too large"):
        backend.upsert(random_codes(3, 8, 100, 3), [0, 5, 6])
    # Each was sent once.
    assert len(server.sent("_bulk")) == 2


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
def test_redirects_are_not_followed_and_silence_is_transient(served, product):
    server, _ = served(product)
    elsewhere, _ = served(product)
    backend = open_backend(server.url.replace("//", "//me:secret@"), "notes")
    backend.create(Schema(dim=100, k=8))
    target = f"http://127.0.0.1:{elsewhere.server_port}/notes/_bulk"
    server.faults = [(302, {"error": "moved"}, {"Location": target})]
    with pytest.raises(BackendError, match="302") as caught:
        backend.upsert(random_codes(1, 8, 100, 3), [1])
    assert "secret" not in str(caught.value)
    assert not elsewhere.requests
    server.close()
    with pytest.raises(Unavailable, match=rf"{backend.name}: .*(refused|reset)"):
        backend.count()


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
def test_unknown_hosts_are_not_tried_again(product):
    settings = UploadSettings(retries=1, delay=1000)
    with open_backend(f"{product}://no-such-host.invalid?tls=false") as backend:
        with pytest.raises(BackendError, match="the host, the port and `tls` in the URL") as caught:
            upload(backend, random_codes(1, 8, 100, 3), [1], settings=settings)
    assert str(caught.value).count("Failed to resolve") == 1


def test_other_peoples_indices_are_left_alone(served):
    server, backend = served("opensearch")
    server.indices["notes"] = ({"mappings": {"properties": {"text": {"type": "text"}}}}, {})
    with pytest.raises(BackendError, match="has 'notes', which csr_hf did not create"):
        backend.create(Schema(dim=10, k=2), replace=True)
    assert "notes" in server.indices


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("opensearch://localhost", "http://localhost:9200"),
        ("opensearch://127.0.0.1:9201/below/", "http://127.0.0.1:9201"),
        ("opensearch://[::1]", "http://[::1]:9200"),
        ("elasticsearch://search.example.org", "https://search.example.org:9200"),
        ("elasticsearch://search.example.org?tls=false", "http://search.example.org:9200"),
        ("elasticsearch://localhost?tls=true", "https://localhost:9200"),
    ],
)
def test_other_machines_are_reached_over_tls(url, origin):
    assert Address.parse(url).origin(9200) == origin


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
def test_a_path_precedes_that_of_every_request(served, product):
    server, _ = served(product)
    with open_backend(f"{server.url}/below/", "notes") as backend, pytest.raises(ValueError, match="has no 'notes'"):
        backend.count()
    assert server.requests[0][1] == "/below/notes"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Path of a certificate for 127.0.0.1 with its key, which nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    line = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stand-in -addext subjectAltName=IP:127.0.0.1"
    call = ["openssl", *line.split(), "-keyout", path.with_suffix(".key"), "-out", path]
    subprocess.run(call, check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".key").read_text())
    return path


@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
def test_certificates_are_checked(request, monkeypatch, certificate, product):
    server = StandIn(product, certificate)
    request.addfinalizer(server.close)
    url = f"{server.url}?tls=true"
    with open_backend(url, "notes") as backend, pytest.raises(BackendError, match="CERTIFICATE_VERIFY_FAILED"):
        backend.create(Schema(dim=10, k=2))
    assert not server.requests
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with open_backend(url, "notes") as backend:
        assert filled(backend).ids.tolist() == [["a", "", ""]]
