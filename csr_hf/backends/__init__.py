"""The same codes in a search engine or database that exists already, chosen by a URL; see `recipes/backends.md`.

`open_backend` opens a `Backend`: create, upsert, delete, search, count. `upload` puts many documents into it.
"""

from __future__ import annotations

import difflib
from importlib import import_module

from csr_hf.backends.address import EMBEDDED
from csr_hf.backends.backend import Backend
from csr_hf.backends.contract import BackendError, Hits, Limits, Unavailable
from csr_hf.backends.metadata import read_metadata
from csr_hf.backends.schema import Schema
from csr_hf.backends.upload import UploadSettings, upload

__all__ = [
    "Backend",
    "BackendError",
    "Hits",
    "Limits",
    "Schema",
    "Unavailable",
    "UploadSettings",
    "open_backend",
    "read_metadata",
    "upload",
]

_BACKENDS = {
    "milvus-lite": ("milvus", "Milvus"),
    "milvus": ("milvus", "Milvus"),
    "qdrant-local": ("qdrant", "Qdrant"),
    "qdrant": ("qdrant", "Qdrant"),
    "opensearch": ("elastic", "OpenSearch"),
    "elasticsearch": ("elastic", "Elasticsearch"),
    "postgresql": ("pgvector", "PgVector"),
}
"""Scheme of the URL: module and class."""
_OTHER_NAMES = {"pgvector": "postgresql", "postgres": "postgresql", "pg": "postgresql", "elastic": "elasticsearch"}
"""What else people call them."""
_WITH_KEY = ("milvus", "qdrant", "elasticsearch")


def open_backend(url: str, collection: str = "documents", *, api_key: str | None = None) -> Backend:
    """Open a collection of documents in a backend. The collection need not exist yet.

    Args:
        url: which backend, and where. Other machines are reached over TLS, unless the URL ends in `?tls=false`.

            - `milvus-lite:./file.db`, `milvus://[user:password@]host[:19530][/database]`.
            - `qdrant-local:./folder` (or `:memory:`), `qdrant://host[:6333]`.
            - `elasticsearch://[user:password@]host[:9200]`.
            - `opensearch://[user:password@]host[:9200]`, with `?field=sparse_vector&n_postings=...&ceiling=...` for
              its approximate search.
            - `postgresql://[user:password@]host/database`, as libpq takes it, with `?index=hnsw` for approximate
              search.
        collection: name of the collection: 1 to 63 of a-z, 0-9 and _, the first a letter.
        api_key: for Milvus, Qdrant and Elasticsearch.

    Raises:
        ValueError: for a URL or a name that cannot be used.
        ImportError: if the client of the backend is not installed; the message has the line to type.
        Unavailable: if a server of Milvus is busy or out of reach. It is connected to at once, the others by the first
            request.
        BackendError: if a server of Milvus refuses the connection.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme:
        # The rest may hold a password.
        raise ValueError("`url` has no scheme. Begin it with one, as in milvus-lite:./file.db or qdrant://localhost.")
    _check_scheme(scheme, is_path=not url[len(scheme) + 1 :].startswith("//"))
    if api_key is not None and scheme not in _WITH_KEY:
        raise ValueError(f"`api_key`: {scheme} takes none. Put user and password into the URL.")
    module, kind = _BACKENDS[scheme]
    try:
        opened: Backend = getattr(import_module(f"csr_hf.backends.{module}"), kind)(url, collection, api_key)
    except ImportError as error:
        extra = scheme if module == "elastic" else module
        reason = str(error).rstrip(".\n")
        raise ImportError(f'{scheme}: {reason}. Install its client: pip install "csr_hf[{extra}]"') from error
    return opened


def _check_scheme(scheme: str, *, is_path: bool) -> None:
    """Check what a URL begins with, and name the scheme that was perhaps meant.

    Args:
        scheme: what stands before the colon.
        is_path: whether a path of this machine follows instead of a host.
    """
    fitting = {name.removesuffix("-lite").removesuffix("-local"): name for name in EMBEDDED}
    if not is_path:
        fitting = {name: name for name in _BACKENDS if name not in EMBEDDED}
    if scheme in _BACKENDS and not (is_path and scheme in fitting):
        return
    known = fitting if scheme in fitting else {name: name for name in _BACKENDS} | fitting
    known |= {name: scheme for name, scheme in _OTHER_NAMES.items() if scheme in known}
    near = next(iter(difflib.get_close_matches(scheme.lower(), known, n=1, cutoff=0.6)), None)
    meant = f" Did you mean {known[near]}:{'' if known[near] in EMBEDDED else '//'}?" if near else ""
    wrong = "takes a host, not a path" if scheme in _BACKENDS else "is unknown"
    raise ValueError(f"`url`: {scheme!r} {wrong}.{meant} There are {', '.join(_BACKENDS)}.")
