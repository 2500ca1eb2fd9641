import json

import pytest

from csr_hf.data.json_files import JSONFile

KINDS = {"id": "text", "text": "text"}


def open_json(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return JSONFile(path, by_line=path.suffix == ".jsonl")


def read(file, kinds=KINDS):
    columns = {name: [] for name in kinds}
    for batch in file.batches(kinds):
        for name in kinds:
            columns[name] += batch.column(name).to_pylist()
    return columns


ROWS = [{"id": 1, "text": "one\u2028\u0085"}, {"id": "x", "note": {"deep": [1]}}, {"text": None, "id": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("a.jsonl", "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\ufeff" + json.dumps(ROWS, indent=2)),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("a.json", "".join(json.dumps(row, indent=1) for row in ROWS)),
        ("a.json", json.dumps({"version": "1", "data": ROWS})),
        ("a.json", json.dumps({name: [row.get(name) for row in ROWS] for name in ("id", "text")})),
        ("a.json", json.dumps({"id": {"0": 1, "1": "x"}, "text": {"0": "one\u2028\u0085"}, "note": {"2": 1}})),
    ],
)
def test_forms_of_json(tmp_path, name, content):
    file = open_json(tmp_path / name, content)
    assert set(file.names()) >= {"id", "text"}
    assert read(file) == {"id": ["1", "x", None], "text": ["one\u2028\u0085", None, None]}


def test_an_object_of_single_values_is_one_row(tmp_path):
    assert read(open_json(tmp_path / "a.json", '{"id": 7, "text": "a", "tags": ["b"]}')) == {
        "id": ["7"],
        "text": ["a"],
    }


def test_numbers_keep_their_digits(tmp_path):
    digits = ["0", "-0", "1.0", "1.50", "1e5", "9007199254740993", "123456789012345678901234567890", "9" * 5000]
    content = "".join(f'{{"id": {number}, "text": {number}}}\n' for number in digits)
    assert read(open_json(tmp_path / "a.jsonl", content)) == {"id": digits, "text": digits}


def test_strings_stay_and_lists_of_texts_are_joined(tmp_path):
    texts = ["NaN", "null", "", "00123", ["a", None, "", "b"], [], float("nan"), None]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    found = read(open_json(tmp_path / "a.jsonl", content), {"text": "text"})
    assert found == {"text": ["NaN", "null", "", "00123", "a b", "", None, None]}


def test_keys_and_types_may_show_late(tmp_path):
    rows = [{"text": "a", "note": None}] * 12_000 + [{"text": "b", "note": "late", "label": 3}]
    file = open_json(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert file.names() == ["text", "note", "label"]
    assert file.names(5) == ["text", "note"]
    found = read(file, {"note": "text", "label": "label"})
    assert found == {"note": [None] * 12_000 + ["late"], "label": [None] * 12_000 + ["3"]}


def test_embeddings_classes_and_paths(tmp_path):
    rows = [
        {"embedding": [1, 2.5e0], "label": True, "image": "a.png"},
        {"embedding": None, "label": None, "image": {"path": "b.png"}},
        {"embedding": [None, 3], "label": False},
    ]
    file = open_json(tmp_path / "a.json", json.dumps(rows))
    found = read(file, {"embedding": "vectors", "label": "label", "image": "image"})
    assert found == {
        "embedding": [[1.0, 2.5], None, [None, 3.0]],
        "label": ["true", None, "false"],
        "image": ["a.png", "b.png", None],
    }


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"x": True}, "text", r"column 'x' holds a bool, not text, in row 1 \(line 2\)\."),
        ({"x": {"a": 1}}, "text", r"column 'x' holds an object, not text, in row 1"),
        ({"x": ["a", 1]}, "text", r"column 'x' holds a list with a number, not text, in row 1"),
        ({"x": 2}, "label", r"column 'x' holds a number in row 1 \(line 2\), but text in row 0\. Give all classes"),
        ({"x": [2]}, "label", r"column 'x' holds a list, not a class, in row 1"),
        ({"x": "\ud800"}, "text", r"column 'x' holds half a character \(\\ud800\) in row 1 \(line 2\)\."),
    ],
)
def test_other_types_are_named_by_row_and_column(tmp_path, row, kind, message):
    file = open_json(tmp_path / "a.jsonl", json.dumps({"x": "first"}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=message):
        list(file.batches({"x": kind}))


def test_embeddings_of_other_types_are_named(tmp_path):
    file = open_json(tmp_path / "a.jsonl", '{"x": [1]}\n{"x": ["1"]}\n')
    with pytest.raises(ValueError, match=r"column 'x' holds a list with text, not a list of numbers, in row 1"):
        list(file.batches({"x": "vectors"}))


def test_columns_to_show_may_hold_anything_but_objects(tmp_path):
    values = [True, 1.50, "a", None, [1, "b", None, False], []]
    file = open_json(tmp_path / "a.json", json.dumps([{"x": value} for value in values]))
    assert read(file, {"x": "shown"}) == {"x": ["true", "1.5", "a", None, "1 b false", ""]}
    file = open_json(tmp_path / "b.json", '[{"x": {"deep": 1}}]')
    with pytest.raises(ValueError, match=r"column 'x' holds an object, not text, in row 0"):
        list(file.batches({"x": "shown"}))


def test_a_key_given_twice_is_refused_where_it_is_needed(tmp_path):
    file = open_json(tmp_path / "a.jsonl", '{"text": "a", "note": 1, "note": 2}\n{"text": "b", "text": "c"}\n')
    assert read(file, {"id": "text"}) == {"id": [None, None]}
    with pytest.raises(ValueError, match=r"row 1 \(line 2\) gives 'text' twice"):
        list(file.batches({"text": "text"}))
    file = open_json(tmp_path / "b.jsonl", '{"a": 1, "a": 2, "text": "b", "text": "c"}\n')
    with pytest.raises(ValueError, match=r"row 0 \(line 1\) gives 'text' twice"):
        list(file.batches({"text": "text"}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"line 2 is no JSON: expecting value at character \d+\. A \.jsonl"),
        ("a.jsonl", '[{"text": "a"}]\n', r"line 1 holds a list, not an object\. Write rows as \{\"text\": \.\.\.\}"),
        ("a.jsonl", '{"text": "a"} {"text": "b"}\n', r"line 1 is no JSON: something follows the object"),
        ("a.json", '[{"text": "a"},\n "b"]', r"line 2 holds text, not an object"),
        ("a.json", '[{"text": "a"}\n {"text": "b"}]', r"line 2 is no JSON: a comma or \] is missing"),
        ("a.json", '[{"text": "a"}] x', r"line 1: something follows the list of rows"),
        ("a.json", '[{"text": "a"', r"line 1 is no JSON: expecting ',' delimiter"),
        ("a.json", '{"text": ["a"], "id": [1, 2]}', r"its columns differ in length: text 1, id 2"),
        ("a.json", '[{"text": ' + "[" * 100_000, "line 1 is no JSON: lists or objects are nested too deeply"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "line 1 is no JSON: lists or objects are nested too deeply"),
        ("a.json", '{"text": ["a"], "text": ["b"]}', r"it gives 'text' twice\. Keep one\."),
        ("a.json", '{"data": [{"text": "a"}], "data": [{"text": "b"}]}', r"it gives 'data' twice"),
        ("a.json", '{"text": {"0": "a", "0": "b"}}', r"it gives '0' twice"),
        ("a.json", "[]", "the file has no rows"),
        ("a.json", " \n", "the file has no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"line 2 is not UTF-8 \(byte 0xe9\)"),
    ],
)
def test_what_is_no_json_is_named_by_its_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(open_json(tmp_path / name, content))
