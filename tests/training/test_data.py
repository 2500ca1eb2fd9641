import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from csr_hf.training.data import DataArguments, fingerprint_texts, load_data

ROWS = [{"question": f"what is {n}", "answer": f"it is the number {n}", "n": n} for n in range(200)]
COLUMNS = {"anchor": "question", "positive": "answer"}


def write(kind, folder):
    dataset = Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    if kind == "csv":
        dataset.to_csv(path)
    elif kind == "tsv":
        dataset.to_csv(path, sep="\t")
    elif kind == "jsonl":
        dataset.to_json(path)
    elif kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "folder":
        dataset.save_to_disk(path)
    elif kind == "splits":
        DatasetDict(train=dataset, test=dataset.select(range(3))).save_to_disk(path)
    return str(path)


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder", "splits"])
def test_every_format_gives_the_same_texts(tmp_path, kind):
    texts = load_data(DataArguments(source=write(kind, tmp_path), columns=COLUMNS))[0]
    assert texts.roles == ("anchor", "positive")
    assert texts.is_pairs
    assert texts.document_role == "positive"
    assert list(texts.dataset["anchor"]) == [row["question"] for row in ROWS]
    assert list(texts.dataset["positive"]) == [row["answer"] for row in ROWS]
    assert list(texts.dataset["id"])[:2] == ["0", "1"]


def test_columns_named_like_roles_need_no_mapping(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"d{n}", "text": f"text {n}"}) for n in range(5)))
    texts = load_data(DataArguments(source=str(path)))[0]
    assert texts.roles == ("text",)
    assert not texts.is_pairs
    assert list(texts.dataset["id"]) == ["d0", "d1", "d2", "d3", "d4"]


def test_empty_rows_are_dropped_texts_cut_and_rows_limited(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = ["aaaa", "", None, "   ", "bb", "cccccc"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in rows))
    texts = load_data(DataArguments(source=str(path), limit=5, max_characters=3))[0]
    assert list(texts.dataset["text"]) == ["aaa", "bb"]
    assert list(texts.dataset["id"]) == ["0", "4"]


def test_split_goes_by_document_and_never_moves(tmp_path):
    few = load_data(DataArguments(source=write("csv", tmp_path), columns=COLUMNS, held_out=0.3, limit=100))[0]
    path = tmp_path / "more.jsonl"
    repeated = ROWS + [{"question": "again", "answer": row["answer"].upper(), "n": 0} for row in ROWS]
    path.write_text("\n".join(map(json.dumps, repeated)))
    more = load_data(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3))[0]
    assert np.array_equal(more.held_out[:100], few.held_out)
    assert np.array_equal(more.held_out[:200], more.held_out[200:])
    assert 0.2 < more.held_out.mean() < 0.4
    other = load_data(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3, seed=1))[0]
    assert not np.array_equal(other.held_out, more.held_out)
    assert not load_data(DataArguments(source=str(path), columns=COLUMNS, held_out=0))[0].held_out.any()


def test_missing_column_names_those_present(tmp_path):
    source = write("csv", tmp_path)
    with pytest.raises(ValueError, match=r"'frage'.*no such column.*question, answer, n"):
        load_data(DataArguments(source=source, columns={"anchor": "frage", "positive": "answer"}))[0]
    with pytest.raises(ValueError, match=r"has none of the columns `text`.*question, answer, n"):
        load_data(DataArguments(source=source))[0]


def test_column_of_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'n' holds int, not text, in row 0"):
        load_data(DataArguments(source=write("csv", tmp_path), columns={"text": "n"}))[0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", "", "the file is empty"),
        ("header.csv", "text\n", "no data"),
        ("blank.jsonl", '{"text": " "}\n', "no rows with text"),
        ("broken.parquet", "not parquet", "cannot be read"),
        ("rows.docx", "x", "'.docx' are unknown. Known: .csv"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_data(DataArguments(source=str(tmp_path / name)))[0]
    assert name in str(error.value)


def test_absent_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone.csv.*no such file"):
        load_data(DataArguments(source=str(tmp_path / "gone.csv")))[0]
    with pytest.raises(ValueError, match="'nobody/nothing' cannot be read"):
        load_data(DataArguments(source="nobody/nothing"))[0]
    with pytest.raises(ValueError, match=r"`data.split` \('dev'\).*train, test"):
        load_data(DataArguments(source=write("splits", tmp_path), split="dev", columns=COLUMNS))[0]


@pytest.mark.parametrize(
    ("values", "name"),
    [({"held_out": 1.0}, "held_out"), ({"limit": 0}, "limit"), ({"columns": {"query": "q"}}, "columns")],
)
def test_arguments_out_of_range(values, name):
    with pytest.raises(ValueError, match=f"data.{name}"):
        DataArguments(**values)


def test_fingerprint_depends_on_texts_their_borders_and_order():
    fingerprints = [
        fingerprint_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab"], ["ab\ud800"])
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprint_texts(iter(["ab", "c"])) == fingerprints[0]
