"""Pictures on the page: as questions, and as thumbnails of a Space."""

import io
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from csr_hf.demo import uploads
from csr_hf.demo.answering import Settings, answer
from csr_hf.demo.results import show_answer
from csr_hf.demo.run_view import RunView
from csr_hf.demo.thumbnails import add_thumbnails
from csr_hf.demo.uploads import open_upload
from csr_hf.embedding.images import make_thumbnail, open_image
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.runs.folder import RunFolder
from csr_hf.search_index import SearchIndex

pytestmark = pytest.mark.slow  # A run of images is trained for them.


@pytest.fixture(scope="module")
def view(photo_run):
    return RunView.open(photo_run, device="cpu")


def first_file(photos):
    return next(path for path in sorted(photos.iterdir()) if path.suffix in (".png", ".jpg"))


def test_a_picture_finds_itself_as_the_library_does(view, photos, photo_run):
    path = first_file(photos)
    chosen = Settings(8, "index", 5)
    found = answer(view, path.read_bytes(), chosen)
    expected = SearchIndex.load(photo_run, device="cpu").search(path, top_k=5)
    assert [hit.document.id for hit in found.sparse.hits] == [hit.id for hit in expected]
    assert found.dense.hits[0].document.id == str(path)
    row = unit_rows(view.backbone.embed([open_image(path)]))[0]
    at = view.index.positions_of([str(path)])[0]
    np.testing.assert_allclose(found.dense.hits[0].score, view.dense[at] @ row, rtol=1e-4)
    assert found.question == ""
    assert not found.is_cut
    shown = show_answer(view, found, chosen)
    assert "The picture fires" in shown
    assert 'alt="the picture that was sent"' in shown


def make_png(width, height):
    """Write the header of a PNG of any size, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no picture that can be read"),
        (b"no picture", "no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
        (make_png(10_000, 6_000), "60 million pixels"),
        (make_png(60_000, 60_000), "no picture that can be read"),
        (make_png(8, 8), "cannot be read as an image"),
    ],
)
def test_what_is_no_picture_is_refused(view, content, message):
    with pytest.raises(ValueError, match=message):
        answer(view, content, Settings(8))


def test_a_large_file_is_refused(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match="Send one of at most 10 MB"):
        open_upload(b"x" * 51)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "WEBP"])
def test_usual_formats_are_opened(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, kind)
    opened = open_upload(buffer.getvalue())
    assert opened.size == (20, 10)
    assert opened.mode == "RGB"


def test_a_backbone_of_texts_takes_no_pictures(texts_run):
    texts = RunView.open(texts_run, device="cpu")
    assert not texts.takes_pictures
    with pytest.raises(ValueError, match="embeds texts alone"):
        answer(texts, b"anything", Settings(8))


def test_a_space_shows_the_pictures_of_a_folder(photo_run, photos, tmp_path):
    from csr_hf.demo.space import write_space

    notes = write_space(photo_run, tmp_path / "space", layout="full", device="cpu")
    assert not any("picture" in note for note in notes)
    index = SearchIndex.load(tmp_path / "space/run", device="cpu")
    table, ids = index.index.documents, index.index.ids_of(np.arange(len(index))).tolist()
    names = {path.name for path in photos.iterdir()}
    assert set(ids) <= names
    for name, thumbnail in zip(ids[:5], table["thumbnail"].to_pylist(), strict=False):
        assert thumbnail == make_thumbnail(photos / name)
    for path in (tmp_path / "space").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(photos).encode() not in path.read_bytes(), path
    assert "csr_hf[demo,images]" in (tmp_path / "space/requirements.txt").read_text()
    there = RunView.open(tmp_path / "space/run", device="cpu")
    assert all(hit.document.thumbnail for hit in answer(there, "a red square", Settings(8)).sparse.hits)


def test_a_space_takes_no_picture_that_the_data_of_the_run_has_not(photo_run, tmp_path):
    """An index names whatever its author wrote."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "private.png")
    shutil.copytree(photo_run, tmp_path / "run")
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    before = index.index.documents
    ids = index.index.ids_of(np.arange(len(index))).tolist()
    ids[3] = str(tmp_path / "private.png")
    index.index.relabel(ids, before)
    (note,) = add_thumbnails(RunFolder.of(tmp_path / "run"), index.index)
    assert note == "1 documents have no picture in the Space: the data of the run does not have them."
    thumbnails = index.index.documents["thumbnail"].to_pylist()
    assert [at for at, thumbnail in enumerate(thumbnails) if thumbnail is None] == [3]


def test_thumbnails_end_where_a_space_has_no_room(photo_run, monkeypatch):
    monkeypatch.setattr("csr_hf.demo.thumbnails.MOST_BYTES", 3_000)
    index = SearchIndex.load(photo_run, device="cpu")
    (note,) = add_thumbnails(RunFolder.of(photo_run), index.index)
    thumbnails = index.index.documents["thumbnail"].to_pylist()
    kept = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
    assert 0 < len(kept) < len(thumbnails)
    assert sum(map(len, kept[:-1])) < 3_000
    assert f"{len(thumbnails) - len(kept)} documents have no picture" in note


def test_a_run_whose_data_is_gone_says_what_its_space_lacks(photo_run, tmp_path):
    shutil.copytree(photo_run, tmp_path / "run")
    (tmp_path / "run/recipe.yaml").unlink()
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    (note,) = add_thumbnails(RunFolder.of(tmp_path / "run"), index.index)
    assert f"{len(index)} documents have no picture" in note


def test_texts_get_no_thumbnails(texts_run):
    index = SearchIndex.load(texts_run, device="cpu")
    before = index.index.ids_of(np.arange(len(index))).tolist()
    assert add_thumbnails(RunFolder.of(texts_run), index.index) == []
    assert index.index.ids_of(np.arange(len(index))).tolist() == before
    assert json.dumps(index.columns) == json.dumps(["text"])
