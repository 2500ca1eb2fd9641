"""Read json and jsonl: numbers keep their digits, and what does not fit is named by its line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from csr_hf.data.text_files import open_text

if TYPE_CHECKING:
    import pyarrow as pa

Kind: TypeAlias = Literal["text", "label", "vectors", "image", "shown"]
"""What a column is read as; "shown" is whatever can be written as text."""

_BLOCK_ROWS = 10_000
_BLOCK_CHARACTERS = 2**25
_NAMES = {str: "text", bool: "a bool", list: "a list", dict: "an object", type(None): "null"}


class _Number(str):
    """A number, as its digits are written."""

    __slots__ = ()


class _Ambiguous(dict):
    """An object that gives some keys more than once."""

    repeated: set[str]


class _Record(NamedTuple):
    """An object of a file, and where it stands."""

    line: int | None
    content: dict[str, Any]
    size: int = 0
    """Characters, where they are known."""


class JSONFile:
    """A json or jsonl file, read as a table.

    A jsonl file has an object a line. A json file has a list of objects, an object whose key `data` holds that list,
    an object of columns (lists, or the mappings of row to value that pandas writes), or objects one after the other.

    Args:
        path: the file.
        by_line: read an object a line; else the whole document, which is kept in memory.

    Raises:
        ValueError: if it is empty.
    """

    def __init__(self, path: Path, by_line: bool) -> None:
        self.path, self.by_line = path, by_line
        self._text = "" if by_line else self._read_document()
        if next(self._records(), None) is None:
            raise ValueError("the file has no rows." if self._text else "the file is empty.")

    def names(self, limit: int | None = None) -> list[str]:
        """Return the keys of all objects, of the first `limit` ones if that is given, in the order they come in."""
        return list(dict.fromkeys(key for record in islice(self._records(), limit) for key in record.content))

    def batches(self, kinds: Mapping[str, Kind]) -> Iterator[pa.RecordBatch]:
        """Yield rows in blocks, the chosen columns as strings, those of embeddings as lists of floats.

        Numbers of a text or a label keep the digits that they are written with; a missing key is a null.

        Args:
            kinds: column -> what it is read as.

        Raises:
            ValueError: for what is no JSON, or of another type than its column, with line, row and column.
        """
        import pyarrow as pa

        types = {name: pa.list_(pa.float64()) if kind == "vectors" else pa.string() for name, kind in kinds.items()}
        columns = [_Column(name, kind, types[name]) for name, kind in kinds.items()]
        records, row = self._records(), 0
        while block := list(_take_block(records)):
            arrays = [column.convert(block, row) for column in columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(list(types.items())))
            row += len(block)

    def _read_document(self) -> str:
        with open_text(self.path) as file:
            return file.read()

    def _records(self) -> Iterator[_Record]:
        return _read_by_line(self.path) if self.by_line else _read_document(self._text)


def _make_decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_as_object
    )


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    ambiguous = _Ambiguous(found)
    ambiguous.repeated = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}
    return ambiguous


def _read_by_line(path: Path) -> Iterator[_Record]:
    decoder = _make_decoder()
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                content = line.strip()
                found, end = decoder.raw_decode(content)
                if end < len(content):
                    raise json.JSONDecodeError("something follows the object", content, end)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(
                    f"line {number} is no JSON: {_reason(error)}. A .jsonl file has an object a line; give one that "
                    "spans lines the ending .json."
                ) from error
            yield _Record(number, _check_object(found, number), len(line))


def _read_document(text: str) -> Iterator[_Record]:
    """Yield the objects of a document, whichever form it has."""
    decoder, place = _make_decoder(), _skip_blanks(text, 0)
    if text[place : place + 1] == "[":
        yield from _read_list(decoder, text, place + 1)
        return
    while place < len(text):
        found, end = _decode(decoder, text, place)
        following = _skip_blanks(text, end)
        line = _line_of(text, place)
        content = _check_object(found, line)
        if place == _skip_blanks(text, 0) and following == len(text):
            yield from _read_object(content)
            return
        yield _Record(line, content)
        place = following


def _read_list(decoder: json.JSONDecoder, text: str, place: int) -> Iterator[_Record]:
    place = _skip_blanks(text, place)
    while text[place : place + 1] != "]":
        found, end = _decode(decoder, text, place)
        line = _line_of(text, place) if not isinstance(found, dict) else None
        yield _Record(None, _check_object(found, line))
        place = _skip_blanks(text, end)
        if text[place : place + 1] == ",":
            place = _skip_blanks(text, place + 1)
        elif text[place : place + 1] != "]":
            raise ValueError(f"line {_line_of(text, place)} is no JSON: a comma or ] is missing in the list of rows.")
    if _skip_blanks(text, place + 1) < len(text):
        raise ValueError(f"line {_line_of(text, place)}: something follows the list of rows. Take it out.")


def _read_object(content: dict[str, Any]) -> Iterator[_Record]:
    """Yield the rows of a document that is one object: rows under `data`, columns, or one row."""
    rows = content.get("data")
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        _check_keys(content)
        yield from (_Record(None, row) for row in rows)
        return
    if content and all(isinstance(column, dict) for column in content.values()):
        _check_keys(content, *content.values())
        keys = dict.fromkeys(key for column in content.values() for key in column)
        for key in keys:
            yield _Record(None, {name: column.get(key) for name, column in content.items()})
        return
    if not content or not all(isinstance(column, list) for column in content.values()):
        yield _Record(1, content)
        return
    _check_keys(content)
    lengths = {name: len(column) for name, column in content.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"its columns differ in length: {described}. Give every column a value for each row.")
    for values in zip(*content.values(), strict=True):
        yield _Record(None, dict(zip(content, values, strict=True)))


def _check_keys(*objects: dict[str, Any]) -> None:
    """Check that objects whose keys are columns or rows give none of them twice."""
    for content in objects:
        if isinstance(content, _Ambiguous):
            raise ValueError(f"it gives {min(content.repeated)!r} twice. Keep one.")


def _decode(decoder: json.JSONDecoder, text: str, place: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} is no JSON: {_reason(error)}.") from error
    except RecursionError as error:
        raise ValueError(f"line {_line_of(text, place)} is no JSON: {_reason(error)}.") from error


def _reason(error: json.JSONDecodeError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply"
    return f"{error.msg[0].lower()}{error.msg[1:]} at character {error.colno}"


def _skip_blanks(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\n", "\r") and place < len(text):
        place += 1
    return place


def _line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _check_object(found: Any, line: int | None) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    raise ValueError(f'line {line} holds {_kind_of(found)}, not an object. Write rows as {{"text": ...}}.')


def _take_block(records: Iterator[_Record]) -> Iterator[_Record]:
    size = 0
    for record in islice(records, _BLOCK_ROWS):
        yield record
        size += record.size
        if size > _BLOCK_CHARACTERS:
            return


class _Column:
    """A column that is being read: checks and converts its values block by block."""

    def __init__(self, name: str, kind: Kind, type_: pa.DataType) -> None:
        self.name, self.kind, self.type = name, kind, type_
        self._first_class: tuple[str, int] | None = None

    def convert(self, block: list[_Record], row: int) -> pa.Array:
        """Convert the values of a block whose first row is `row`."""
        import pyarrow as pa

        values: list[Any] = [record.content.get(self.name) for record in block]
        types = {*map(type, values)}
        is_plain = self.kind == "text" and types <= {str, _Number, type(None)}
        is_plain = is_plain and (_Number not in types or "NaN" not in values)
        if not is_plain or any(isinstance(record.content, _Ambiguous) for record in block):
            values = [self._convert(record, row + number) for number, record in enumerate(block)]
        try:
            return pa.array(values, self.type)
        except UnicodeEncodeError as error:
            code = f"\\u{ord(error.object[error.start]):04x}"
            number = next(number for number, value in enumerate(values) if value == error.object)
            raise ValueError(
                f"column {self.name!r} holds half a character ({code}) in {_where(block[number], row + number)}. "
                "Take it out, or write both halves."
            ) from error

    def _convert(self, record: _Record, row: int) -> Any:
        content = record.content
        if isinstance(content, _Ambiguous) and self.name in content.repeated:
            raise ValueError(f"{_where(record, row)} gives {self.name!r} twice. Keep one.")
        value = content.get(self.name)
        if value is None or (type(value) is _Number and value == "NaN"):
            return None
        convert, wanted = _CONVERSIONS[self.kind]
        try:
            converted = convert(value)
        except TypeError as error:
            raise ValueError(f"column {self.name!r} holds {error}, not {wanted}, in {_where(record, row)}.") from error
        if self.kind == "label":
            self._check_type(_kind_of(value), record, row)
        return converted

    def _check_type(self, held: str, record: _Record, row: int) -> None:
        self._first_class = self._first_class or (held, row)
        first, first_row = self._first_class
        if held != first:
            raise ValueError(
                f"column {self.name!r} holds {held} in {_where(record, row)}, but {first} in row {first_row}. "
                "Give all classes as text, or all as numbers."
            )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        for part in value:
            if type(part) is not str and part is not None:
                raise TypeError(f"a list with {_kind_of(part)}")
        return " ".join(part for part in value if part)
    raise TypeError(_kind_of(value))


def _as_shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_as_class(part) for part in value if part not in (None, ""))
    return _as_class(value)


def _as_class(value: Any) -> str:
    if isinstance(value, list | dict):
        raise TypeError(_kind_of(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_floats(value: Any) -> list[float | None]:
    if not isinstance(value, list):
        raise TypeError(_kind_of(value))
    for part in value:
        if type(part) is not _Number and part is not None:
            raise TypeError(f"a list with {_kind_of(part)}")
    return [None if part is None else float(part) for part in value]


def _as_path(value: Any) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    if type(path) is not str:
        raise TypeError(_kind_of(value))
    return path


_CONVERSIONS: dict[Kind, tuple[Callable[[Any], Any], str]] = {
    "text": (_as_text, "text"),
    "label": (_as_class, "a class"),
    "vectors": (_as_floats, "a list of numbers"),
    "image": (_as_path, "the path of an image"),
    "shown": (_as_shown, "text"),
}


def _where(record: _Record, row: int) -> str:
    return f"row {row}" if record.line is None else f"row {row} (line {record.line})"


def _kind_of(value: Any) -> str:
    return "a number" if isinstance(value, _Number) else _NAMES[type(value)]
