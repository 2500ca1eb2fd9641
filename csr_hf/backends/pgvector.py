"""`postgresql://user@host/database`: a table with a column of pgvector's type `sparsevec`."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from csr_hf.backends.backend import KEY, Backend, BackendError, Found, Limits, Schema
from csr_hf.backends.documents import Documents, Row

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_MOST_LATENTS = 16_000
_MOST_INDEXED = 1_000
_OLDEST = (0, 7)


class PgVector(Backend):
    """A table (id, code) in PostgreSQL with pgvector 0.7 or newer.

    A search reads all rows and is exact; with `index=hnsw` it follows a graph, which is fast and approximate. A vector
    has at most 16,000 active latents, 1,000 in a graph. pgvector counts latents from 1.
    """

    name = "PostgreSQL"

    def __init__(self, url: str, collection: str, api_key: None = None) -> None:
        super().__init__(collection)
        import psycopg

        self.errors = (psycopg.Error,)
        base, _, query = url.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        self._index = options.pop("index", None)
        # Unlike forms on web pages, libpq takes + for itself: a blank must be %20.
        self._url = f"{base}?{urlencode(options, quote_via=quote)}" if options else base
        if self._index not in (None, "hnsw"):
            raise ValueError(f'`index` ({self._index!r}) must be "hnsw", or left out for exact searches.')
        most = _MOST_LATENTS if self._index is None else _MOST_INDEXED
        self.limits = Limits(
            dim=1_000_000_000,
            document_latents=most,
            query_latents=most,
            # The graph search of pgvector visits at most 1,000 candidates.
            top_k=None if self._index is None else _MOST_INDEXED,
            # An index of PostgreSQL takes a third of a page.
            id_bytes=2_000,
        )
        self._table = psycopg.sql.Identifier(collection)
        self._of_thread = threading.local()
        self._connections: list[Connection] = []

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._of_thread = threading.local()

    def _is_transient(self, error: Exception) -> bool:
        import psycopg

        return isinstance(error, psycopg.OperationalError)

    def _read_schema(self) -> dict[str, Any] | None:
        row = self._connection.execute(
            "SELECT to_regclass(quote_ident(%s)), obj_description(to_regclass(quote_ident(%s)), 'pg_class')",
            [self.collection, self.collection],
        ).fetchone()
        if row is None or row[0] is None:
            return None
        found: dict[str, Any] = json.loads(row[1]).get(KEY, {}) if row[1] and row[1].startswith("{") else {}
        return found

    def _create(self, schema: Schema) -> None:
        import psycopg
        from psycopg import sql

        connection = self._connection
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
            raise BackendError(f"pgvector is missing: {error}. Install it on the server.") from error
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if row is None or tuple(map(int, row[0].split(".")[:2])) < _OLDEST:
            raise BackendError(f"pgvector {row and row[0]} has no type sparsevec. Use 0.7 or newer.")
        kind = "bigint" if schema.ids == "integers" else 'text COLLATE "C"'
        with connection.transaction():
            connection.execute(
                self._sql(f"CREATE TABLE {{}} (id {kind} PRIMARY KEY, code sparsevec({schema.dim}) NOT NULL)")
            )
            if self._index is not None:
                connection.execute(self._sql("CREATE INDEX ON {} USING hnsw (code sparsevec_ip_ops)"))
            written = sql.Literal(json.dumps({KEY: asdict(schema)}))
            connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, written))

    def _drop(self) -> None:
        self._connection.execute(self._sql("DROP TABLE {}"))

    def _count(self) -> int:
        row = self._connection.execute(self._sql("SELECT count(*) FROM {}")).fetchone()
        return int(row[0]) if row else 0

    def _write(self, documents: Documents) -> None:
        """Upsert documents in one statement: all of them or none."""
        kind, dim = "bigint" if self.schema.ids == "integers" else "text", self.schema.dim
        statement = self._sql(
            "INSERT INTO {} (id, code) SELECT id, code::sparsevec "
            f"FROM unnest(%s::{kind}[], %s::text[]) AS new (id, code) "
            "ON CONFLICT (id) DO UPDATE SET code = excluded.code"
        )
        codes = [_text(latents, weights, dim) for _, latents, weights in documents.rows()]
        self._connection.execute(statement, [documents.ids.tolist(), codes])

    def _delete(self, ids: list[Any]) -> int:
        return self._connection.execute(self._sql("DELETE FROM {} WHERE id = ANY(%s)"), [ids]).rowcount

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        connection, dim = self._connection, self.schema.dim
        # By id too, so that the best of equal scores are always the same; a graph could not be followed then.
        order = "distance, id" if self._index is None else "distance"
        statement = self._sql(
            "SELECT id, -(code <#> %s::sparsevec), code <#> %s::sparsevec AS distance FROM {} "
            f"WHERE code <#> %s::sparsevec < 0 ORDER BY {order} LIMIT %s"
        )
        found: list[Found] = []
        with connection.transaction():
            if self._index is not None:
                connection.execute(f"SET LOCAL hnsw.ef_search = {max(40, top_k)}")
            for latents, weights in rows:
                code = _text(latents, weights, dim)
                hits = connection.execute(statement, [code, code, code, top_k]).fetchall()
                found.append([(one, float(score)) for one, score, _ in hits])
        return found

    @property
    def _connection(self) -> Connection:
        """Connection of this thread, opened again where it broke."""
        import psycopg

        current: Connection | None = getattr(self._of_thread, "connection", None)
        if current is None or current.closed:
            current = psycopg.connect(self._url, autocommit=True)
            self._of_thread.connection = current
            self._connections = [one for one in self._connections if not one.closed] + [current]
        return current

    def _sql(self, statement: str) -> Composed:
        from psycopg import sql

        return sql.SQL(statement).format(self._table)


def _text(latents: list[int], weights: list[float], dim: int) -> str:
    """Format a vector as pgvector reads it; nine digits hold a float32 exactly."""
    return (
        f"{{{','.join(f'{latent + 1}:{weight:.9g}' for latent, weight in zip(latents, weights, strict=True))}}}/{dim}"
    )
