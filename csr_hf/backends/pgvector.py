"""`postgresql://user@host/database`: a table with a column of pgvector's type `sparsevec`."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from csr_hf.backends.contract import EngineError, Found, Limits, Row, Schema
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_MOST_LATENTS = 16_000
_MOST_INDEXED = 1_000
_OLDEST = (0, 7)
_KEY = "csr_hf"


class PgVector(Engine):
    """A table (id, code) in PostgreSQL with pgvector 0.7 or newer.

    A search reads all rows and is exact; with `index="hnsw"` it follows a graph, which is fast and approximate. A
    vector has at most 16,000 active latents, 1,000 in a graph; latents are counted from 1.

    Args:
        collection: name of the table.
        url: as libpq takes it.
        index: None or "hnsw".

    Raises:
        ImportError: if psycopg is not installed.
        ValueError: for another index.
    """

    name = "PostgreSQL"

    def __init__(self, collection: str, url: str, *, index: str | None = None) -> None:
        super().__init__(collection)
        try:
            from psycopg import sql
        except ImportError as error:
            raise ImportError('pgvector needs psycopg: pip install "csr_hf[pgvector]"') from error
        if index not in (None, "hnsw"):
            raise ValueError(f'`index` ({index!r}) must be "hnsw", or left out for exact searches.')
        most = _MOST_LATENTS if index is None else _MOST_INDEXED
        # The graph search of pgvector visits at most 1,000 candidates.
        self.limits = Limits(
            dim=1_000_000_000,
            document_latents=most,
            query_latents=most,
            top_k=None if index is None else _MOST_INDEXED,
            # What an index of PostgreSQL takes is a third of a page.
            id_bytes=2_000,
        )
        self._url, self._index = url, index
        self._table = sql.Identifier(collection)
        self._own = threading.local()
        self._all: list[Connection] = []

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._own = threading.local()

    def write(self, documents: Documents) -> None:
        """Upsert documents in one statement: all of them or none."""
        dim = self.schema.dim
        codes = [_text(latents, weights, dim) for _, latents, weights in documents.rows()]
        if codes:
            kind = "bigint" if self.schema.ids == "integers" else "text"
            statement = self._sql(
                "INSERT INTO {} (id, code) SELECT id, code::sparsevec "
                f"FROM unnest(%s::{kind}[], %s::text[]) AS new (id, code) "
                "ON CONFLICT (id) DO UPDATE SET code = excluded.code"
            )
            self._connection.execute(statement, [documents.ids.tolist(), codes])

    def is_transient(self, error: Exception) -> bool:
        """Whether sending a request again may help."""
        import psycopg

        return isinstance(error, psycopg.OperationalError) or super().is_transient(error)

    def read_schema(self) -> Schema | None:
        """Of the table, read anew; None if there is none that csr_hf made."""
        row = self._connection.execute(
            "SELECT to_regclass(quote_ident(%s)), obj_description(to_regclass(quote_ident(%s)), 'pg_class')",
            [self.collection, self.collection],
        ).fetchone()
        if row is None or row[0] is None:
            return None
        written = json.loads(row[1]).get(_KEY) if row[1] and row[1].startswith("{") else None
        if written is None:
            raise EngineError(f"PostgreSQL has {self.collection!r}, which csr_hf did not make. Choose another name.")
        return Schema(**written)

    def _create(self, schema: Schema) -> None:
        import psycopg
        from psycopg import sql

        connection = self._connection
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise EngineError(f"pgvector is not to be had: {error}. Install it on the server.") from error
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        if row is None or tuple(map(int, row[0].split(".")[:2])) < _OLDEST:
            raise EngineError(f"pgvector {row and row[0]} has no sparsevec. Use 0.7 or newer.")
        kind = "bigint" if schema.ids == "integers" else 'text COLLATE "C"'
        with connection.transaction():
            connection.execute(
                self._sql(f"CREATE TABLE {{}} (id {kind} PRIMARY KEY, code sparsevec({schema.dim}) NOT NULL)")
            )
            if self._index is not None:
                connection.execute(self._sql("CREATE INDEX ON {} USING hnsw (code sparsevec_ip_ops)"))
            written = sql.Literal(json.dumps({_KEY: schema._asdict()}))
            connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, written))

    def _drop(self) -> None:
        self._connection.execute(self._sql("DROP TABLE {}"))

    def _count(self) -> int:
        row = self._connection.execute(self._sql("SELECT count(*) FROM {}")).fetchone()
        return int(row[0]) if row else 0

    def _delete(self, ids: list[Any]) -> None:
        self._connection.execute(self._sql("DELETE FROM {} WHERE id = ANY(%s)"), [ids])

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
        """This thread's own, opened anew where it broke."""
        import psycopg

        mine: Connection | None = getattr(self._own, "connection", None)
        if mine is None or mine.closed:
            mine = psycopg.connect(self._url, autocommit=True)
            self._own.connection = mine
            self._all = [one for one in self._all if not one.closed] + [mine]
        return mine

    def _sql(self, statement: str) -> Composed:
        from psycopg import sql

        return sql.SQL(statement).format(self._table)


def _text(latents: list[int], weights: list[float], dim: int) -> str:
    """A vector as pgvector reads it; nine digits are all of a float32."""
    return (
        f"{{{','.join(f'{latent + 1}:{weight:.9g}' for latent, weight in zip(latents, weights, strict=True))}}}/{dim}"
    )
