"""One suite over every engine: what is stored, what is found, and what is refused before anything is sent."""

import sys

import numpy as np
import pytest

from csr_hf.backends import open_engine, upload
from csr_hf.search.index import InvertedIndex
from csr_hf.sparse_codes import SparseCodes
from tests.backends.conftest import EXACT, SHARED, STAND_INS
from tests.search.test_index import random_codes

every_engine = pytest.mark.parametrize("scheme", EXACT + STAND_INS)


@pytest.fixture(scope="module")
def documents():
    return random_codes(500, 8, 200, 40)


@pytest.fixture(scope="module")
def queries():
    return random_codes(15, 20, 200, 41)


def assert_same_best(hits, index, queries, top_k, tolerance):
    """The scores of the index, and no document that is worse than its last one; ties may be broken otherwise."""
    expected = index.search(queries, top_k)
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=tolerance, atol=1e-6)
    every = index.search(queries, len(index))
    for at in range(len(queries)):
        score_of = dict(zip(every.ids[at].tolist(), every.scores[at].tolist(), strict=True))
        found = hits.ids[at][np.isfinite(hits.scores[at])].tolist()
        assert len(set(found)) == len(found) == np.isfinite(expected.scores[at]).sum()
        exact = np.array([score_of[one] for one in found])
        np.testing.assert_allclose(exact, hits.scores[at][: len(found)], rtol=tolerance, atol=1e-6)


def tolerance_of(scheme):
    """Of scores: rounding of float32, or the 9 bits that Lucene keeps."""
    return 4e-3 if scheme in STAND_INS else 1e-5


@every_engine
@pytest.mark.parametrize(("ids", "decoded"), [("integers", False), ("strings", True)])
def test_search_equals_the_index(opened, scheme, ids, decoded, documents, queries):
    names = np.arange(5, 505) if ids == "integers" else np.array([f"ä\"'\\ {n}/#?" for n in range(500)])
    norms = np.random.default_rng(1).uniform(0.3, 2, 500).astype(np.float32) if decoded else None
    engine, index = opened(scheme), InvertedIndex.build(documents, names, decoded_norms=norms)
    assert upload(engine, documents, names, decoded_norms=norms, batch_size=200) == 500
    assert engine.count() == 500
    for top_k in (1, 10, 100):
        assert_same_best(engine.search(queries, top_k), index, queries, top_k, tolerance_of(scheme))
    cut = engine.search(queries, 10, query_k=5)
    assert_same_best(cut, index, queries.truncate(5), 10, tolerance_of(scheme))


@every_engine
def test_upsert_replaces_and_delete_removes(opened, scheme, documents, queries):
    engine, names = opened(scheme), np.array([f"d{n}" for n in range(100)])
    engine.create(200, 8, ids="strings")
    engine.upsert(documents[:100], names)
    engine.upsert(documents[100:160], names[40:])
    assert engine.count() == 100
    current = SparseCodes.concatenate([documents[:40], documents[100:160]])
    assert_same_best(
        engine.search(queries, 10), InvertedIndex.build(current, names), queries, 10, tolerance_of(scheme)
    )
    engine.delete([*names[20:90], "unknown"])
    engine.delete([])
    kept = np.r_[0:20, 90:100]
    assert engine.count() == 30
    index = InvertedIndex.build(current[kept], names[kept])
    assert_same_best(engine.search(queries, 10), index, queries, 10, tolerance_of(scheme))
    engine.upsert(documents[:0], [])
    assert engine.count() == 30


@every_engine
def test_queries_without_hits(opened, scheme):
    engine = opened(scheme)
    engine.create(5, 2)
    engine.upsert(SparseCodes(np.array([[0, 1], [1, 0]]), np.array([[2.0, 1.0], [1.0, 0.0]]), 5), [7, 8])
    queries = SparseCodes(np.array([[0, 1], [3, 4], [0, 0]]), np.array([[1.0, 0], [1.0, 1.0], [0, 0]]), 5)
    hits = engine.search(queries, 3)
    assert hits.ids.tolist() == [[7, -1, -1], [-1] * 3, [-1] * 3]
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    np.testing.assert_allclose(hits.scores[0], [2 / np.sqrt(5), -np.inf, -np.inf], rtol=4e-3)
    assert np.isneginf(hits.scores[1:]).all()
    assert engine.search(queries[:0], 3).ids.shape == (0, 3)


@every_engine
def test_ids_are_of_every_size(opened, scheme, documents):
    ids = [0, -1, -(2**40), 2**62] if scheme != "index" else [0, -7, -(2**40), 2**62]
    engine = opened(scheme)
    engine.create(200, 8)
    engine.upsert(documents[:4], ids)
    assert engine.search(documents[:4], 1).ids[:, 0].tolist() == ids
    engine.delete(ids[1:3])
    assert engine.count() == 2


@every_engine
def test_creating_again_keeps_what_is_there_unless_told_otherwise(opened, scheme, documents):
    engine = opened(scheme)
    with pytest.raises(ValueError, match=r"has no 'documents'.*Call `create`"):
        engine.count()
    engine.create(200, 8, head="one")
    engine.upsert(documents[:10], range(10))
    first = engine.schema
    engine.create(200, 8, head="one")
    assert (engine.count(), engine.schema) == (10, first)
    with pytest.raises(ValueError, match=r"`decoded` \(True\) is not that of the collection 'documents' \(False\)"):
        engine.create(200, 8, head="one", decoded=True)
    engine.create(200, 8, ids="strings", replace=True)
    assert engine.count() == 0
    assert engine.schema.created != first.created


@pytest.mark.parametrize("scheme", ["index", "milvus-lite", "qdrant-local", "postgresql"])
def test_documents_outlive_the_connection(place, tmp_path, scheme, documents, queries):
    url = f"qdrant-local:{tmp_path / 'folder'}" if scheme == "qdrant-local" else place(scheme)
    pytest.importorskip("qdrant_client")
    with open_engine(url, "kept") as engine:
        # The embedded Qdrant commits every document by itself.
        upload(engine, documents[:60], np.arange(60))
        expected = engine.search(queries, 5)
    with open_engine(url, "kept") as engine:
        assert (engine.count(), engine.schema.k) == (60, 8)
        np.testing.assert_allclose(engine.search(queries, 5).scores, expected.scores, rtol=3e-6)
    with open_engine(url, "other") as engine, pytest.raises(ValueError, match="has no 'other'"):
        engine.search(queries)


def test_two_collections_do_not_mix(opened, place, documents):
    with open_engine(place("milvus-lite"), "a") as one:
        one.create(200, 8)
        one.upsert(documents[:3], [1, 2, 3])
        two = open_engine(place("milvus-lite"), "b")
        two.create(200, 8)
        assert (one.count(), two.count()) == (3, 0)


def test_the_folder_of_an_index_is_one_that_it_loads(tmp_path, documents, queries):
    with open_engine(f"index:{tmp_path}", "mine") as engine:
        upload(engine, documents, np.arange(500), batch_size=100)
        index = InvertedIndex.load(tmp_path / "mine")
        assert index.segments == 1
        np.testing.assert_allclose(engine.search(queries).scores, index.search(queries).scores, rtol=3e-6)
        # Codes that keep less are the same documents.
        engine.upsert(documents[:5].truncate(3), range(5))
        assert engine.count() == 500


def test_a_connection_that_broke_is_opened_again(place, documents):
    import psycopg

    url = place("postgresql")
    with open_engine(url) as engine:
        upload(engine, documents[:50], np.arange(50), threads=2, batch_size=10)
        with psycopg.connect(url, autocommit=True) as other:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            (ended,) = other.execute(
                f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"
            ).fetchone()
            assert ended
        upload(engine, documents[:80], np.arange(80), threads=2, batch_size=10, delay=0.01)
        assert engine.count() == 80


def test_graph_of_pgvector_finds_most(opened, documents, queries):
    engine = opened("postgresql", suffix="&index=hnsw")
    upload(engine, documents, np.arange(500), threads=2)
    found, exact = engine.search(queries, 10), InvertedIndex.build(documents).search(queries, 10)
    same = [len(set(left) & set(right)) for left, right in zip(found.ids.tolist(), exact.ids.tolist(), strict=True)]
    assert np.mean(same) > 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data of real tasks is not at hand")
@every_engine
def test_real_task_finds_what_the_index_finds(opened, real_task, scheme):
    codes, norms, names, queries = real_task
    engine = opened(scheme)
    upload(engine, codes, names, decoded_norms=norms)
    index = InvertedIndex.build(codes, names, decoded_norms=norms)
    assert_same_best(engine.search(queries, 10), index, queries, 10, tolerance_of(scheme))


def refused(engine, message, codes=None, ids=None, **options):
    before = engine.count()
    with pytest.raises(ValueError, match=message):
        upload(engine, codes, ids, **options)
    assert engine.count() == before


def raw(indices, values, dim=200):
    return SparseCodes(np.array(indices), np.array(values, np.float32), dim, check=False)


@every_engine
def test_documents_that_no_engine_takes_are_named(opened, scheme, documents):
    engine = opened(scheme)
    engine.create(200, 8, head="one")
    some = documents[:3]
    refused(engine, r"`ids` holds 2 ids, but there are 3", some, [1, 2])
    refused(engine, r"`ids` must be unique; 1 appears", some, [1, 2, 1])
    refused(engine, "`ids` are strings, those of the collection integers", some, ["a", "b", "c"])
    refused(engine, r"`codes.dim` \(100\) is not the collection's dim \(200\)", random_codes(3, 8, 100, 1), [1, 2, 3])
    refused(engine, r"`codes.k` \(9\) is above the collection's \(8\)", random_codes(3, 9, 200, 1), [1, 2, 3])
    refused(
        engine, r"`codes.head_fingerprint` \(two\) is not the head", random_codes(3, 8, 200, 1, head="two"), [1, 2, 3]
    )
    refused(engine, "`decoded_norms` must not be given", some, [1, 2, 3], decoded_norms=np.ones(3, np.float32))
    refused(
        engine,
        r"`codes\[1\]` names a latent twice",
        raw([[1, 2], [3, 3]], [[2, 1], [2, 1]]),
        [1, 2],
    )
    refused(engine, r"`codes\[0\]` holds a value that is negative", raw([[1, 2]], [[2, -1]]), [1])
    refused(
        engine, "documents that no query can find, 1 of 2, first 6", raw([[1, 2], [1, 2]], [[2, 1], [0, 0]]), [5, 6]
    )
    refused(engine, r"`codes.indices` must lie in \[0, 200\)", raw([[1, 200]], [[2, 1]]), [1])
    with pytest.raises(ValueError, match=r"`codes.head_fingerprint` \(two\) is not the head"):
        engine.search(random_codes(3, 8, 200, 1, head="two"))
    with pytest.raises(ValueError, match=r"`codes.dim` \(100\)"):
        engine.search(random_codes(3, 8, 100, 1))
    with pytest.raises(ValueError, match=r"`top_k` \(0\)"):
        engine.search(some, 0)
    with pytest.raises(ValueError, match=r"`codes.k` \(9\) is above the collection's \(8\)"):
        engine.upsert(random_codes(3, 9, 200, 1), [1, 2, 3])


@pytest.mark.parametrize(
    ("scheme", "dim", "k", "message"),
    [
        ("milvus-lite", 2**32, 8, r"`dim` \(4294967296\) is above what Milvus takes \(4294967295\)"),
        ("postgresql", 20_000, 16_001, r"`k` \(16001\) is above what PostgreSQL takes \(16000\)"),
        ("postgresql", 1_000_000_001, 8, r"`dim` \(1000000001\)"),
        ("index", 10, 11, r"`k` \(11\) must be between 1 and `dim` \(10\)"),
        ("index", 10, 0, r"`k` \(0\)"),
    ],
)
def test_sizes_beyond_an_engine(opened, scheme, dim, k, message):
    with pytest.raises(ValueError, match=message):
        opened(scheme).create(dim, k)


@every_engine
def test_nothing_is_created_for_documents_that_are_refused(opened, scheme):
    engine = opened(scheme)
    with pytest.raises(ValueError, match="no query can find"):
        upload(engine, raw([[1, 2]], [[0, 0]]), [5])
    assert engine.read_schema() is None


@pytest.mark.parametrize(
    ("package", "url", "line"),
    [
        ("pymilvus", "milvus-lite:./file.db", r'pip install "csr_hf\[milvus\]"'),
        ("milvus_lite", "milvus-lite:./file.db", r'pip install "csr_hf\[milvus\]"'),
        ("qdrant_client", "qdrant://localhost", r'pip install "csr_hf\[qdrant\]"'),
        ("psycopg", "postgresql://localhost/test", r'pip install "csr_hf\[pgvector\]"'),
    ],
)
def test_missing_clients_are_named(monkeypatch, package, url, line):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=line):
        open_engine(url)


def test_limits_of_single_engines(opened, documents):
    milvus = opened("milvus-lite")
    milvus.create(200, 8, ids="strings")
    with pytest.raises(ValueError, match="has 513 bytes; Milvus takes 512"):
        milvus.upsert(documents[:1], ["ä" * 256 + "b"])
    with pytest.raises(ValueError, match=r"`top_k` \(16385\) must be at least 1 and at most 16384"):
        milvus.search(documents[:1], 16_385)
    with pytest.raises(ValueError, match="`ids` has an empty string"):
        milvus.upsert(documents[:1], [""])
    graph = opened("postgresql", suffix="&index=hnsw")
    with pytest.raises(ValueError, match=r"`k` \(1001\) is above what PostgreSQL takes \(1000\)"):
        graph.create(2_000, 1_001)
    graph.create(2_000, 8)
    with pytest.raises(ValueError, match=r"a query of 1001 latents; PostgreSQL takes 1000\. Pass `query_k=1000`"):
        graph.search(SparseCodes(np.arange(1_001)[None], np.ones((1, 1_001), np.float32), 2_000))


def test_other_peoples_collections_are_left_alone(place):
    import psycopg

    url = place("postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE documents (name text)")
    with open_engine(url) as engine, pytest.raises(RuntimeError, match="which csr_hf did not make"):
        engine.create(200, 8, replace=True)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("documents", {}, "has no scheme"),
        ("mysql://host", {}, "'mysql' is unknown"),
        ("qdrant://", {}, "names no host"),
        ("milvus-lite://host", {}, "must name a path on this machine"),
        ("opensearch://me:secret@host:port", {}, r"`url` \(opensearch://host:port\) has an unreadable port"),
        ("opensearch://host?tls=maybe", {}, r"`tls` \('maybe'\)"),
        ("opensearch://host?feld=x", {}, "`feld` in the URL is no option of opensearch"),
        ("opensearch://host?field=text", {}, r"`field` \('text'\)"),
        ("opensearch://host?field=sparse_vector", {}, r"`n_postings` \(None\) must be given"),
        ("opensearch://host?field=sparse_vector&n_postings=many", {}, r"`n_postings` \('many'\)"),
        ("opensearch://host?ceiling=0", {}, r"`ceiling` \(0.0\)"),
        ("opensearch://host", {"api_key": "key"}, "`api_key`: opensearch takes none"),
        ("postgresql://host/db?index=ivfflat", {}, r"`index` \('ivfflat'\)"),
        ("index:folder", {"collection": "Mine"}, r"`collection` \('Mine'\) must be 1 to 63"),
        ("index:folder", {"collection": "1st"}, r"`collection` \('1st'\)"),
        ("index:folder", {"collection": ""}, r"`collection` \(''\)"),
        ("index:folder", {"collection": "a-b"}, r"`collection` \('a-b'\)"),
    ],
)
def test_urls_that_name_no_engine(url, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_engine(url, **options)
    assert "secret" not in str(caught.value)
