import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from csr_hf.data.arguments import DataArguments, SourceArguments
from csr_hf.data.columns import class_names, find_columns, number_labels, row_ids, select_columns, tell_apart
from csr_hf.data.sources import load_sources

TEXTS = ["one", "", "three words here", None, "  ", "six", "seven"]
COLUMNS = {"text": "body", "label": "kind"}


def make_dataset(texts=TEXTS, **more):
    kinds = [2, 0, -1, 1, 1, None, 0]
    features = Features({"body": Value("string"), "kind": ClassLabel(names=["x", "y", "z"])})
    dataset = Dataset.from_dict({"body": texts, "kind": kinds}, features=features)
    return dataset.add_column("id", more["ids"]) if "ids" in more else dataset


@pytest.mark.parametrize(
    "change", [lambda d: d, lambda d: d.select([6, 5, 4, 3, 2, 1, 0]), lambda d: d.select(range(1, 6))]
)
@pytest.mark.parametrize("cut", [None, 4])
def test_columns_by_role_without_empty_rows(change, cut):
    dataset = change(make_dataset(ids=[10, 11, 12, 13, 14, 15, 16]))
    rows = select_columns(dataset, COLUMNS, cut)
    expected = [row for row in dataset if (row["body"] or "").strip()]
    assert rows.column_names == ["id", "text", "label"]
    assert list(rows["id"]) == [str(row["id"]) for row in expected]
    assert list(rows["text"]) == [row["body"][:cut] for row in expected]
    names = {2: "z", 0: "x", -1: None, None: None}
    assert list(rows["label"]) == [names[row["kind"]] for row in expected]
    assert str(rows.features["text"]) == "Value('string')"
    labels = {"x": 0, "z": 1}
    assert number_labels(rows).tolist() == [labels.get(names[row["kind"]], -1) for row in expected]


def test_rows_are_numbered_over_all_chunks():
    dataset = concatenate_datasets([make_dataset(), make_dataset()])
    rows = select_columns(dataset, COLUMNS)
    assert list(rows["id"]) == ["0", "2", "5", "6", "7", "9", "12", "13"]
    assert number_labels(rows).tolist() == [1, -1, -1, 0] * 2
    assert number_labels(rows.select([7, 0])).tolist() == [0, 1]
    numbers = concatenate_datasets([Dataset.from_dict({"n": [1, 2]}), Dataset.from_dict({"n": [3]})])
    with pytest.raises(ValueError, match="column 'n' holds int, not text, in row 0"):
        select_columns(numbers, {"text": "n"})


def test_large_strings_and_lists_become_plain_texts():
    features = Features({"a": Value("large_string"), "b": List(Value("string"))})
    dataset = Dataset.from_dict({"a": ["x", "y"], "b": [["p", "q"], ["r"]]}, features=features)
    rows = select_columns(dataset, {"anchor": "a", "positive": "b"})
    assert rows[0] == {"id": "0", "anchor": "x", "positive": "p q"}
    assert {str(kind) for kind in rows.features.values()} == {"Value('string')"}


def test_texts_stay_in_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr("csr_hf.data.columns._PART_ROWS", 500)
    texts = [f"{number:05d} " + "word " * 100 for number in range(6000)]
    table = pa.table({"text": texts})
    with pa.OSFile(str(tmp_path / "texts.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    del texts, table
    arguments = DataArguments(source=str(tmp_path / "texts.arrow"), held_out=0.5)
    load_sources(arguments)  # What is imported on the way is not measured.
    tracemalloc.start()
    try:
        (source,) = load_sources(arguments)
        assert sum(len(text) for text in source.inputs("text")) == 6000 * 506
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.count_nonzero(source.held_out) == pytest.approx(3000, rel=0.05)
    # All of them are 3 MB.
    assert peak < 2e6


def test_rows_without_a_text_are_counted_and_named(caplog):
    with caplog.at_level("WARNING", "csr_hf"):
        select_columns(make_dataset(), {"text": "body"}, name="faq.csv")
    assert caplog.messages == ["faq.csv: 3 of 7 rows have no text and are left out: 1, 3, 4"]
    caplog.clear()
    with caplog.at_level("WARNING", "csr_hf"):
        select_columns(make_dataset(ids=list("abcdefg")), {"text": "body"}, name="faq.csv")
        select_columns(Dataset.from_dict({"text": ["", *"x" * 1000, *[None] * 20]}), {"text": "text"}, name="b.csv")
    assert caplog.messages[0] == "faq.csv: 3 of 7 rows have no text and are left out: b, d, e"
    assert caplog.messages[1] == (
        "b.csv: 21 of 1,021 rows have no text and are left out: "
        "0, 1,001, 1,002, 1,003, 1,004, 1,005, 1,006, 1,007, 1,008, 1,009, ..."
    )


def test_missing_ids_are_row_numbers_and_shared_ones_are_named(caplog):
    ids = ["a", None, "", "a", "7", "None", "b", "b", "b"]
    with caplog.at_level("WARNING", "csr_hf"):
        rows = select_columns(Dataset.from_dict({"id": ids, "text": ["t"] * 9}), {"text": "text"}, name="a.csv")
    assert list(rows["id"]) == ["a", "1", "2", "a", "7", "None", "b", "b", "b"]
    assert caplog.messages == [
        "a.csv: 2 rows have no id and go by their numbers: 1, 2",
        "a.csv: 2 ids are shared by several rows: a, b",
    ]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (pa.array([2**63 - 1, None, -(2**63)]), ["9223372036854775807", "1", "-9223372036854775808"]),
        (pa.array([1.5, None, float("nan")]), ["1.5", "1", "2"]),
        (pa.array(["x", "y", None], pa.large_string()), ["x", "y", "2"]),
        (pa.array(["x", "", "z"]), ["x", "1", "z"]),
    ],
)
def test_ids_of_other_types(ids, names):
    rows = select_columns(Dataset(pa.table({"id": ids, "text": ["a", "b", "c"]})), {"text": "text"})
    assert list(rows["id"]) == names


@pytest.mark.parametrize("ids", [pa.array([b"a"]), pa.array([["a"]])])
def test_ids_that_are_no_names_are_refused(ids):
    with pytest.raises(ValueError, match=r"column 'id' of mine holds .*\. Give texts or numbers\."):
        select_columns(Dataset(pa.table({"id": ids, "text": ["a"]})), {"text": "text"}, name="mine")


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([0, 7, 5, None, 7], ["0", "5", "7"], [0, 2, 1, -1, 2]),
        ([10, 9, 1], ["1", "9", "10"], [2, 1, 0]),
        (["10", "9", "", "1"], ["1", "9", "10"], [2, 1, -1, 0]),
        (["10", "9", "x"], ["10", "9", "x"], [0, 1, 2]),
        ([1.5, float("nan"), 0.0, None], ["0.0", "1.5"], [1, -1, 0, -1]),
        (["NA", "EU", None, "None", "nan"], ["EU", "NA", "None", "nan"], [1, 0, -1, 2, 3]),
        ([True, None, False], ["false", "true"], [1, -1, 0]),
        ([-1, 0, 1], ["0", "1"], [-1, 0, 1]),
        (["-1", "a"], ["-1", "a"], [0, 1]),
        (["2", "nan", "10", "inf"], ["10", "2", "inf", "nan"], [1, 3, 0, 2]),
        ([None, None], [], [-1, -1]),
    ],
)
def test_classes_keep_their_names(labels, names, numbers):
    rows = Dataset.from_dict({"text": ["t"] * len(labels), "label": labels})
    for dataset in (rows, select_columns(rows, {"text": "text", "label": "label"})):
        assert class_names(dataset) == names
        assert number_labels(dataset).tolist() == numbers


def test_labels_that_are_no_classes_are_refused():
    rows = Dataset.from_dict({"text": ["a"], "label": [[1, 2]]})
    with pytest.raises(ValueError, match=r"column 'label' holds list.*, not classes\. Give texts or numbers\."):
        select_columns(rows, {"text": "text", "label": "label"})


@pytest.mark.parametrize("columns", [{}, {"text": "body"}])
def test_a_message_names_no_more_than_fifty_columns(columns):
    with pytest.raises(ValueError, match=r"Its columns: c0, c1, .*, c49, \.\.\.\.") as error:
        find_columns([f"c{number}" for number in range(60)], SourceArguments(source="a.json", columns=columns))
    assert "c50" not in str(error.value)


def test_columns_are_kept_as_text():
    rows = Dataset.from_dict({"body": ["a", "", "b"], "n": [1, 2, None], "tags": [["x", None, "y"], [], None]})
    kept = select_columns(rows, {"text": "body"}, keep=["n", "tags", "body"])
    assert kept.column_names == ["id", "text", "n", "tags", "body"]
    assert kept[:] == {
        "id": ["0", "2"],
        "text": ["a", "b"],
        "n": ["1", None],
        "tags": ["x y", None],
        "body": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (
            ["gone"],
            r"^`data\.keep` gives: 'gone', but a\.csv has no such column\. Its columns: id, question, answer, text\.$",
        ),
        (
            ["text"],
            r"^`data\.keep` names 'text', which is what the column of a role is called\. Rename that column\.$",
        ),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(keep, message):
    source = SourceArguments(source="a.csv", columns={"anchor": "question", "positive": "answer"}, keep=keep)
    with pytest.raises(ValueError, match=message):
        find_columns(["id", "question", "answer", "text"], source)


def test_ids_that_repeat_are_told_apart():
    assert tell_apart(["a", "b", "a", "a #2", "a", "b"]) == ["a", "b", "a #3", "a #2", "a #4", "b #2"]
    assert tell_apart(["1", "2"]) == ["1", "2"]


@given(st.lists(st.sampled_from(["a", "b", "a #2", "a #3", "a #2 #2"]), max_size=12))
def test_no_two_ids_that_are_told_apart_are_equal(ids):
    found = tell_apart(ids)
    assert len(set(found)) == len(ids)
    assert all(found[ids.index(one)] == one for one in ids)


def test_a_row_without_an_id_never_takes_that_of_another():
    dataset = Dataset.from_dict({"id": ["1", "", "3", None], "text": list("abcd")})
    assert row_ids(dataset, "data").to_pylist() == ["1", "row 1", "3", "row 3"]
    dataset = Dataset.from_dict({"id": ["x", "", "y"], "text": list("abc")})
    assert row_ids(dataset, "data").to_pylist() == ["x", "1", "y"]
