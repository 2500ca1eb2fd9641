"""A small HTTP server that answers as the published APIs of OpenSearch and Elasticsearch do, and records requests.

It is neither of them: it stands for their protocol, so that requests, answers and errors can be tested exactly.
"""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

VERSIONS = {
    "elasticsearch": {"number": "9.1.3", "build_flavor": "default"},
    "opensearch": {"number": "3.3.0", "distribution": "opensearch"},
}


class StandIn(ThreadingHTTPServer):
    """Stands for one product.

    `requests` holds (method, path, headers in lower case, lines of the body) of each request, `times` when the bulk
    requests came, `faults` answers to the next bulk requests: status, JSON and, if given, headers.
    """

    daemon_threads = True

    def __init__(self, product, certificate=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.version = VERSIONS[product]
        # The client of Elasticsearch wants to see this.
        self.headers = {"X-Elastic-Product": "Elasticsearch"} if product == "elasticsearch" else {}
        self.requests, self.times, self.faults, self.indices = [], [], [], {}
        self.lock = threading.Lock()
        self.url = f"{product}://127.0.0.1:{self.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """Clients that refuse the certificate hang up, which is no error of the server."""

    def sent(self, ending):
        """Bodies of the requests of this kind."""
        return [body for method, path, _, body in self.requests if f"{method} {path}".endswith(ending) and body]

    def answer(self, method, path, body):
        """Return status and JSON."""
        name, _, action = path.strip("/").partition("/")
        if not name:
            return 200, {"name": "node", "version": self.version, "tagline": "for tests"}
        if method == "PUT" and not action:
            self.indices[name] = (body[0], {})
            return 200, {"acknowledged": True, "index": name}
        if name not in self.indices:
            reason = {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}
            return 404, {"error": {**reason, "root_cause": [reason]}, "status": 404}
        if method == "DELETE":
            del self.indices[name]
            return 200, {"acknowledged": True}
        created, documents = self.indices[name]
        return {
            "": lambda: (200, {}),
            "_mapping": lambda: (200, {name: {"mappings": created["mappings"]}}),
            "_count": lambda: (200, {"count": len(documents)}),
            "_refresh": lambda: (200, {"_shards": {"failed": 0}}),
            "_bulk": lambda: (200, _bulk(documents, body)),
            "_msearch": lambda: (200, _msearch(documents, body)),
        }[action]()


class _Handler(BaseHTTPRequestHandler):
    def _do(self):
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.partition("?")[0]
        body = [json.loads(line) for line in text.split("\n") if line]
        with self.server.lock:
            self.server.requests.append(
                (self.command, path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            fault = None
            if path.endswith("_bulk"):
                self.server.times.append(time.monotonic())
                fault = self.server.faults.pop(0) if self.server.faults else None
            status, answer, *headers = fault or self.server.answer(self.command, path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in {**self.server.headers, **(headers[0] if headers else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do

    def log_message(self, *_):
        pass


def _bulk(documents, lines):
    items, lines = [], iter(lines)
    for line in lines:
        (operation, target), *_ = line.items()
        one = target["_id"]
        if operation == "index":
            document = next(lines)
            assert all(value > 0 for value in document["code"].values())
            result, status = ("updated", 200) if one in documents else ("created", 201)
            documents[one] = document
        else:
            result, status = ("deleted", 200) if documents.pop(one, None) else ("not_found", 404)
        items.append({operation: {"_id": one, "result": result, "status": status}})
    return {"took": 1, "errors": False, "items": items}


def _msearch(documents, lines):
    responses = []
    for header, search in zip(lines[::2], lines[1::2], strict=True):
        assert header == {}
        (kind, query), *_ = search["query"].items()
        chosen = list(documents)
        if kind == "bool":
            chosen = [one for one in chosen if all(_fits(documents[one], each) for each in query["filter"])]
            (inner,) = query["must"]
            (kind, query), *_ = inner.items()
        wanted = query["query_vector"] if kind == "sparse_vector" else query["code"]["query_tokens"]
        scores = [
            (one, sum(weight * _kept(code[latent]) for latent, weight in wanted.items() if latent in code))
            for one, code in ((one, documents[one]["code"]) for one in chosen)
        ]
        best = sorted((hit for hit in scores if hit[1] > 0), key=lambda hit: -hit[1])[: search["size"]]
        hits = [{"_index": "documents", "_id": one, "_score": score} for one, score in best]
        responses.append({"took": 1, "timed_out": False, "hits": {"hits": hits}, "status": 200})
    return {"took": 1, "responses": responses}


def _kept(value):
    """Return what the 9 significant bits of a feature keep: the 15 lowest bits of the float32 are cut off."""
    return float((np.float32(value).view(np.uint32) & np.uint32(0xFFFF8000)).view(np.float32))


def _fits(document, query):
    """Tell whether a document fits a query that scores nothing, as the reference of both products says."""
    ((kind, body),) = query.items()
    if kind == "bool":
        assert set(body) <= {"must", "must_not", "should", "minimum_should_match"}
        should = [_fits(document, each) for each in body.get("should", ())]
        return (
            all(_fits(document, each) for each in body.get("must", ()))
            and not any(_fits(document, each) for each in body.get("must_not", ()))
            and sum(should) >= body.get("minimum_should_match", 0)
        )
    if kind == "exists":
        return document.get(body["field"]) is not None
    ((field, wanted),) = body.items()
    value = document.get(field)
    if value is None:
        return False
    if kind == "terms":
        return any(value == each and isinstance(value, type(each)) for each in wanted)
    assert kind == "range"
    order = (lambda text: text.encode()) if isinstance(value, str) else (lambda number: number)
    signs = {"lt": "__lt__", "lte": "__le__", "gt": "__gt__", "gte": "__ge__"}
    return all(getattr(order(value), signs[sign])(order(bound)) for sign, bound in wanted.items())
