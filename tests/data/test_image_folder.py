"""A folder of images: every file of it is read or accounted for."""

import json
import logging
import os

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from csr_hf.data import image_folder
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.embedding.images import missing_reader
from tests.helpers.clip import picture


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO, "csr_hf")


@pytest.fixture
def no_heic(monkeypatch):
    monkeypatch.setattr(
        image_folder,
        "missing_reader",
        lambda end: "pip install pillow-heif" if end == ".heic" else missing_reader(end),
    )


def load(folder, **options):
    return load_sources(DataArguments(source=str(folder), held_out=0, **options))[0]


def save_pictures(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / name)


def said(caplog):
    return [record.getMessage().split(None, 1)[1] for record in caplog.records if record.name == image_folder.__name__]


def test_every_picture_is_accounted_for(tmp_path, caplog, no_heic):
    save_pictures(tmp_path, "a.jpg", "b.jpg", "c.JPG", "d.png", "e.png", "__MACOSX/._a.jpg.png", ".hidden/x.png")
    for name in ("f.heic", "g.heic"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "broken.jpg").write_text("no image")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "link.jpg")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "more.txt", "README"):
        (tmp_path / name).write_text("text")
    names = ["a.jpg", "c.JPG", "d.png", "e.png", "f.heic", "g.heic", "broken.jpg", "link.jpg", "lost.jpg"]
    lines = [f"{name},a caption" for name in names]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "\n".join(lines).replace("e.png,a caption", "e.png,"))
    data = load(tmp_path, skip_bad=True)
    assert [name.rsplit("/")[-1] for name in data.rows["id"]] == ["a.jpg", "c.JPG", "d.png"]
    assert said(caplog) == [
        "9 pictures: 3 used, 1 not in metadata.csv, 2 HEIC (pip install pillow-heif), 1 linked to nothing, 1 broken, "
        "1 without a caption",
        "out   not in metadata.csv: b.jpg",
        "out   HEIC (pip install pillow-heif): f.heic, g.heic",
        "out   linked to nothing: link.jpg",
        "out   broken: broken.jpg",
        "metadata.csv names 1 files that are not there: lost.jpg",
        "passed over: 3 other files (2 .txt, 1 no ending)",
    ]
    assert data.skipped == ("b.jpg", "f.heic", "g.heic", "link.jpg", "broken.jpg")


def test_a_broken_picture_ends_a_run_that_does_not_skip_it(tmp_path):
    save_pictures(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").write_text("no image")
    data = load(tmp_path)
    with pytest.raises(ValueError, match=r"b.jpg cannot be read as an image.*--skip-bad"):
        data.inputs("image")[1]


def test_folders_without_a_picture_that_can_be_read_say_so(tmp_path, no_heic):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"has no image to read. 1 picture: 0 used, 1 HEIC \(pip install pillow-heif"):
        load(tmp_path)
    save_pictures(tmp_path, "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nlost.jpg,a caption\n")
    with pytest.raises(ValueError, match=r"2 pictures: 0 used, 2 not in metadata.csv. metadata.csv names 1 files"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["text", "caption", "captions", "description"])
def test_captions_are_found_by_their_name(tmp_path, name):
    save_pictures(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text(f"file_name,{name},title\na.jpg,a square,A title\n")
    data = load(tmp_path)
    assert data.roles == ("image", "text") and list(data.rows["text"]) == ["a square"]
    titled = load(tmp_path, columns={"image": "image", "text": "title"})
    assert list(titled.rows["text"]) == ["A title"]


def test_columns_that_are_no_captions_are_named(tmp_path, caplog):
    save_pictures(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,title\na.jpg,A title\n")
    assert load(tmp_path).roles == ("image",)
    assert "--data.columns '{image: image, text: title}'" in said(caplog)[-1]
    with pytest.raises(ValueError, match=r"no such column. Its columns: image, title"):
        load(tmp_path, columns={"image": "image", "text": "caption"})


CAPTIONS = [
    "None",
    "NA",
    "00123",
    "1e5",
    "null",
    "3.10",
    "true",
    'a "quoted", text\nin two lines',
    "\u00fcber \U0001f600",
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_captions_keep_every_character(tmp_path, kind):
    names = [f"{number}.png" for number in range(len(CAPTIONS))]
    save_pictures(tmp_path, *names)
    table = pd.DataFrame({"file_name": names, "text": CAPTIONS, "id": [f"00{number}" for number in range(len(names))]})
    if kind == "csv":
        table.to_csv(tmp_path / "metadata.csv", index=False, encoding="utf-8-sig")
    elif kind == "jsonl":
        table.to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    else:
        table.to_parquet(tmp_path / "metadata.parquet")
    data = load(tmp_path)
    assert list(data.rows["text"]) == CAPTIONS
    assert list(data.rows["id"]) == list(table["id"])
    assert data.inputs("image")[3].tobytes() == picture(3).tobytes()


def test_numbers_of_json_keep_their_digits_and_lists_are_joined(tmp_path):
    save_pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        '{"file_name": "a.png", "text": 12345678901234567890.10}',
        '{"file_name": "b.png", "text": ["one", "two"]}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*rows, json.dumps({"file_name": "c.png"})]))
    assert list(load(tmp_path).rows["text"]) == ["12345678901234567890.10", "one two"]


def test_columns_of_metadata_that_no_role_needs_are_not_read(tmp_path):
    save_pictures(tmp_path, "a.png", "b.png")
    boxes = {"bbox": [[1, 2, 3, 4]]}
    rows = [{"file_name": f"{name}.png", "text": name, "objects": boxes, "good": name == "a"} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(tmp_path, keep=["good"])
    assert data.rows["text"][:] == ["a", "b"] and data.rows["good"][:] == ["true", "false"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_of_metadata_are_classes_by_name(tmp_path, kind):
    save_pictures(tmp_path, "a.png", "b.png", "c.png")
    table = pl.DataFrame({"file_name": ["a.png", "b.png", "c.png"], "label": [True, None, False]})
    if kind == "jsonl":
        table.write_ndjson(tmp_path / "metadata.jsonl")
    else:
        table.write_parquet(tmp_path / "metadata.parquet")
    data = load(tmp_path)
    assert data.class_names == ("false", "true") and data.labels.tolist() == [1, -1, 0]
    pl.DataFrame({"file_name": ["a.png", "b.png"], "label": [1.5, float("nan")]}).write_parquet(
        tmp_path / "metadata.parquet"
    )
    (tmp_path / "metadata.jsonl").unlink(missing_ok=True)
    assert load(tmp_path).labels.tolist() == [0, -1]


def test_one_picture_may_have_several_captions(tmp_path, caplog):
    save_pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\nb.png,two\na.png,three\n")
    assert list(load(tmp_path).rows["text"]) == ["one", "two", "three"]
    assert load(tmp_path, limit=1).rows["text"][:] == ["one"]
    assert [line for line in said(caplog) if "used" in line] == [
        "2 pictures: 2 used", "2 pictures: 1 used, 1 beyond `limit`"
    ]  # fmt: skip


def test_metadata_lie_anywhere_and_name_files_from_there(tmp_path):
    save_pictures(tmp_path, "one/a.png", "two/pictures/a.png")
    (tmp_path / "one/metadata.csv").write_text("file_name,text\na.png,first\n")
    (tmp_path / "two/metadata.csv").write_text("file_name,text\npictures\\a.png,second\n")
    data = load(tmp_path)
    assert dict(zip(data.rows["id"], data.rows["text"], strict=True)) == {
        str(tmp_path / "one/a.png"): "first",
        str(tmp_path / "two/pictures/a.png"): "second",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,text\na.png,x\n", "has no column `file_name`, which names the image of a row. Its columns: file, text"),
        ("file_name,text\n../a.png,x\n", r"names '../a.png' in row 0, which is outside of its folder"),
        ("file_name,text\n/etc/hostname,x\n", r"names '/etc/hostname' in row 0, which is outside"),
        ("file_name,text\na.png,x\n,y\n", "names no file in row 1: `file_name` is empty"),
        ("file_name,text\na.png,x,y\n", r"metadata.csv cannot be read: line 2 \(row 0\) has 3 cells, the header 2"),
        (
            "file_name,text,text\na.png,x,y\n",
            "two columns of one name. Rename one. Its columns: file_name, text, text",
        ),
        ("file_name,image\na.png,x\n", "has a column 'image', which is that of the image itself. Rename it"),
        (
            "file_name,text\na.png,caf\xe9\n".encode("latin-1"),
            "metadata.csv cannot be read: line 2 is not UTF-8 .*iconv -f latin1",
        ),
    ],
)
def test_damaged_metadata_are_refused(tmp_path, content, message):
    save_pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_brackets_and_stars_are_letters_of_names(tmp_path):
    for name in ("photos [2023]", "photos 2", "ph*"):
        save_pictures(tmp_path / name, f"[{name}].png")
    for name in ("photos [2023]", "ph*"):
        assert [path.split("/")[-1] for path in load(tmp_path / name).rows["id"]] == [f"[{name}].png"]


def test_the_pictures_that_are_there_are_read(tmp_path):
    save_pictures(tmp_path, "a.png")
    times = (tmp_path / "a.png").stat()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\n")
    assert load(tmp_path).rows["text"][:] == ["one"]
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,two\n")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    for name in ("a.png", "metadata.csv"):
        os.utime(tmp_path / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    data = load(tmp_path)
    assert data.rows["text"][:] == ["two"] and np.asarray(data.inputs("image")[0])[0, 0].tolist() == [255, 0, 0]


def test_classes_are_sub_folders_of_one_depth(tmp_path):
    save_pictures(tmp_path, "cat/1.png", "dog/2.png", "cat/3.png")
    data = load(tmp_path)
    assert list(data.rows["label"]) == ["cat", "cat", "dog"] and data.labels.tolist() == [0, 0, 1]
    save_pictures(tmp_path, "4.png")
    assert load(tmp_path).labels is None
    (tmp_path / "4.png").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/1.png,one\ndog/2.png,two\n")
    assert load(tmp_path).roles == ("image", "text") and load(tmp_path).labels is None


def test_links_are_followed_once(tmp_path):
    save_pictures(tmp_path / "elsewhere", "a.png")
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "linked")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "linked" / "again")
    assert len(load(tmp_path / "photos")) == 1


def test_a_column_of_ids_names_the_images(tmp_path):
    save_pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text,sku,id\nb.png,blue,0017,x\na.png,red,0018,y\n")
    assert list(load(tmp_path, id_column="sku").rows["id"]) == ["0017", "0018"]
    assert list(load(tmp_path).rows["id"]) == ["x", "y"]
    with pytest.raises(ValueError, match=r"`data.id_column` gives: 'ean', but .* has no such column"):
        load(tmp_path, id_column="ean")
