"""The same codes in an existing search engine, chosen by a URL; `recipes/engines.md` has the rules of each.

`open_engine` gives an `Engine`: create, upsert, delete, search, count. `upload` puts many documents into it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

from csr_hf.backends.address import Address
from csr_hf.backends.contract import EngineError, Hits, Limits, Schema, Unavailable
from csr_hf.backends.interface import Engine
from csr_hf.backends.uploading import upload

__all__ = ["Engine", "EngineError", "Hits", "Limits", "Schema", "Unavailable", "open_engine", "upload"]

_EMBEDDED = ("index", "milvus-lite", "qdrant-local")
_SERVERS = ("milvus", "qdrant", "opensearch", "elasticsearch", "postgresql")


def open_engine(url: str, collection: str = "documents", *, api_key: str | None = None) -> Engine:
    """Open a collection of documents in a search engine; it need not be there yet.

    Args:
        url: which engine, and where. To another machine with TLS, unless the URL ends in `?tls=false`.

            - `index:./folder`: the library's own `InvertedIndex`, in files.
            - `milvus-lite:./file.db`, `milvus://[user:password@]host[:19530][/database]`.
            - `qdrant-local:./folder` (or `:memory:`), `qdrant://host[:6333]`.
            - `elasticsearch://[user:password@]host[:9200]`.
            - `opensearch://[user:password@]host[:9200]`, with `?field=sparse_vector&n_postings=...&ceiling=...` for
              its approximate search.
            - `postgresql://[user:password@]host/database`, as libpq takes it, with `?index=hnsw` for approximate
              search.
        collection: its name: 1 to 63 of a-z, 0-9 and _, the first a letter.
        api_key: for Milvus, Qdrant and Elasticsearch.

    Raises:
        ValueError: for a URL or a name that cannot be used.
        ImportError: if the engine's client is not installed; the message has the line to type.
    """
    if url.startswith("postgresql:") and api_key is None:
        return _postgresql(url, collection)
    address = Address.parsed(url, _EMBEDDED)
    if address.scheme not in _EMBEDDED and address.scheme not in _SERVERS:
        raise ValueError(f"`url`: {address.scheme!r} is unknown. Choose one of {', '.join((*_EMBEDDED, *_SERVERS))}.")
    if api_key is not None and address.scheme not in ("milvus", "qdrant", "elasticsearch"):
        raise ValueError(f"`api_key`: {address.scheme} takes none. Put user and password into the URL.")
    if address.scheme in _EMBEDDED:
        return _embedded(address, collection)
    if address.scheme in ("opensearch", "elasticsearch"):
        return _rest(address, collection, api_key)
    return _client(address, collection, api_key)


def _embedded(address: Address, collection: str) -> Engine:
    if address.scheme == "index":
        from csr_hf.backends.embedded import Embedded

        return Embedded(collection, address.path)
    if address.scheme == "milvus-lite":
        from csr_hf.backends.milvus import Milvus

        return Milvus(collection, address.path)
    from csr_hf.backends.qdrant import Qdrant

    return Qdrant(collection, path=address.path)


def _client(address: Address, collection: str, api_key: str | None) -> Engine:
    address.check_options("tls")
    if address.scheme == "milvus":
        from csr_hf.backends.milvus import Milvus

        token = api_key or (f"{address.user}:{address.password}" if address.user else "")
        return Milvus(collection, address.origin(19530), token=token, database=address.path)
    from csr_hf.backends.qdrant import Qdrant

    if address.user or address.path:
        raise ValueError("`url`: Qdrant takes neither user nor path. Pass `api_key`.")
    return Qdrant(collection, url=address.origin(6333), api_key=api_key)


def _rest(address: Address, collection: str, api_key: str | None) -> Engine:
    from csr_hf.backends.opensearch import Elasticsearch, OpenSearch
    from csr_hf.backends.rest import Rest

    server = Rest(
        address.origin(9200), path=address.path, user=address.user, password=address.password, api_key=api_key
    )
    if address.scheme == "elasticsearch":
        address.check_options("tls")
        return Elasticsearch(collection, server)
    address.check_options("tls", "field", "n_postings", "ceiling")
    options: dict[str, Any] = {}
    for name, kind in (("field", str), ("n_postings", int), ("ceiling", float)):
        if name in address.options:
            try:
                options[name] = kind(address.options[name])
            except ValueError as error:
                raise ValueError(f"`{name}` ({address.options[name]!r}) in the URL is no number.") from error
    return OpenSearch(collection, server, **options)


def _postgresql(url: str, collection: str) -> Engine:
    """`index` is ours, all else in the URL belongs to libpq."""
    from csr_hf.backends.pgvector import PgVector

    base, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    index = options.pop("index", None)
    return PgVector(collection, f"{base}?{urlencode(options)}" if options else base, index=index)
