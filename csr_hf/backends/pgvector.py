"""`postgresql://user@host/database`: a table with a column of pgvector's type `sparsevec`."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from csr_hf.backends.backend import Backend
from csr_hf.backends.conditions import Among, Bound, Presence, Test, fold
from csr_hf.backends.contract import KEY, BackendError, Found, Limits
from csr_hf.backends.documents import Documents, Row
from csr_hf.backends.metadata import fields_of
from csr_hf.backends.schema import Schema

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_MOST_LATENTS = 16_000
_MOST_INDEXED = 1_000
_OLDEST = (0, 7)
_ITERATES = (0, 8)
_TYPES = {"text": 'text COLLATE "C"', "integer": "bigint", "number": "double precision", "boolean": "boolean"}
"""Types of columns. Texts are compared by their bytes."""


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
        if self._version < _OLDEST:
            version = ".".join(map(str, self._version))
            raise BackendError(f"pgvector {version} has no type sparsevec. Use 0.7 or newer.")
        kind = "bigint" if schema.ids == "integers" else 'text COLLATE "C"'
        columns = [f"id {kind} PRIMARY KEY", f"code sparsevec({schema.dim}) NOT NULL"]
        columns += [f'"{name}" {_TYPES[kind]}' for name, kind in fields_of(schema.columns).items()]
        with connection.transaction():
            connection.execute(self._sql(f"CREATE TABLE {{}} ({', '.join(columns)})"))
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
        fields = fields_of(self.schema.columns)
        names = ["id", "code", *(f'"{name}"' for name in fields)]
        types = [kind, "text", *(_TYPES[each].partition(" COLLATE")[0] for each in fields.values())]
        listed = ", ".join(names)
        given = ", ".join(f"%s::{each}[]" for each in types)
        statement = self._sql(
            f"INSERT INTO {{}} ({listed}) SELECT {listed.replace('code', 'code::sparsevec', 1)} "
            f"FROM unnest({given}) AS new ({listed}) ON CONFLICT (id) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        )
        codes = [_text(row.latents, row.weights, dim) for row in documents.rows()]
        values = [documents.fields[name].to_pylist() for name in fields]
        self._connection.execute(statement, [documents.ids.tolist(), codes, *values])

    def _delete(self, ids: list[Any]) -> int:
        return self._connection.execute(self._sql("DELETE FROM {} WHERE id = ANY(%s)"), [ids]).rowcount

    def _search(self, rows: list[Row], top_k: int, test: Test | None) -> list[Found]:
        connection, dim = self._connection, self.schema.dim
        # By id too, so that the best of equal scores are always the same; a graph could not be followed then.
        order = "distance, id" if self._index is None else "distance"
        values: dict[str, Any] = {"top_k": top_k}
        chosen = "" if test is None else f"AND {_clause(test, values)} "
        statement = self._sql(
            "SELECT id, -(code <#> %(code)s::sparsevec), code <#> %(code)s::sparsevec AS distance FROM {} "
            f"WHERE code <#> %(code)s::sparsevec < 0 {chosen}ORDER BY {order} LIMIT %(top_k)s"
        )
        found: list[Found] = []
        with connection.transaction():
            if self._index is not None:
                connection.execute(f"SET LOCAL hnsw.ef_search = {max(40, top_k)}")
            if self._index is not None and test is not None and self._version >= _ITERATES:
                # The graph is followed until enough documents fit.
                connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            for latents, weights in rows:
                hits = connection.execute(statement, {**values, "code": _text(latents, weights, dim)}).fetchall()
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
            self._connections.append(current)
        return current

    @property
    def _version(self) -> tuple[int, ...]:
        """Version of pgvector in the database; () without it."""
        row = self._connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        return () if row is None else tuple(map(int, row[0].split(".")[:2]))

    def _sql(self, statement: str) -> Composed:
        from psycopg import sql

        return sql.SQL(statement).format(self._table)


def _text(latents: list[int], weights: list[float], dim: int) -> str:
    """Format a vector as pgvector reads it; nine digits hold a float32 exactly."""
    return (
        f"{{{','.join(f'{latent + 1}:{weight:.9g}' for latent, weight in zip(latents, weights, strict=True))}}}/{dim}"
    )


def _clause(test: Test, values: dict[str, Any]) -> str:
    """Write a test as a condition of SQL; values of the condition go into `values`, not into the text."""

    def name(value: Any) -> str:
        values[f"value{len(values)}"] = value
        return f"%(value{len(values) - 1})s"

    def leaf(one: Among | Bound | Presence) -> str:
        if isinstance(one, Presence):
            return f'"{one.field}" IS {"NOT " if one.expected else ""}NULL'
        if isinstance(one, Bound):
            return f'"{one.field}" {one.operator} {name(one.value)}'
        # Where the column is NULL, so is this, which no row fulfils.
        return f'"{one.field}" {"<> ALL" if one.excluded else "= ANY"} ({name(list(one.values))})'

    return fold(test, leaf, lambda word, parts: f"({f' {word.upper()} '.join(parts)})")
