from datasets import Dataset, DatasetDict

from csr_hf.evaluation.list_columns import read_columns_at_once


def test_columns_are_lists_and_all_else_is_as_before():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 0, 1]})
    tasks = {"en": DatasetDict(train=rows, test=rows.select([1])), "other": [1]}
    read_columns_at_once(tasks)
    train = tasks["en"]["train"]
    assert type(train["label"]) is list and train["label"] == [2, 0, 1]
    assert train[1] == {"text": "b", "label": 0}
    assert train[:2]["text"] == ["a", "b"]
    assert train.select([2])["text"][0] == "c"
    assert list(tasks["en"]["test"]["label"]) == [0]
