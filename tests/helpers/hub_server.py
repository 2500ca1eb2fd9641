"""A Hub in this process: enough of huggingface.co's HTTP interface for the real clients to push to and load from."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_aTokenThatMayWrite"
_LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".png", ".bin", ".pth", ".npy")


@dataclass
class Repo:
    """Commits by hash, each a mapping of path to content, and references to them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def commit(self, files, ref="main"):
        previous = self.refs.get(ref, "")
        described = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in files.items())
        sha = hashlib.sha1(json.dumps([previous, len(self.log), described]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        self.log.append(sha)
        return sha

    def files(self, revision):
        return self.commits[self.sha(revision)]

    def sha(self, revision):
        return self.refs.get(revision, revision if revision in self.commits else None)


class LocalHub:
    """The server and its state.

    Attributes:
        repos: "models/user/name" -> Repo.
        requests: what was asked, as "METHOD path".
        before: called with the same string before each answer.
        interrupted: a pattern; the connection is cut on every request that matches.
    """

    def __init__(self, port):
        self.repos, self.blobs, self.requests = {}, {}, []
        self.before, self.interrupted = None, None
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id, folder, kind="models", private=False):
        """Publish a folder as it lies there; gives the commit."""
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        repo = self.repos.setdefault(f"{kind}/{repo_id}", Repo(private))
        return repo.commit({**repo.commits.get(repo.refs.get("main"), {}), **files})

    def repo(self, repo_id):
        return self.repos[f"models/{repo_id}"]

    @contextmanager
    def hook(self, before):
        self.before = before
        try:
            yield
        finally:
            self.before = None


class _Refused(Exception):
    def __init__(self, status, code="", message=""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    ROUTES = (
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/(models|datasets|spaces)/(.+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/(models|datasets|spaces)/(.+)/commit/([^/]+)", "commit"),
        ("POST", r"/api/(models|datasets|spaces)/(.+)/branch/([^/]+)", "branch"),
        ("POST", r"/api/(models|datasets|spaces)/(.+)/paths-info/([^/]+)", "paths_info"),
        ("GET", r"/api/(models|datasets|spaces)/(.+?)/tree/([^/]+)(?:/(.*))?", "tree"),
        ("GET", r"/api/(models|datasets|spaces)/(.+?)/refs", "refs"),
        ("GET", r"/api/(models|datasets|spaces)/(.+?)/commits/([^/]+)", "commits"),
        ("GET", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/revision/(.+))?", "info"),
        ("POST", r"/(datasets/|spaces/)?(.+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/([0-9a-f]+)", "lfs_put"),
        ("HEAD", r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("GET", r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def log_message(self, *_):
        pass

    def handle_one(self):
        address = urlsplit(self.path)
        line = f"{self.command} {unquote(address.path)}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(address.query)
        hub = self.hub
        hub.requests.append(line)
        if hub.interrupted and re.search(hub.interrupted, line):
            self.close_connection = True
            self.connection.close()
            return
        if hub.before:
            hub.before(line)
        try:
            for method, pattern, name in self.ROUTES:
                found = re.fullmatch(pattern, address.path)
                if method == self.command and found:
                    with hub.lock:
                        getattr(self, name)(*(unquote(part) if part else part for part in found.groups()))
                    return
            raise _Refused(404)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            content = json.dumps({"error": refused.message or refused.code}).encode()
            self.answer(content, refused.status, {name: value for name, value in headers.items() if value})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def answer(self, content, status=200, headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def trusted(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find(self, kind, repo_id, revision=None, write=False):
        repo = self.hub.repos.get(f"{kind}/{repo_id}")
        if repo is None or (repo.private and not self.trusted):
            raise _Refused(404 if self.trusted else 401, "RepoNotFound", "Repository not found")
        if write and not self.trusted:
            raise _Refused(401, "", "Invalid username or password.")
        if revision is not None and repo.sha(revision) is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def create_repo(self):
        if not self.trusted:
            raise _Refused(401, "", "Invalid username or password.")
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        kind = wanted.get("type", "model") + "s"
        url = f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{repo_id}"
        if f"{kind}/{repo_id}" in self.hub.repos:
            self.answer({"error": "You already created this repo", "url": url}, 409)
            return
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repos[f"{kind}/{repo_id}"] = repo = Repo(private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer({"url": url, "name": repo_id, "id": repo_id})

    def validate_yaml(self):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, kind, repo_id, revision):
        self.find(kind, repo_id, revision, write=True)
        files = json.loads(self.body)["files"]
        mode = {True: "lfs", False: "regular"}
        found = [{"path": f["path"], "uploadMode": mode[f["path"].endswith(_LFS_SUFFIXES)]} for f in files]
        self.answer({"files": [{**entry, "shouldIgnore": False} for entry in found]})

    def lfs_batch(self, prefix, repo_id):
        self.find((prefix or "models").rstrip("/"), repo_id, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            objects.append({**wanted, **({} if wanted["oid"] in self.hub.blobs else {"actions": upload})})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "", "damaged upload")
        self.hub.blobs[oid] = self.body
        self.answer({})

    def commit(self, kind, repo_id, revision):
        repo = self.find(kind, repo_id, revision, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.sha(revision):
            raise _Refused(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        ref = revision
        if self.query.get("create_pr") == ["1"]:
            ref = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repo.refs) + 1}"
            repo.refs[ref] = repo.sha(revision)
        sha = repo.commit(files, ref)
        url = f"{self.hub.url}/{repo_id}"
        answer = {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "success": True}
        if ref != revision:
            answer["pullRequestUrl"] = f"{url}/discussions/{ref.rsplit('/', 1)[-1]}"
        self.answer(answer)

    def branch(self, kind, repo_id, branch):
        repo = self.find(kind, repo_id, write=True)
        if branch in repo.refs:
            raise _Refused(409, "", "Reference already exists")
        repo.refs[branch] = repo.sha("main")
        self.answer({})

    def refs(self, kind, repo_id):
        repo = self.find(kind, repo_id)
        named = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repo.refs.items()]
        self.answer({"branches": named, "tags": [], "converts": []})

    def commits(self, kind, repo_id, revision):
        repo = self.find(kind, repo_id, revision)
        listed = {"title": "a commit", "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
        self.answer([{"id": sha, **listed} for sha in reversed(repo.log)])

    def info(self, kind, repo_id, revision):
        repo = self.find(kind, repo_id, revision or "main")
        sha = repo.sha(revision or "main")
        siblings = [{"rfilename": name, "size": len(content)} for name, content in repo.commits[sha].items()]
        card = _front_matter(repo.commits[sha].get("README.md", b"").decode())
        self.answer(
            {"_id": "0", "id": repo_id, "modelId": repo_id, "sha": sha, "private": repo.private, "siblings": siblings}
            | {"tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False, "cardData": card}
        )

    def tree(self, kind, repo_id, revision, folder):
        files = self.find(kind, repo_id, revision).files(revision)
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", [""])[0].lower() == "true"
        entries, folders = [], set()
        for path, content in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            depths = range(1, len(parts) if recursive else min(len(parts), 2))
            folders |= {prefix + "/".join(parts[:depth]) for depth in depths}
            if recursive or len(parts) == 1:
                entries.append(_entry(path, content))
        if folder and not entries and not folders:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        self.answer([{"type": "directory", "path": path, "oid": "0"} for path in sorted(folders)] + entries)

    def paths_info(self, kind, repo_id, revision):
        files = self.find(kind, repo_id, revision).files(revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        found = [_entry(path, files[path]) for path in wanted if path in files]
        folders = [path for path in wanted if any(name.startswith(f"{path}/") for name in files)]
        self.answer(found + [{"type": "directory", "path": path, "oid": "0"} for path in folders])

    def resolve(self, prefix, repo_id, revision, path):
        repo = self.find((prefix or "models").rstrip("/"), repo_id, revision)
        commit = {"X-Repo-Commit": repo.sha(revision)}
        if path not in repo.files(revision):
            self.answer(b"Entry not found", 404, {**commit, "X-Error-Code": "EntryNotFound"})
            return
        content = repo.files(revision)[path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {**commit, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(content, 200, {**headers, "Accept-Ranges": "bytes"})
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.answer(content[start : end + 1], 206, headers)


def _entry(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if path.endswith(_LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _front_matter(card):
    import yaml

    found = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}
