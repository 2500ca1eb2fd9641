"""Images as data: folders, shards, encoded columns."""

import io

import pytest
from PIL import Image

from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from tests.helpers.clip import caption, picture


def test_folder_of_images_is_read_with_its_captions(photos):
    (data,) = load_sources(DataArguments(source=str(photos), held_out=0.3))
    assert (data.roles, data.document_role, data.query_role, len(data)) == (("image", "text"), "image", "text", 150)
    assert data.rows["text"][7] == caption(7)
    assert data.inputs("image")[7].tobytes() == picture(7).tobytes()
    assert data.rows["id"][7].endswith("007.png")
    assert 0.15 < data.held_out.mean() < 0.45


def test_other_files_in_a_folder_of_images_are_passed_over(tmp_path):
    for split in ("", "train", "test"):
        (tmp_path / split).mkdir(exist_ok=True)
        picture(len(split)).save(tmp_path / split / "a.png")
    (tmp_path / "training_log.jsonl").write_text("{}")
    assert len(load_sources(DataArguments(source=str(tmp_path), split="test"))[0]) == 1
    assert len(load_sources(DataArguments(source=str(tmp_path), split="validation"))[0]) == 3


def test_shards_of_webdataset_and_encoded_columns(photos, tmp_path):
    import tarfile

    from datasets import Dataset

    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for number in range(5):
            (tmp_path / f"{number}.txt").write_text(caption(number))
            shard.add(photos / f"{number:03}.png", f"{number}.png")
            shard.add(tmp_path / f"{number}.txt", f"{number}.txt")
    cells = [{"bytes": (photos / f"{number:03}.png").read_bytes(), "path": None} for number in range(5)]
    Dataset.from_dict({"picture": cells, "name": [caption(n) for n in range(5)]}).to_parquet(tmp_path / "rows.parquet")
    columns = {"image": "picture", "text": "name"}
    for arguments in ({"source": "shard.tar"}, {"source": "rows.parquet", "columns": columns}):
        arguments["source"] = str(tmp_path / arguments["source"])
        (data,) = load_sources(DataArguments(**arguments))
        assert data.roles == ("image", "text")
        assert list(data.rows["text"]) == [caption(number) for number in range(5)]
        assert data.inputs("image")[4].tobytes() == picture(4).tobytes()
    (streamed,) = load_sources(DataArguments(source=str(tmp_path / "shard.tar"), streaming=True, limit=3))
    assert streamed.roles == ("image", "text") and len(streamed) == 3
    with pytest.raises(ValueError, match=r"image number 0: .* cannot be read: .*No such file"):
        load_sources(DataArguments(source=str(tmp_path / "rows.parquet"), columns={"image": "name"}))
    Dataset.from_dict({"image": [1.5]}).to_parquet(tmp_path / "floats.parquet")
    with pytest.raises(ValueError, match=r"column 'image' holds .*float64.*, not images"):
        load_sources(DataArguments(source=str(tmp_path / "floats.parquet")))


def test_images_without_a_file_keep_a_thumbnail(clip, photos, tmp_path):
    from datasets import Dataset, load_from_disk

    cells = [{"bytes": (photos / f"{number:03}.png").read_bytes(), "path": None} for number in range(30)]
    Dataset.from_dict({"image": cells}).save_to_disk(tmp_path / "rows")
    assert len(load_from_disk(tmp_path / "rows")) == 30
    (data,) = load_sources(DataArguments(source=str(tmp_path / "rows")))
    shown = data.show_documents()
    assert shown.column_names == ["id", "text", "thumbnail"]
    with Image.open(io.BytesIO(shown["thumbnail"][3])) as found:
        assert found.size == (20, 20)


def test_folders_of_classes_give_labels_by_name(tmp_path):
    for number in range(24):
        (tmp_path / ("even", "odd")[number % 2]).mkdir(exist_ok=True)
        picture(number).save(tmp_path / ("even", "odd")[number % 2] / f"{number:02}.png")
    (data,) = load_sources(DataArguments(source=str(tmp_path)))
    assert data.roles == ("image",)
    assert sorted(data.labels.tolist()) == [0] * 12 + [1] * 12
    shown = data.show_documents()
    assert {name.split("/")[-2]: text for name, text in zip(shown["id"], shown["text"], strict=True)} == {
        "even": "even", "odd": "odd"
    }  # fmt: skip
