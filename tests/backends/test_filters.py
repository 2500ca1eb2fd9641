"""Conditions in every backend: the documents that `SearchIndex` finds by the same metadata, whatever stands in it."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from csr_hf.backends import Schema, open_backend, read_metadata, upload
from csr_hf.backends.conditions import Bound, Junction, fold, read_condition
from csr_hf.backends.metadata import field_name, fields_of
from csr_hf.search.documents import find_documents, make_documents
from csr_hf.sparse_codes import SparseCodes
from tests.backends.conftest import EXACT, STAND_INS
from tests.backends.reference import random_codes
from tests.search.test_filters import NAMES, conditions

every_backend = pytest.mark.parametrize("scheme", [*EXACT, *STAND_INS])

TEXTS = ["en", "de", None, "", "ä\"'\\ {n}/#?%_", "en' OR '1'='1", '"] or id > 0 or id in [1', "a\nb\t\x01\r"]
TEXTS += ["%s %(code)s"]
ROWS = [
    {
        "lang": text,
        "year": [2020, None, -(2**63), 2**53 + 1, 2022, 0][at % 6],
        "price": [1.5, 2.0, None, -1e300, 0.1][at % 5],
        "ok": [True, False, None][at % 3],
        "written": ["3.10", "", "12", None, "-1e3"][at % 5],
        "day": [datetime.date(2020, 1, 31), None, datetime.date(1969, 12, 31)][at % 3],
        "at": [datetime.datetime(2024, 2, 29, 12, 30, 1, 5), None][at % 2],
        "zoned": [datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC), None][at % 2],
        "cost": [Decimal("1.25"), Decimal("-3"), None, Decimal("2.5")][at % 4],
        "unit price": at,
        "quo\"te'; DROP TABLE documents --": at % 2,
    }
    for at, text in enumerate(TEXTS * 4)
]
TABLE = make_documents(None, ROWS, len(ROWS))
SAMPLES = [
    'lang == "en"',
    'lang != "en"',
    'not lang == "en"',
    'lang in ["en", None]',
    'lang not in ["en", "de"]',
    "lang == None",
    "lang is not None and not ok",
    'lang == ""',
    *(f"lang == {text!r}" for text in TEXTS if text),
    *(f"lang not in [{text!r}, 'de']" for text in TEXTS if text),
    'lang == "a\\x00b"',
    'lang != "a\\x00b"',
    "year > 2020",
    "not year > 2020",
    "2019.5 < year <= 2022",
    "year == 2020.0",
    "year == 2020.5",
    "year != 2020.5",
    "year in [2020, 2022.0, 7.5]",
    "year in []",
    "year not in []",
    f"year == {2**53 + 1}",
    f"year in [{2**53 + 1}, {-(2**63)}]",
    "year < 1e300",
    "year > 1e300",
    "year >= -1e300",
    "price == 0.1",
    "price in [0.1, 2]",
    "price not in [0.1, 2]",
    "price < 1e999",
    "price > -1e999",
    "price != 1e999",
    "not (price < 2 or price == None)",
    "price <= -1e300",
    "ok",
    "not ok",
    "ok == None",
    "ok != True",
    "ok in [True, False]",
    "written < 10",
    "written in [12, 3.1]",
    "not (written > 3)",
    'written == "3.10"',
    'written in ["", "12"]',
    'day >= "2020-01-31"',
    'day < "1970-01-01"',
    'day != "2020-01-31"',
    'at == "2024-02-29T12:30:01.000005"',
    'at in ["2024-02-29T12:30:01.000005"]',
    'zoned >= "2024-02-29T00:00:00Z"',
    'zoned != "2024-02-29T01:00:00+01:00"',
    "cost > 1.2",
    "cost == 1.25",
    'column("unit price") > 3 and column("unit price") <= 17',
    "column('quo\"te\\'; DROP TABLE documents --') == 1",
    'lang == "en" and (year > 2020 or not (price >= 1 and ok)) or not (lang == None or day == None)',
    "ok or " * 300 + "ok",
    "not (" * 20 + "ok" + ")" * 20,
]
ORDERED = ['lang < "en"', 'not (lang < "en")', 'lang >= "ä"', 'lang <= "a\\x00b"', 'lang > "en" and lang < "eo"']
CODES = random_codes(len(ROWS), 8, 200, 60)
ALL = SparseCodes(np.arange(200)[None], np.ones((1, 200), np.float32), 200)


def found_by(backend, condition):
    return sorted(one for one in backend.search(ALL, 100, filter=condition).ids[0].tolist() if one >= 0)


@pytest.fixture
def filled(opened):
    def fill(scheme, suffix=""):
        backend = opened(scheme, suffix=suffix)
        upload(backend, CODES, np.arange(len(ROWS)), metadata=ROWS)
        return backend

    return fill


@every_backend
def test_conditions_find_what_the_index_finds(filled, scheme):
    backend, wrong = filled(scheme), []
    for condition in [*SAMPLES, *([] if scheme == "qdrant-local" else ORDERED)]:
        expected = np.flatnonzero(find_documents(condition, TABLE)).tolist()
        if found_by(backend, condition) != expected:
            wrong.append((condition, expected, found_by(backend, condition)))
    assert not wrong
    # Some conditions name everything, some nothing, so that neither passes by itself.
    assert found_by(backend, "price > 1e999") == []
    assert backend.search(ALL, 100).ids[0, len(ROWS) - 1] >= 0
    assert backend.count() == len(ROWS)


@every_backend
def test_any_condition_finds_what_the_index_finds(opened, scheme):
    rng, rows = np.random.default_rng(3), []
    for _ in range(40):
        rows.append({name: rng.choice([*range(len(values)), -1]) for name, values in NAMES.items()})
    rows = [{name: None if at < 0 else NAMES[name][at] for name, at in row.items()} for row in rows]
    types = {"lang": pa.string(), "year": pa.int64(), "price": pa.float64()}
    table = pa.table({name: pa.array([row[name] for row in rows], types[name]) for name in NAMES})
    backend, reference = opened(scheme), make_documents(None, table, len(rows))
    upload(backend, random_codes(40, 8, 200, 61), np.arange(40), metadata=table)

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(conditions())
    def check(condition):
        text, _ = condition
        if scheme != "qdrant-local" or not any(f"lang {sign}" in text for sign in "<>"):
            assert found_by(backend, text) == np.flatnonzero(find_documents(text, reference)).tolist()

    check()


@every_backend
def test_hits_of_a_filter_are_the_best_that_fit(filled, scheme):
    backend, queries = filled(scheme), random_codes(6, 20, 200, 62)
    fits = find_documents("year > 0 and not ok", TABLE)
    every, some = backend.search(queries, 100), backend.search(queries, 4, filter="year > 0 and not ok")
    for ids, chosen in zip(every.ids.tolist(), some.ids.tolist(), strict=True):
        expected = [one for one in ids if one >= 0 and fits[one]][:4]
        assert chosen == expected + [-1] * (4 - len(expected))


@every_backend
def test_documents_that_are_replaced_lose_their_metadata(opened, scheme):
    backend = opened(scheme)
    backend.create(Schema(dim=200, k=8, columns={"lang": "text", "price": "numeric text"}))
    backend.upsert(CODES[:3], [1, 2, 3], metadata={"lang": ["en", "de", None], "price": ["3", "", "4.5"]})
    assert found_by(backend, "price < 4") == [1]
    backend.upsert(CODES[:1], [1], metadata={"lang": ["de"]})
    assert found_by(backend, 'lang == "de"') == [1, 2]
    assert found_by(backend, "price == None") == [1]
    assert found_by(backend, "price < 10") == [3]
    backend.upsert(CODES[:1], [2])
    assert found_by(backend, "lang == None") == [2, 3]
    assert backend.delete([1, 3, 9]) == 2
    assert found_by(backend, "lang == None") == [2]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lang": ["en"], "yeer": [1]}, r"column 'yeer', which the collection has not\. Did you mean `year`\?"),
        ({"year": ["soon"]}, "'year' holds large_string, in the collection it holds int64"),
        ({"year": [1.5]}, "'year' holds double, in the collection it holds int64"),
        ({"year": [True]}, "'year' holds bool, in the collection it holds int64"),
        ({"year": np.array([2**63], np.uint64)}, "'year' holds uint64, in the collection it holds int64"),
        ({"price": [float("inf")]}, "'price' holds NaN or infinity"),
        ({"price": pa.array([float("nan")])}, "'price' holds NaN or infinity"),
        ({"lang": ["a\0b"]}, "'lang' holds a zero character"),
        ({"written": ["much"]}, "'written' holds a text that is no number"),
        ({"written": ["inf"]}, "'written' holds NaN or infinity"),
        ({"lang": ["en", "de"]}, "'lang' holds 2 values for 1 documents"),
        ({"lang": [["en"]]}, "'lang' holds list<.*>, which no backend filters by"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_before_anything_is_sent(filled, metadata, message):
    pytest.importorskip("qdrant_client", reason='pip install "csr_hf[qdrant]"')
    backend = filled("qdrant-local")
    with pytest.raises(ValueError, match=message) as error:
        backend.upsert(CODES[:1], [1000], metadata=metadata)
    assert "\n" not in str(error.value)
    assert backend.count() == len(ROWS)


@every_backend
def test_conditions_that_cannot_be_read_are_refused_in_one_line(filled, scheme):
    backend = filled(scheme)
    for condition, message in [
        ('langg == "en"', "no column 'langg'. Did you mean `lang`?"),
        ("lang == 3", "compares texts with numbers: not all of 'lang' are"),
        ("year == '2020'", "'year' holds int64, which '2020' is not"),
        ("day > 'soon'", "'day' holds date32"),
        ("lang == '\\ud800'", "'lang' holds large_string"),
        ("__import__('os')", "is no condition"),
        ([1, 2], "is a list"),
    ]:
        with pytest.raises(ValueError, match=r"`filter`") as error:
            backend.search(ALL, 5, filter=condition)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_texts_too_long_for_a_backend_are_named(opened):
    pytest.importorskip("elasticsearch", reason='pip install "csr_hf[elasticsearch]"')
    backend = opened("elasticsearch")
    with pytest.raises(ValueError, match=r"'lang' of document 1 has 32,768 bytes; Elasticsearch takes 32,766"):
        upload(backend, CODES[:2], [0, 1], metadata={"lang": ["en", "ä" * 16_384]})
    assert backend.read_schema() is None


def test_qdrant_refuses_what_it_cannot_compare(filled):
    pytest.importorskip("qdrant_client", reason='pip install "csr_hf[qdrant]"')
    backend = filled("qdrant-local")
    with pytest.raises(ValueError, match="Qdrant compares texts by ==, != and in alone"):
        backend.search(ALL, 5, filter='ok or not (lang < "en" and ok)')
    with pytest.raises(ValueError, match=r"Qdrant rounds 9007199254740993 to a float"):
        backend.search(ALL, 5, filter=f"year > {2**53 + 1}")


def test_a_graph_of_pgvector_finds_what_few_documents_fit(opened):
    backend, n = opened("postgresql", suffix="&index=hnsw"), 500
    codes = random_codes(n, 8, 200, 40)
    upload(backend, codes, np.arange(n), metadata={"number": np.arange(n)})
    hits = backend.search(random_codes(15, 20, 200, 41), 10, filter="number >= 480")
    assert (hits.ids[hits.ids >= 0] >= 480).all()
    assert (hits.ids >= 0).sum(axis=1).mean() > 7


def test_names_of_fields_are_plain_and_differ():
    names = ["a", "A b", "A_b", "a.b", "a-b", "ä", "x" * 300, "x" * 301, "", '"', "number_a", "a;--"]
    fields = fields_of(dict.fromkeys(names, "numeric text"))
    assert len(fields) == 2 * len(names)
    assert all(name.isascii() and name.replace("_", "").isalnum() and len(name) <= 60 for name in fields)
    assert field_name("price") == "meta_price"


def test_kinds_are_those_of_the_columns():
    kinds, _ = read_metadata(TABLE, len(ROWS))
    assert kinds == {
        **{"lang": "text", "year": "integer", "price": "number", "ok": "boolean", "written": "numeric text"},
        **{"day": "date32[day]", "at": "timestamp[us]", "zoned": "timestamp[us, tz=UTC]", "cost": "number"},
        **{"unit price": "integer", "quo\"te'; DROP TABLE documents --": "integer"},
    }
    assert read_metadata({"a": ["", None]}, 2)[0] == {"a": "text"}
    with pytest.raises(ValueError, match="unknown kind"):
        Schema(dim=10, k=2, columns={"a": "list"})


def test_negations_stand_at_fields():
    columns = {"a": "integer", "b": "integer"}
    assert read_condition("not (a < 1 or not b >= 2)", columns) == Junction(
        "and", (Bound("meta_a", ">=", 1), Bound("meta_b", ">=", 2))
    )
    assert read_condition("a == 0.5 or a in []", columns) is None
    assert read_condition("a == 0.5 and b == 1", columns) is None
    shown = fold(
        read_condition("a > 1 and (b < 2 or a == None)", columns),
        lambda leaf: leaf.field,
        lambda word, parts: f"({f' {word} '.join(parts)})",
    )
    assert shown == "(meta_a and (meta_b or meta_a))"


@every_backend
def test_a_collection_of_other_columns_is_kept(opened, scheme):
    backend = opened(scheme)
    backend.create(Schema(dim=200, k=8, columns={"lang": "text"}))
    with pytest.raises(ValueError, match=r"`columns` has 'lnag', which the collection .* Did you mean `lang`"):
        backend.create(Schema(dim=200, k=8, columns={"lnag": "text"}))
    with pytest.raises(ValueError, match="'lang' is integer, in the collection 'documents' it is text"):
        backend.create(Schema(dim=200, k=8, columns={"lang": "integer"}))
    backend.create(Schema(dim=200, k=8))
    assert backend.schema.columns == {"lang": "text"}


@pytest.mark.parametrize("scheme", EXACT)
def test_metadata_outlives_the_connection(place, tmp_path, scheme):
    url = f"qdrant-local:{tmp_path / 'folder'}" if scheme == "qdrant-local" else place(scheme)
    pytest.importorskip("qdrant_client")
    with open_backend(url, "kept") as backend:
        upload(backend, CODES[:9], np.arange(9), metadata=ROWS[:9])
        schema = backend.schema
    with open_backend(url, "kept") as backend:
        assert backend.schema == schema
        assert found_by(backend, "lang == None") == [2]
