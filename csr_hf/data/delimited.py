"""Read csv and tsv: every cell is text, and what does not fit is named by its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from csr_hf.data.text_files import open_text

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_ROWS = 10_000
_BLOCK_CHARACTERS = 2**25
# The largest that fits everywhere: a cell may be as long as its file.
_MOST_CHARACTERS = 2**31 - 1


class DelimitedFile:
    """A csv or tsv file with a header.

    Cells are read as csv writers write them: a cell with quotes, delimiters or line breaks stands in quotes, its own
    quotes doubled. A tsv file with other quotes, as files of plain texts between tabs have them, is read without this
    rule: there a quote is a character. An empty cell is missing; everything else is text, also NA and 00123.

    Args:
        path: the file.
        delimiter: between cells.

    Raises:
        ValueError: if it is empty or cannot be read, naming the line.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path, self.delimiter = path, delimiter
        self._newline = _find_newline(path)
        self._quoted = delimiter != "\t" or _quotes_are_marks(path, self._newline)
        self._header = self._read_header()
        if not self._header:
            raise ValueError("the file is empty.")

    def names(self, limit: int | None = None) -> list[str]:
        """Return the names of the columns, as the header has them."""
        return list(self._header)

    def batches(self, names: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows in blocks, the chosen columns as strings, empty cells as nulls.

        Raises:
            ValueError: for rows with more or fewer cells than the header, quotes that do not fit, or another encoding,
                with the line.
        """
        import pyarrow as pa

        places = {name: self._header.index(name) for name in names}
        schema = pa.schema([(name, pa.string()) for name in places])
        with open_text(self.path, self._newline) as file:
            for block in self._blocks(file):
                columns = [[row[place] or None for row in block.rows] for place in places.values()]
                if block.is_first:
                    columns = [column[1:] for column in columns]
                    if len(block.rows) == 1:
                        continue
                yield pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], schema=schema)

    def _read_header(self) -> list[str]:
        lines: list[str] = []
        with open_text(self.path, self._newline) as file:
            try:
                return next((cells for cells in _parse(file, self.delimiter, lines, self._quoted) if cells), [])
            except csv.Error as error:
                raise ValueError(_describe_fault(1, lines, str(error))) from error

    def _blocks(self, file: TextIO) -> Iterator[_Block]:
        """Yield the records of the file in blocks, each with as many cells as the header, which is the first."""
        lines: list[str] = []
        line, row = 1, 0
        records = _parse(file, self.delimiter, lines, self._quoted)
        while True:
            try:
                rows = _take_rows(records, lines)
                is_plain = not self._quoted or not any('\\"' in text for text in lines)
            except csv.Error:
                rows, is_plain = [], False
            if not lines:
                return
            if not is_plain or any(len(cells) != len(self._header) for cells in rows):
                # Once more, record by record: to find out where it is.
                rows = list(self._fit_rows(lines, line, row))
            if rows:
                yield _Block(rows, is_first=row == 0)
            line, row = line + len(lines), row + len(rows)
            lines.clear()

    def _fit_rows(self, block: list[str], line: int, row: int) -> Iterator[list[str]]:
        """Yield the records of a block, fitted to the header where only delimiters at an end make the difference."""
        lines: list[str] = []
        width = len(self._header)
        try:
            for cells in _parse(block, self.delimiter, lines, self._quoted):
                if self._quoted and _has_stray_quote(lines, self.delimiter):
                    raise csv.Error
                if cells or (width == 1 and row):
                    yield cells if len(cells) == width else self._fit(cells, line, row)
                    row += 1
                line += len(lines)
                lines.clear()
        except csv.Error as error:
            raise ValueError(_describe_fault(line, lines, str(error))) from error

    def _fit(self, cells: list[str], line: int, row: int) -> list[str]:
        width = len(self._header)
        if not cells or (len(cells) < width and not any(self._header[len(cells) :])):
            return cells + [""] * (width - len(cells))
        if len(cells) > width and not any(cells[width:]):
            return cells[:width]
        raise ValueError(
            f"line {line} (row {row - 1}) has {len(cells)} cells, the header {width}. Put cells that hold the "
            "delimiter into quotes, and give every row all of its cells."
        )


class _Block(NamedTuple):
    """Records that lie one after the other."""

    rows: list[list[str]]
    is_first: bool
    """The first row is the header."""


def _parse(text: Iterable[str], delimiter: str, lines: list[str], quoted: bool) -> Iterator[list[str]]:
    """Return an iterator of the cells of each record; it appends lines to `lines`, which its user empties."""

    def take() -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    if not quoted:
        contents = (line.rstrip("\r\n") for line in take())
        return (content.split(delimiter) if content else [] for content in contents)
    csv.field_size_limit(_MOST_CHARACTERS)
    return csv.reader(take(), delimiter=delimiter, strict=True)


def _take_rows(records: Iterator[list[str]], lines: list[str]) -> list[list[str]]:
    """Take the next records, until there are enough for a block."""
    rows: list[list[str]] = []
    size = counted = 0
    while len(rows) < _BLOCK_ROWS and size < _BLOCK_CHARACTERS:
        more = list(islice(records, 64))
        if not more:
            break
        rows += more
        size, counted = size + sum(map(len, lines[counted:])), len(lines)
    return rows


def _has_stray_quote(lines: list[str], delimiter: str) -> bool:
    r"""Tell whether a backslash before a quote makes a record ambiguous: `"a \", b` might be one cell or two."""
    return any('\\"' in line for line in lines) and not _written_by_rule(delimiter).fullmatch("".join(lines))


def _find_newline(path: Path) -> str:
    r"""Find where lines end, as `open` takes it: at "\n" where the first one does, else at "\r" too.

    Some writers leave a "\r" of a text outside of quotes: it must not pass for the end of a row.
    """
    with open_text(path, newline="") as file:
        return "\n" if next(file, "").endswith("\n") else ""


def _describe_fault(begin: int, lines: list[str], reason: str) -> str:
    place = f"line {begin}" if len(lines) < 2 else f"lines {begin} to {begin + len(lines) - 1}"
    if any('\\"' in line for line in lines):
        return f'{place}: a quote is escaped by a backslash (\\"). Write the file again with doubled quotes ("").'
    if "new-line character" in reason:
        return f"{place}: a carriage return stands outside of quotes. Put the cell into quotes, or end lines alike."
    if "end of data" in reason:
        return (
            f"line {begin}: the quote before a cell is never closed. Close it, or double it if it is part of the text."
        )
    return f'{place}: a quote inside of a cell in quotes is not doubled. Write "" for it.'


@cache
def _written_by_rule(delimiter: str) -> re.Pattern[str]:
    """Match a record as csv writers write it: quotes are around a cell, or doubled in one that stands in quotes."""
    cell = f'(?:"[^"]*+(?:""[^"]*+)*+"|[^"{delimiter}\r\n]*+)'
    return re.compile(f"{cell}(?:{delimiter}{cell})*+[\r\n]*")


def _quotes_are_marks(path: Path, newline: str) -> bool:
    """Tell whether the quotes of a tsv file are around cells; else each is a character of its text.

    Raises:
        ValueError: if both is possible, because what a pair of quotes surrounds are whole rows.
    """
    written = _written_by_rule("\t")
    lines: list[str] = []
    begin, width = 1, 0
    with open_text(path, newline) as file:
        try:
            for cells in _parse(file, "\t", lines, quoted=True):
                width = width or len(cells)
                if any('"' in line for line in lines) and not written.fullmatch("".join(lines)):
                    return False
                if 0 < len(cells) < width:
                    return False
                if len(lines) > 1 and width > 1 and all(line.count("\t") == width - 1 for line in lines):
                    raise ValueError(
                        f"lines {begin} to {begin + len(lines) - 1} are one row with a text of several lines if "
                        "quotes are around cells, and several rows if they are text. Save the file as csv or parquet."
                    )
                begin += len(lines)
                lines.clear()
        except csv.Error:
            return False
    return True
