"""One suite over every backend: what is stored, what is found, and what is refused before anything is sent."""

import re
import sys

import numpy as np
import pytest

from csr_hf.backends import BackendError, Schema, Unavailable, UploadSettings, open_backend, upload
from csr_hf.sparse_codes import SparseCodes
from tests.backends.conftest import EXACT, STAND_INS
from tests.backends.reference import Reference, random_codes

every_backend = pytest.mark.parametrize("scheme", [*EXACT, *STAND_INS])


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


@every_backend
@pytest.mark.parametrize(("ids", "decoded"), [("integers", False), ("strings", True)])
def test_search_equals_the_index(opened, scheme, ids, decoded, documents, queries):
    names = np.arange(5, 505) if ids == "integers" else np.array([f"ä\"'\\ {n}/#?" for n in range(500)])
    norms = np.random.default_rng(1).uniform(0.3, 2, 500).astype(np.float32) if decoded else None
    backend, index = opened(scheme), Reference(documents, names, decoded_norms=norms)
    assert upload(backend, documents, names, decoded_norms=norms, settings=UploadSettings(batch_size=200)) == 500
    assert backend.count() == 500
    for top_k in (1, 10, 100):
        assert_same_best(backend.search(queries, top_k), index, queries, top_k, tolerance_of(scheme))
    cut = backend.search(queries, 10, query_k=5)
    assert_same_best(cut, index, queries.truncate(5), 10, tolerance_of(scheme))


@every_backend
def test_upsert_replaces_and_delete_removes(opened, scheme, documents, queries):
    backend, names = opened(scheme), np.array([f"d{n}" for n in range(100)])
    backend.create(Schema(dim=200, k=8, ids="strings"))
    backend.upsert(documents[:100], names)
    backend.upsert(documents[100:160], names[40:])
    assert backend.count() == 100
    current = SparseCodes.concatenate([documents[:40], documents[100:160]])
    assert_same_best(backend.search(queries, 10), Reference(current, names), queries, 10, tolerance_of(scheme))
    assert backend.delete([*names[20:90], "unknown"]) == 70
    assert backend.delete([]) == backend.delete(["unknown"]) == 0
    kept = np.r_[0:20, 90:100]
    assert backend.count() == 30
    index = Reference(current[kept], names[kept])
    assert_same_best(backend.search(queries, 10), index, queries, 10, tolerance_of(scheme))
    backend.upsert(documents[:0], [])
    assert backend.count() == 30


@every_backend
def test_queries_without_hits(opened, scheme):
    backend = opened(scheme)
    backend.create(Schema(dim=5, k=2))
    backend.upsert(SparseCodes(np.array([[0, 1], [1, 0]]), np.array([[2.0, 1.0], [1.0, 0.0]]), 5), [7, 8])
    queries = SparseCodes(np.array([[0, 1], [3, 4], [0, 0]]), np.array([[1.0, 0], [1.0, 1.0], [0, 0]]), 5)
    hits = backend.search(queries, 3)
    assert hits.ids.tolist() == [[7, -1, -1], [-1] * 3, [-1] * 3]
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    np.testing.assert_allclose(hits.scores[0], [2 / np.sqrt(5), -np.inf, -np.inf], rtol=4e-3)
    assert np.isneginf(hits.scores[1:]).all()
    assert backend.search(queries[:0], 3).ids.shape == (0, 3)


@every_backend
def test_ids_are_of_every_size(opened, scheme, documents):
    ids = [0, -1, -(2**40), 2**62]
    backend = opened(scheme)
    backend.create(Schema(dim=200, k=8))
    backend.upsert(documents[:4], ids)
    assert backend.search(documents[:4], 1).ids[:, 0].tolist() == ids
    assert backend.delete(ids[1:3]) == 2
    assert backend.count() == 2


@every_backend
def test_creating_again_keeps_what_is_there_unless_told_otherwise(opened, scheme, documents):
    backend = opened(scheme)
    with pytest.raises(ValueError, match=r"has no 'documents' created by csr_hf.*Call `create`"):
        backend.count()
    backend.create(Schema(dim=200, k=8, head="one"))
    backend.upsert(documents[:10], range(10))
    first = backend.schema
    backend.create(Schema(dim=200, k=8, head="one"))
    assert (backend.count(), backend.schema) == (10, first)
    with pytest.raises(ValueError, match=r"`decoded` \(True\) is not that of the collection 'documents' \(False\)"):
        backend.create(Schema(dim=200, k=8, head="one", decoded=True))
    backend.create(Schema(dim=200, k=8, ids="strings"), replace=True)
    assert backend.count() == 0
    assert backend.schema.created != first.created


@pytest.mark.parametrize("scheme", EXACT)
def test_documents_outlive_the_connection(place, tmp_path, scheme, documents, queries):
    url = f"qdrant-local:{tmp_path / 'folder'}" if scheme == "qdrant-local" else place(scheme)
    pytest.importorskip("qdrant_client")
    with open_backend(url, "kept") as backend:
        # The embedded Qdrant commits every document by itself.
        upload(backend, documents[:60], np.arange(60))
        expected = backend.search(queries, 5)
    with open_backend(url, "kept") as backend:
        assert (backend.count(), backend.schema.k) == (60, 8)
        np.testing.assert_allclose(backend.search(queries, 5).scores, expected.scores, rtol=3e-6)
    with open_backend(url, "other") as backend, pytest.raises(ValueError, match="has no 'other'"):
        backend.search(queries)


def test_two_collections_do_not_mix(opened, place, documents):
    with open_backend(place("milvus-lite"), "a") as one:
        one.create(Schema(dim=200, k=8))
        one.upsert(documents[:3], [1, 2, 3])
        two = open_backend(place("milvus-lite"), "b")
        two.create(Schema(dim=200, k=8))
        assert (one.count(), two.count()) == (3, 0)


def test_a_connection_that_broke_is_opened_again(place, documents):
    import psycopg

    url = place("postgresql")
    with open_backend(url) as backend:
        upload(backend, documents[:50], np.arange(50), settings=UploadSettings(batch_size=10, threads=2))
        with psycopg.connect(url, autocommit=True) as other:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            (ended,) = other.execute(
                f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"
            ).fetchone()
            assert ended
        upload(backend, documents[:80], np.arange(80), settings=UploadSettings(batch_size=10, threads=2, delay=0))
        assert backend.count() == 80


@pytest.mark.parametrize(
    ("scheme", "client"),
    [("postgresql", "psycopg"), ("qdrant", "qdrant_client"), ("milvus", "pymilvus"), *STAND_INS.items()],
)
def test_servers_out_of_reach_are_unavailable(scheme, client):
    pytest.importorskip(client, reason='pip install "csr_hf[milvus,qdrant,pgvector,elasticsearch,opensearch]"')
    message = r"(?s)(refused|Fail connecting).*[.?>] Check that the server runs.*the URL"
    with pytest.raises(Unavailable, match=message) as caught, open_backend(f"{scheme}://127.0.0.1:1") as backend:
        backend.count()
    assert len(re.findall("refused", str(caught.value))) <= 1


def test_a_folder_that_is_in_use_is_said_to_be_so_in_one_line(tmp_path):
    pytest.importorskip("qdrant_client", reason='pip install "csr_hf[qdrant]"')
    url = f"qdrant-local:{tmp_path / 'folder'}"
    with open_backend(url), pytest.raises(Unavailable, match=r"another process uses .*folder") as error:
        open_backend(url)
    assert "\n" not in str(error.value)


def test_a_client_that_fails_writes_nothing_itself(opened, capfd):
    pytest.importorskip("pymilvus", reason='pip install "csr_hf[milvus]"')
    backend = opened("milvus-lite")
    backend.create(Schema(dim=10, k=2))
    backend._client.drop_collection("documents")
    capfd.readouterr()
    with pytest.raises(BackendError, match=r"^Milvus: ") as error:
        backend.count()
    assert "\n" not in str(error.value)
    shown = capfd.readouterr()
    assert shown.err == shown.out == ""


def test_graph_of_pgvector_finds_most(opened, documents, queries):
    backend = opened("postgresql", suffix="&index=hnsw")
    upload(backend, documents, np.arange(500), settings=UploadSettings(threads=2))
    found, exact = backend.search(queries, 10), Reference(documents).search(queries, 10)
    same = [len(set(left) & set(right)) for left, right in zip(found.ids.tolist(), exact.ids.tolist(), strict=True)]
    assert np.mean(same) > 8


@every_backend
def test_real_task_finds_what_the_index_finds(opened, real_task, scheme):
    codes, norms, names, queries = real_task
    backend = opened(scheme)
    upload(backend, codes, names, decoded_norms=norms)
    index = Reference(codes, names, decoded_norms=norms)
    assert_same_best(backend.search(queries, 10), index, queries, 10, tolerance_of(scheme))


def refused(backend, message, codes=None, ids=None, **options):
    before = backend.count()
    with pytest.raises(ValueError, match=message):
        upload(backend, codes, ids, **options)
    assert backend.count() == before


def raw(indices, values, dim=200):
    return SparseCodes(np.array(indices), np.array(values, np.float32), dim, check=False)


@every_backend
def test_documents_that_no_backend_takes_are_named(opened, scheme, documents):
    backend = opened(scheme)
    backend.create(Schema(dim=200, k=8, head="one"))
    some = documents[:3]
    refused(backend, r"`ids` holds 2 ids, but there are 3", some, [1, 2])
    refused(backend, r"`ids` must be unique; 1 appears", some, [1, 2, 1])
    refused(backend, "`ids` are strings, those of the collection integers", some, ["a", "b", "c"])
    refused(backend, r"`codes.dim` \(100\) is not the collection's dim \(200\)", random_codes(3, 8, 100, 1), [1, 2, 3])
    refused(backend, r"`codes.k` \(9\) is above the collection's \(8\)", random_codes(3, 9, 200, 1), [1, 2, 3])
    refused(
        backend, r"`codes.head_fingerprint` \(two\) is not the head", random_codes(3, 8, 200, 1, head="two"), [1, 2, 3]
    )
    refused(backend, "`decoded_norms` must not be given", some, [1, 2, 3], decoded_norms=np.ones(3, np.float32))
    refused(
        backend,
        r"`codes\[1\]` names a latent twice",
        raw([[1, 2], [3, 3]], [[2, 1], [2, 1]]),
        [1, 2],
    )
    refused(backend, r"`codes\[0\]` holds a value that is negative", raw([[1, 2]], [[2, -1]]), [1])
    refused(
        backend, "documents that no query can find, 1 of 2, first 6", raw([[1, 2], [1, 2]], [[2, 1], [0, 0]]), [5, 6]
    )
    refused(backend, r"`codes.indices` must lie in \[0, 200\)", raw([[1, 200]], [[2, 1]]), [1])
    with pytest.raises(ValueError, match=r"`codes.head_fingerprint` \(two\) is not the head"):
        backend.search(random_codes(3, 8, 200, 1, head="two"))
    with pytest.raises(ValueError, match=r"`codes.dim` \(100\)"):
        backend.search(random_codes(3, 8, 100, 1))
    with pytest.raises(ValueError, match=r"`top_k` \(0\)"):
        backend.search(some, 0)
    with pytest.raises(ValueError, match=r"`codes.k` \(9\) is above the collection's \(8\)"):
        backend.upsert(random_codes(3, 9, 200, 1), [1, 2, 3])


@pytest.mark.parametrize(
    ("scheme", "dim", "k", "message"),
    [
        ("milvus-lite", 2**32, 8, r"`dim` \(4294967296\) is above what Milvus takes \(4294967295\)"),
        ("postgresql", 20_000, 16_001, r"`k` \(16001\) is above what PostgreSQL takes \(16000\)"),
        ("postgresql", 1_000_000_001, 8, r"`dim` \(1000000001\)"),
    ],
)
def test_sizes_beyond_a_backend(opened, scheme, dim, k, message):
    with pytest.raises(ValueError, match=message):
        opened(scheme).create(Schema(dim=dim, k=k))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 11}, r"`k` \(11\) must be between 1 and `dim` \(10\)"),
        ({"k": 0}, r"`k` \(0\)"),
        ({"k": 2, "ids": "floats"}, r"`ids` \('floats'\)"),
    ],
)
def test_schemas_that_no_collection_has(values, message):
    with pytest.raises(ValueError, match=message):
        Schema(dim=10, **values)


@every_backend
def test_nothing_is_created_for_documents_that_are_refused(opened, scheme):
    backend = opened(scheme)
    with pytest.raises(ValueError, match="no query can find"):
        upload(backend, raw([[1, 2]], [[0, 0]]), [5])
    assert backend.read_schema() is None


@pytest.mark.parametrize(
    ("package", "url", "line"),
    [
        ("pymilvus", "milvus-lite:./file.db", r'pip install "csr_hf\[milvus\]"'),
        ("milvus_lite", "milvus-lite:./file.db", r'pip install "csr_hf\[milvus\]"'),
        ("qdrant_client", "qdrant://localhost", r'pip install "csr_hf\[qdrant\]"'),
        ("psycopg", "postgresql://localhost/test", r'pip install "csr_hf\[pgvector\]"'),
        ("elasticsearch", "elasticsearch://localhost", r'pip install "csr_hf\[elasticsearch\]"'),
        ("opensearchpy", "opensearch://localhost", r'pip install "csr_hf\[opensearch\]"'),
    ],
)
def test_missing_clients_are_named(monkeypatch, package, url, line):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=line):
        open_backend(url)


def test_clients_that_are_broken_are_named(monkeypatch):
    pytest.importorskip("psycopg", reason='pip install "csr_hf[pgvector]"')
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    # As without libpq, the error names no package.
    monkeypatch.setenv("PSYCOPG_IMPL", "other")
    message = r"^postgresql: .*implementation.*'other'.*\. Install its client: pip install \"csr_hf\[pgvector\]\"$"
    with pytest.raises(ImportError, match=message):
        open_backend("postgresql://localhost/test")


def test_options_of_libpq_reach_it_as_they_are():
    psycopg = pytest.importorskip("psycopg", reason='pip install "csr_hf[pgvector]"')
    backend = open_backend("postgresql://me@host/db?index=hnsw&options=-c%20search_path%3Dmine&application_name=a%2Bb")
    options = psycopg.conninfo.conninfo_to_dict(backend._url)
    assert options == {
        "user": "me",
        "host": "host",
        "dbname": "db",
        "options": "-c search_path=mine",
        "application_name": "a+b",
    }


def test_a_right_that_is_missing_is_not_taken_for_a_missing_extension(place):
    import psycopg

    url = place("postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE visitor LOGIN")
    with (
        open_backend(url.replace("//postgres@", "//visitor@")) as backend,
        pytest.raises(BackendError, match=r"^PostgreSQL: permission denied to create extension"),
    ):
        backend.create(Schema(dim=200, k=8))


def test_limits_of_single_backends(opened, documents):
    milvus = opened("milvus-lite")
    milvus.create(Schema(dim=200, k=8, ids="strings"))
    with pytest.raises(ValueError, match=r"has 513 bytes; Milvus takes 512\. Shorten it"):
        milvus.upsert(documents[:1], ["ä" * 256 + "b"])
    with pytest.raises(ValueError, match=r"`top_k` \(16385\) must be at least 1 and at most 16384"):
        milvus.search(documents[:1], 16_385)
    with pytest.raises(ValueError, match="`ids` has an empty string"):
        milvus.upsert(documents[:1], [""])
    graph = opened("postgresql", suffix="&index=hnsw")
    with pytest.raises(ValueError, match=r"`k` \(1001\) is above what PostgreSQL takes \(1000\)"):
        graph.create(Schema(dim=2_000, k=1_001))
    graph.create(Schema(dim=2_000, k=8))
    with pytest.raises(ValueError, match=r"a query of 1001 latents; PostgreSQL takes 1000\. Pass `query_k=1000`"):
        graph.search(SparseCodes(np.arange(1_001)[None], np.ones((1, 1_001), np.float32), 2_000))


def test_other_peoples_collections_are_left_alone(place):
    import psycopg

    url = place("postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE documents (name text)")
    with open_backend(url) as backend, pytest.raises(RuntimeError, match="which csr_hf did not create"):
        backend.create(Schema(dim=200, k=8), replace=True)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("documents", {}, "has no scheme"),
        ("mysql://host", {}, "'mysql' is unknown"),
        ("index:./folder", {}, "'index' is unknown"),
        ("mylvus:./file.db", {}, "'mylvus' is unknown. Did you mean milvus-lite:?"),
        ("mylvus://host", {}, "'mylvus' is unknown. Did you mean milvus://?"),
        ("milvus:./file.db", {}, "'milvus' takes a host, not a path. Did you mean milvus-lite:?"),
        ("postgres://host/database", {}, "'postgres' is unknown. Did you mean postgresql://?"),
        ("pgvector://host/database", {}, "'pgvector' is unknown. Did you mean postgresql://?"),
        ("elastic://host", {}, "'elastic' is unknown. Did you mean elasticsearch://?"),
        ("Qdrant://host", {}, "'Qdrant' is unknown. Did you mean qdrant://?"),
        ("opensaerch://me:secret@host", {}, "'opensaerch' is unknown. Did you mean opensearch://?"),
        ("qdrnat-local:./folder", {}, "'qdrnat-local' is unknown. Did you mean qdrant-local:?"),
        ("qdrant://", {}, "names no host"),
        ("milvus-lite://me:secret@host", {}, "must name a path on this machine"),
        ("://me:secret@host", {}, "has no scheme"),
        ("opensearch://me:a/secret@host", {}, r"`url` \(opensearch://host\) has an unreadable .* as %2F"),
        ("opensearch://me:a?secret@host", {}, r"`url` \(opensearch://...\) has an unreadable"),
        ("qdrant://host:x/?api_key=secret", {}, r"`url` \(qdrant://host:x\) has an unreadable"),
        ("qdrant://host:x/?api_key=secret@x", {}, r"`url` \(qdrant://...\) has an unreadable"),
        ("qdrant:///?api_key=secret", {}, r"`url` \(qdrant://\) names no host"),
        ("opensearch://me:[secret]@host", {}, r"`url` \(opensearch://host\) has an unreadable"),
        ("opensearch://me:secret@host:port", {}, r"`url` \(opensearch://host:port\) has an unreadable host or port"),
        ("opensearch://host?tls=maybe", {}, r"`tls` \('maybe'\)"),
        ("opensearch://host?feld=x", {}, "`feld` in the URL is no option of opensearch. Did you mean `field`"),
        ("opensearch://host?field=text", {}, r"`field` \('text'\)"),
        ("opensearch://host?field=sparse_vector", {}, r"`n_postings` \(0\) must be given"),
        ("opensearch://host?field=sparse_vector&n_postings=many", {}, r"`n_postings` \('many'\)"),
        ("opensearch://host?ceiling=0", {}, r"`ceiling` \(0.0\)"),
        ("opensearch://host", {"api_key": "key"}, "`api_key`: opensearch takes none"),
        ("postgresql://host/db?index=ivfflat", {}, r"`index` \('ivfflat'\)"),
        ("milvus-lite:file.db", {"collection": "Mine"}, r"`collection` \('Mine'\) must be 1 to 63"),
        ("milvus-lite:file.db", {"collection": "1st"}, r"`collection` \('1st'\)"),
        ("milvus-lite:file.db", {"collection": ""}, r"`collection` \(''\)"),
        ("milvus-lite:file.db", {"collection": "a-b"}, r"`collection` \('a-b'\)"),
    ],
)
def test_urls_that_name_no_backend(url, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_backend(url, **options)
    assert "secret" not in str(caught.value)
