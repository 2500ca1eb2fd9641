"""Bulk upload: retries, interruption and resumption, against backends that fail in chosen ways."""

import numpy as np
import pytest

from csr_hf.backends import BackendError, Schema, Unavailable, UploadSettings, open_backend, upload
from tests.backends.reference import Reference, random_codes


@pytest.fixture(scope="module")
def documents():
    return random_codes(300, 8, 100, 50)


@pytest.fixture
def backend():
    pytest.importorskip("qdrant_client", reason='pip install "csr_hf[qdrant]"')
    with open_backend("qdrant-local::memory:") as opened:
        yield opened


@pytest.fixture
def failing(backend, monkeypatch):
    """A function that makes some writes of the backend fail, and counts documents of the others."""
    write, written = backend.write, []

    def fail(calls, error):
        counter = iter(range(10_000))

        def faulty(part):
            if next(counter) in calls:
                raise error
            written.append(len(part.ids))
            write(part)

        monkeypatch.setattr(backend, "write", faulty)
        return written

    return fail


def assert_complete(backend, documents):
    index = Reference(documents)
    assert backend.count() == len(documents)
    np.testing.assert_allclose(backend.search(documents[:20]).scores, index.search(documents[:20]).scores, rtol=3e-6)


def test_requests_to_a_busy_backend_are_repeated_after_growing_waits(backend, failing, documents, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    failing({1, 2, 3}, Unavailable("429"))
    assert (
        upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=100, threads=1, delay=0.5))
        == 300
    )
    assert_complete(backend, documents)
    assert all(low <= wait <= low + 0.5 for wait, low in zip(waits, (0.5, 1, 2), strict=True))


def test_waits_have_an_end(backend, failing, documents, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    failing(set(range(100)), Unavailable("busy for ever"))
    with pytest.raises(Unavailable, match="busy for ever"):
        upload(backend, documents, np.arange(300), settings=UploadSettings(retries=8, delay=2))
    assert len(waits) == 8
    assert 30 <= max(waits) <= 32


def test_what_the_backend_refuses_is_not_sent_again(backend, failing, documents, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    written = failing({1}, BackendError("refused 1 of 100 documents ('7')"))
    with pytest.raises(BackendError, match="refused 1 of 100"):
        upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=100))
    assert written == [100]


def test_an_interrupted_upload_goes_on_where_it_stopped(backend, failing, documents, tmp_path):
    journal = tmp_path / "logs" / "journal"
    failing({2}, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=50), journal=journal)
    assert backend.count() == 100
    # A kill in the middle of a line.
    with journal.open("a") as file:
        file.write("15")
    written = failing(set(), None)
    assert upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=50), journal=journal) == 200
    assert written[-4:] == [50] * 4
    assert_complete(backend, documents)
    assert not journal.exists()
    # Complete, so the same call sends all of them again, and nothing changes.
    assert upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=50), journal=journal) == 300
    assert_complete(backend, documents)


def test_a_journal_is_of_one_upload(backend, failing, documents, tmp_path):
    journal = tmp_path / "journal"

    def interrupted():
        failing({1}, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=50), journal=journal)
        failing(set(), None)

    interrupted()
    for codes, ids, size in ((documents, np.arange(300), 60), (documents, np.arange(1, 301), 50)):
        with pytest.raises(ValueError, match=r"`journal` .* is of other documents"):
            upload(backend, codes, ids, settings=UploadSettings(batch_size=size), journal=journal)
    with pytest.raises(ValueError, match=r"`journal` .* is of other documents"):
        upload(
            backend,
            random_codes(300, 8, 100, 51),
            np.arange(300),
            settings=UploadSettings(batch_size=50),
            journal=journal,
        )
    backend.create(Schema(dim=100, k=8), replace=True)
    with pytest.raises(ValueError, match="another collection"):
        upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=50), journal=journal)
    assert backend.count() == 0


def test_progress_counts_what_was_sent_before(backend, failing, documents, tmp_path, capsys):
    failing({2}, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        upload(
            backend, documents, np.arange(300), settings=UploadSettings(batch_size=100), journal=tmp_path / "journal"
        )
    failing(set(), None)
    options = {"settings": UploadSettings(batch_size=100, show_progress_bar=True), "journal": tmp_path / "journal"}
    upload(backend, documents, np.arange(300), **options)
    shown = capsys.readouterr().err
    assert "200/300" in shown.replace("\r", "\n") and "300/300" in shown


def test_no_thread_more_than_the_backend_takes(backend, documents, monkeypatch):
    import threading

    busy, write = threading.Lock(), backend.write

    def alone(part):
        assert busy.acquire(blocking=False), "two writes at a time"
        write(part)
        busy.release()

    monkeypatch.setattr(backend, "write", alone)
    assert upload(backend, documents, np.arange(300), settings=UploadSettings(batch_size=10, threads=8)) == 300


def test_a_collection_with_room_for_more_is_kept(backend, documents):
    backend.create(Schema(dim=100, k=12, ids="strings"))
    first = backend.schema
    backend.create(Schema(dim=100, k=8, ids="strings"))
    assert backend.schema == first
    with pytest.raises(ValueError, match=r"`k` \(13\) is above that of the collection 'documents' \(12\)"):
        backend.create(Schema(dim=100, k=13, ids="strings"))
    names = [f"n{n}" for n in range(300)]
    assert upload(backend, documents, names) == 300
    assert backend.schema.k == 12
    assert upload(backend, documents[:0], []) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"`batch_size` \(0\)"),
        ({"threads": 0}, r"`threads` \(0\)"),
        ({"retries": -1}, r"`retries` \(-1\)"),
        ({"delay": -0.1}, r"`delay` \(-0.1\)"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        UploadSettings(**options)
