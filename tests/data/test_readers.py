import io
import json
import os
import tarfile

import polars as pl
import pytest
from datasets import Dataset
from PIL import Image

from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from tests.data.test_sources import COLUMNS, ROWS, write


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder", "splits"])
def test_every_format_gives_the_same_texts(tmp_path, kind):
    texts = load_sources(DataArguments(source=write(kind, tmp_path), columns=COLUMNS))[0]
    assert texts.roles == ("anchor", "positive")
    assert texts.query_role == "anchor"
    assert texts.document_role == "positive"
    assert list(texts.rows["anchor"]) == [row["question"] for row in ROWS]
    assert list(texts.rows["positive"]) == [row["answer"] for row in ROWS]
    assert list(texts.rows["id"])[:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", "", "the file is empty"),
        ("header.csv", "text\n", "it has no rows"),
        ("blank.jsonl", '{"text": " "}\n', "no rows with text"),
        ("broken.parquet", "not parquet", "cannot be read"),
        ("rows.docx", "x", "'.docx' are unknown. Known: .csv"),
        ("rows.XLSX", "x", "'.XLSX' are unknown. Known: .csv.*Save the sheet as csv in UTF-8"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_sources(DataArguments(source=str(tmp_path / name)))[0]
    assert name in str(error.value)


def test_absent_sources_are_named(tmp_path, hub):
    with pytest.raises(ValueError, match=r"gone.csv.*no such file"):
        load_sources(DataArguments(source=str(tmp_path / "gone.csv")))[0]
    with pytest.raises(ValueError, match="'nobody/nothing' cannot be read"):
        load_sources(DataArguments(source="nobody/nothing"))[0]
    with pytest.raises(ValueError, match=r"`data.split` \('dev'\).*train, test"):
        load_sources(DataArguments(source=write("splits", tmp_path), split="dev", columns=COLUMNS))[0]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_streams_stop_at_the_limit(tmp_path, kind):
    arguments = DataArguments(source=write(kind, tmp_path), columns=COLUMNS, streaming=True, limit=30)
    first, again = load_sources(arguments)[0], load_sources(arguments)[0]
    questions = [row["question"] for row in ROWS]
    assert len(first) == 30
    assert set(first.rows["anchor"]) <= set(questions)
    assert list(first.rows["anchor"]) == list(again.rows["anchor"])
    assert list(first.rows["anchor"]) != questions[:30]  # Shuffled.


@pytest.mark.parametrize("columns", [{}, {"text": "body"}])
def test_a_stream_of_a_folder_keeps_its_ids(tmp_path, columns):
    lines = [{"text": "a", "body": f"text {row}", "sku": f"s{row}"} for row in range(20)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = DataArguments(source=str(tmp_path), columns=columns, id_column="sku", streaming=True, limit=20)
    (source,) = load_sources(arguments)
    assert sorted(source.rows["id"]) == sorted(line["sku"] for line in lines)
    if columns:
        assert dict(zip(source.rows["id"], source.rows["text"], strict=True))["s7"] == "text 7"


def test_streams_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`data.streaming` needs `data.limit`"):
        DataArguments(source="user/web", streaming=True)
    with pytest.raises(ValueError, match=r"gone.csv' cannot be read: there is no such file"):
        load_sources(DataArguments(source=str(tmp_path / "gone.csv"), streaming=True, limit=3))


def test_a_url_is_named_without_its_query_and_not_taken_for_a_file():
    source = "https://example.com/docs.csv?X-Signature=secret"
    with pytest.raises(
        ValueError, match=r"^data set 'https://example.com/docs.csv' cannot be read: it is a URL\. Down"
    ):
        load_sources(DataArguments(source=source))


def load(path, **options):
    return load_sources(DataArguments(source=str(path), **{"held_out": 0, **options}))[0]


@pytest.mark.parametrize("name", ["docs[34].csv", "docs*.csv", "docs?.jsonl", "{a,b}.parquet", "docs[!x].arrow"])
@pytest.mark.parametrize("streaming", [{}, {"streaming": True, "limit": 9}])
def test_names_are_no_patterns(tmp_path, name, streaming):
    def write(path, text):
        frame = pl.DataFrame({"text": [text]})
        writers = {".csv": "csv", ".jsonl": "ndjson", ".parquet": "parquet", ".arrow": "ipc_stream"}
        getattr(frame, f"write_{writers[path.suffix]}")(path)

    for other in ("docs3", "docs", "docs4", "a", "docsy"):
        write((tmp_path / other).with_suffix((tmp_path / name).suffix), "THE WRONG FILE")
    write(tmp_path / name, "the right file")
    assert list(load(tmp_path / name, **streaming).rows["text"]) == ["the right file"]


def test_folders_of_images_and_shards_may_have_brackets_in_their_names(tmp_path):
    folder = tmp_path / "photos [2023]"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    assert len(load(folder)) == 1
    shard = write_shard(tmp_path / "shard[1].tar", ["b"])
    write_shard(tmp_path / "shard1.tar", ["x", "y"])
    assert list(load(shard).rows["text"]) == ["b"]
    assert list(load(shard, streaming=True, limit=5).rows["text"]) == ["b"]


def write_shard(path, texts):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(texts):
            for name, content in ((f"{number}.png", buffer.getvalue()), (f"{number}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet", ".arrow", ".tar"])
def test_a_file_is_read_as_it_is_now(tmp_path, suffix):
    writers = {
        ".csv": lambda path, text: path.write_text(f"text\n{text}\n"),
        ".jsonl": lambda path, text: path.write_text(json.dumps({"text": text})),
        ".json": lambda path, text: path.write_text(json.dumps([{"text": text}])),
        ".parquet": lambda path, text: pl.DataFrame({"text": [text]}).write_parquet(path),
        ".arrow": lambda path, text: pl.DataFrame({"text": [text]}).write_ipc(path),
        ".tar": lambda path, text: write_shard(path, [text]),
    }
    path = tmp_path / f"rows{suffix}"
    for text in ("old text", "new text"):
        writers[suffix](path, text)
        os.utime(path, (1e9, 1e9))
        assert list(load(path).rows["text"]) == [text]


def test_columns_that_no_role_needs_are_not_read(tmp_path):
    rows = [{"anchor": f"q {n}", "positive": f"a {n}", "note": None, "text": n} for n in range(11_000)]
    rows.append({"anchor": "q", "positive": "a", "note": "late", "text": {"not": "text"}})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = load(tmp_path / "a.jsonl")
    assert len(source) == 11_001
    assert source.rows.column_names == ["id", "anchor", "positive"]
    (tmp_path / "b.csv").write_text("id,text\n" + "".join(f"{n},some text\n" for n in range(10_500)) + "A-1,404\n")
    source = load(tmp_path / "b.csv")
    assert [source.rows["id"][-1], source.rows["text"][-1], source.rows["id"][0]] == ["A-1", "404", "0"]


def test_a_folder_goes_before_a_data_set_of_the_hub(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"text": ["here"]}).save_to_disk(tmp_path / "user" / "texts")
    with caplog.at_level("INFO", "csr_hf"):
        assert list(load("user/texts").rows["text"]) == ["here"]
    assert "user/texts is a folder here: it is read, not a data set of that name on the Hub" in caplog.text


def test_a_folder_of_tables_names_them(tmp_path):
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(ValueError, match=r"holds neither images nor .*It has train\.csv: name one of them"):
        load(tmp_path)


def test_columns_of_one_name_are_refused_where_they_are_needed(tmp_path):
    (tmp_path / "a.csv").write_text("text,note,note\na,b,c\n")
    assert list(load(tmp_path / "a.csv").rows["text"]) == ["a"]
    with pytest.raises(ValueError, match=r"a\.csv has 2 columns 'note'\. Rename all but one"):
        load(tmp_path / "a.csv", columns={"text": "note"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "l.csv",
            "text\ncaf\xe9\n".encode("latin1"),
            r"l\.csv' cannot be read: line 2 is not UTF-8 .*: iconv -f latin1",
        ),
        ("l.jsonl", '{"text":"caf\xe9"}\n'.encode("latin1"), r"l\.jsonl' .*: line 1 is not UTF-8 \(byte 0xe9\)"),
        (
            "m.jsonl",
            b'{"text":"a","label":1}\n{"text":"b","label":"two"}\n',
            r"'label' holds text in row 1 \(line 2\), but",
        ),
        (
            "s.csv",
            b"id;text\n1;a\n",
            r"s\.csv has none of the columns `text`.* Its columns: id;text\. .* are separated by",
        ),
    ],
)
def test_messages_name_file_row_column_and_next_step(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "codec" not in str(error.value)
