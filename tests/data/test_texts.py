import io

import pytest
from datasets import Dataset

from csr_hf.data.texts import read_texts

LINES = ["page one\x0cpage two", "line\u2028sep", "", "third \u0085 nel", "fourth\x1cfs"]


@pytest.mark.parametrize("name", ["texts.txt", "texts"])
def test_every_line_is_a_text(tmp_path, name, monkeypatch, caplog):
    path = tmp_path / name
    path.write_bytes("\n".join([*LINES, ""]).encode())
    with caplog.at_level("WARNING", "csr_hf"):
        assert read_texts(str(path)) == (LINES, None)
    assert caplog.messages == [f"{path}: 1 of 5 rows have no text and get the code of the empty text: 2"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), "utf-8"))
    assert read_texts("-") == (LINES, None)


def test_every_row_is_a_text_and_keeps_its_id(tmp_path, caplog):
    (tmp_path / "faq.csv").write_text("id,question,answer\n007,q1,first answer\n,q2,\nx,q3,None\ny,q4,fourth\n")
    with caplog.at_level("WARNING", "csr_hf"):
        found = read_texts(str(tmp_path / "faq.csv"), "answer")
    assert found == (["first answer", "", "None", "fourth"], ["007", "1", "x", "y"])
    assert "1 of 4 rows have no text and get the code of the empty text: 1" in caplog.text
    Dataset.from_dict({"text": [["a", "b"], None]}).to_parquet(tmp_path / "lists.parquet")
    assert read_texts(str(tmp_path / "lists.parquet")) == (["a b", ""], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "faq.csv",
            "question,answer\nq,a\n",
            r"^--column gives text: 'text', but .*faq\.csv has no such column\. .*: question",
        ),
        ("texts.txt", "", "the file is empty"),
        ("texts", "", "has no lines: there is nothing to encode"),
        ("gone.txt", None, r"gone\.txt' cannot be read: there is no such file"),
        ("texts.txt", "caf\xe9\n", r"texts\.txt' cannot be read: line 1 is not UTF-8 .*iconv -f latin1"),
        ("texts", "caf\xe9\n", r"texts' cannot be read: line 1 is not UTF-8 .*iconv -f latin1"),
    ],
)
def test_what_cannot_be_encoded_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=message):
        read_texts(str(tmp_path / name))


def test_a_stdin_of_another_encoding_is_named(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8"))
    with pytest.raises(ValueError, match="stdin is not utf-8"):
        read_texts("-")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ValueError, match="stdin has no lines"):
        read_texts("-")
