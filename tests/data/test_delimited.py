import csv

import pytest

from csr_hf.data.delimited import DelimitedFile


def read(path, names=None):
    file = DelimitedFile(path, "\t" if path.suffix == ".tsv" else ",")
    columns = {name: [] for name in names or file.names()}
    for batch in file.batches(columns):
        for name in columns:
            columns[name] += batch.column(name).to_pylist()
    return columns


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_cells_are_text_and_only_empty_ones_are_missing(tmp_path):
    texts = [
        "None",
        "null",
        "NA",
        "nan",
        "N/A",
        "NULL",
        "",
        "00123",
        "1.0",
        "1e5",
        "-0",
        "9007199254740993",
        "true",
        " ",
    ]
    path = write(tmp_path / "a.csv", "n,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    found = read(path)
    assert found["text"] == [text or None for text in texts]
    assert found["n"] == [str(n) for n in range(len(texts))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_breaks_quotes_marks_and_nuls(tmp_path, end):
    content = end.join(["\ufeffid,text", f'1,"two{end}lines, ""quoted"""', "", "2,nul\0", '"",""', "4,last"])
    assert read(write(tmp_path / "a.csv", content)) == {
        "id": ["1", "2", None, "4"],
        "text": [f'two{end}lines, "quoted"', "nul\0", None, "last"],
    }
    assert read(write(tmp_path / "b.csv", content[1:].encode("utf-16")))["id"] == ["1", "2", None, "4"]


def test_empty_lines_of_a_single_column_are_rows(tmp_path):
    assert read(write(tmp_path / "a.csv", 'text\na\n\n"b"\n""\n')) == {"text": ["a", None, "b", None]}


def test_delimiters_at_the_end_of_rows_are_no_cells(tmp_path):
    assert read(write(tmp_path / "a.csv", "id,text\n1,a,\n2,b,,,\n3,c\n")) == {
        "id": ["1", "2", "3"],
        "text": ["a", "b", "c"],
    }
    found = read(write(tmp_path / "b.csv", "id,text,\n1,a,\n2,b\n"), ["id", "text"])
    assert found == {"id": ["1", "2"], "text": ["a", "b"]}


@pytest.mark.parametrize("before", [0, 70, 20_000])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            "1,a,more",
            r"line {} \(row {}\) has 3 cells, the header 2\. Put cells that hold the delimiter into quotes",
        ),
        ("1", r"line {} \(row {}\) has 1 cells, the header 2\."),
        ('1,"says "hi" to"', r'line {}: a quote inside of a cell in quotes is not doubled\. Write "" for it\.'),
        (r'1,"says \"hi\" to"', r'line {}: a quote is escaped by a backslash \(\\"\)\. Write the file again with'),
        (r'1,"a \", b"', r'line {}: a quote is escaped by a backslash \(\\"\)\.'),
        ("1,two\rparts", r"line {}: a carriage return stands outside of quotes\. Put the cell into quotes"),
        ('1,"never closed', r"line {}: the quote before a cell is never closed\. Close it, or double it"),
    ],
)
def test_what_does_not_fit_is_named_by_its_line(tmp_path, before, bad, message):
    rows = '"0","two\nlines"\n' * before
    file = DelimitedFile(write(tmp_path / "a.csv", f"id,text\n{rows}{bad}\n2,last\n"), ",")
    with pytest.raises(ValueError, match="^" + message.format(2 * before + 2, before)):
        list(file.batches(["id"]))


def test_a_backslash_before_a_quote_that_ends_a_cell_is_text(tmp_path):
    path = tmp_path / "a.csv"
    rows = [["text", "path"], ["a \\", "C:\\"], ['\\"', '", \\"'], ["\\\n", "\\,"]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert read(path) == {"text": [row[0] for row in rows[1:]], "path": [row[1] for row in rows[1:]]}


def test_quotes_of_a_tsv_are_marks_if_it_is_written_so_and_else_text(tmp_path):
    written = 'id\ttext\n1\t"two\nlines ""quoted"""\n2\t"whole"\n'
    assert read(write(tmp_path / "a.tsv", written))["text"] == ['two\nlines "quoted"', "whole"]
    plain = 'id\ttext\n1\t"Hello" she said\n2\t"open\n3\t5" disk\n4\t"whole"\n'
    assert read(write(tmp_path / "b.tsv", plain))["text"] == ['"Hello" she said', '"open', '5" disk', '"whole"']
    unclosed = 'id\ttext\n1\t"open\n2\tlast\n'
    assert read(write(tmp_path / "c.tsv", unclosed))["text"] == ['"open', "last"]
    both = 'id\ttext\n1\t"open\n2\tmiddle\n3\tclosed"\n'
    with pytest.raises(
        ValueError, match=r"^lines 2 to 4 are one row with a text of several lines if quotes are around"
    ):
        DelimitedFile(write(tmp_path / "d.tsv", both), "\t")


def test_cells_may_be_longer_than_the_reader_of_python_allows(tmp_path):
    text = "x" * 300_000
    assert read(write(tmp_path / "a.csv", f"text\n{text}\n")) == {"text": [text]}


def test_only_chosen_columns_are_read_and_equal_names_are_told(tmp_path):
    file = DelimitedFile(write(tmp_path / "a.csv", "text,note,note\na,1,2\n"), ",")
    assert file.names() == ["text", "note", "note"]
    (batch,) = file.batches(["text"])
    assert batch.to_pydict() == {"text": ["a"]}
    with pytest.raises(ValueError, match=r"^the file is empty\.$"):
        DelimitedFile(write(tmp_path / "b.csv", "\n\n"), ",")
