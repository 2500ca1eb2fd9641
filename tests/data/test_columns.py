import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets

from csr_hf.data.arguments import DataArguments
from csr_hf.data.columns import number_labels, select_columns
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
