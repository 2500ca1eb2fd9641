"""Take the texts and images that a caller gives as a sequence, whatever holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

_COLUMN_PACKAGES = ("pandas", "polars", "pyarrow")
_TABLE_PACKAGES = (*_COLUMN_PACKAGES, "datasets")
# Rows of a column that are read at once.
_AT_A_TIME = 1000
_ENCODE_EMBEDDINGS = "csr_hf.codes.encode_embeddings(encoder.head, embeddings)"


def as_sequence(given: Any, name: str = "inputs") -> Sequence[Any]:
    """Return inputs as a sequence, in the order in which they lie.

    Lists, tuples and columns of `datasets` are returned as they are. A Series of pandas or polars, an array of texts
    and a column of Arrow are read by position, whatever their index; generators and other iterables once.

    Args:
        given: texts, images or both.
        name: of the argument, for messages.

    Raises:
        ValueError: for one text, for what has no order (a set, a dict) and for what is no list of inputs (a table, an
            array of numbers); the message says what to pass instead.
    """
    kind = type(given)
    package = kind.__module__.partition(".")[0]
    if isinstance(given, str):
        raise ValueError(f"`{name}` is one string: pass a list of strings.")
    if isinstance(given, bytes | bytearray | memoryview):
        raise ValueError(f"`{name}` is {kind.__name__}: pass a list, of strings for texts: [value.decode()].")
    if isinstance(given, Set):
        raise ValueError(f"`{name}` is a {kind.__name__}, which has no order: pass sorted(texts), or a list.")
    if isinstance(given, Mapping) or (package == "datasets" and hasattr(given, "column_names")):
        raise ValueError(f"`{name}` is a {kind.__name__}: {_name_column(given)}")
    if package in _TABLE_PACKAGES and (kind.__name__ == "LazyFrame" or hasattr(given, "columns")):
        raise ValueError(f"`{name}` is a {kind.__name__}: {_name_column(given)}")
    if isinstance(given, np.ndarray) or package == "torch":
        return _array_items(given, name)
    if package in _COLUMN_PACKAGES:
        return _column_items(given)
    # A deque has no slices.
    if isinstance(given, Sequence) and not isinstance(given, deque):
        return given
    if isinstance(given, Iterable):
        return list(given)
    raise ValueError(f"`{name}` is {kind.__name__}: pass a list of texts or images.")


def iter_texts(inputs: Iterable[Any], name: str = "inputs") -> Iterator[str]:
    """Yield texts after checking each, see `check_text`."""
    for position, value in enumerate(iter_values(inputs)):
        check_text(value, f"{name}[{position}]")
        yield value


def iter_values(inputs: Iterable[Any]) -> Iterator[Any]:
    """Yield values in order; those of columns of `datasets` many at a time, which is fifty times as fast."""
    kind = type(inputs)
    if kind.__module__.partition(".")[0] != "datasets" or not isinstance(inputs, Sequence):
        yield from inputs
        return
    for start in range(0, len(inputs), _AT_A_TIME):
        yield from inputs[start : start + _AT_A_TIME]


def check_text(value: object, name: str) -> None:
    """Check that a value is a text that tokenizers take.

    Args:
        value: of any type.
        name: of the value, for messages.

    Raises:
        ValueError: if it is missing, of another type, or holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} {_describe(value)}")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has half of a character, {value[error.start]!a}, at place {error.start}. Drop it: "
            "text.encode('utf-8', 'ignore').decode()."
        ) from error


def _describe(value: object) -> str:
    """Say what stands where a text should, and what to do."""
    kind = type(value).__name__
    if value is None or kind in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return f"is missing ({value}). Drop such rows, series.dropna(), or fill them, series.fillna('')."
    if isinstance(value, bytes | bytearray):
        return f"is {kind}, neither a string nor an image. Decode texts: value.decode()."
    if isinstance(value, np.ndarray) or type(value).__module__ == "torch":
        return f"is an array of shape {tuple(value.shape)}, no text. Encode embeddings by {_ENCODE_EMBEDDINGS}."  # type: ignore[attr-defined]
    if isinstance(value, int | float | complex | np.number):
        return f"is {kind}, neither a string nor an image. Make texts of numbers: str(value)."
    return f"is {kind}, neither a string nor an image."


def _name_column(table: Any) -> str:
    """Say how to pass one column of a table, or the values of a mapping."""
    names = getattr(table, "column_names", None)
    if type(table).__name__ == "LazyFrame":
        return "collect it, and pass one column: frame.collect()[column]."
    if isinstance(table, Mapping) and not isinstance(names, dict):
        return "pass its texts as a list: list(mapping.values())."
    if isinstance(names, dict):
        return "pass a column of a split: dataset['train'][column]."
    names = list(map(str, table.columns)) if names is None else names
    if not names:
        return "pass one column of it."
    example = "text" if "text" in names else names[0]
    variable = {"DataFrame": "df", "Table": "table"}.get(type(table).__name__, "dataset")
    return f'pass one column: {variable}["{example}"]. Its columns: {", ".join(names[:20])}.'


def _array_items(array: Any, name: str) -> list[Any]:
    """Return the texts of an array, or the images of a batch."""
    shape = tuple(array.shape)
    kind = array.dtype.kind if isinstance(array, np.ndarray) else "f"
    if kind in "USOT" and len(shape) == 1:
        return array.tolist()
    if kind in "USOT":
        raise ValueError(f"`{name}` is an array of shape {shape}: pass one axis of texts, for example array[:, 0].")
    if len(shape) == 4:
        return list(array)
    if len(shape) in (2, 3):
        raise ValueError(
            f"`{name}` is an array of shape {shape}: pass one image as [array], several as list(arrays). Encode "
            f"embeddings by {_ENCODE_EMBEDDINGS}."
        )
    raise ValueError(
        f"`{name}` is an array of numbers of shape {shape}, no texts. Encode one embedding by "
        "csr_hf.codes.encode_embeddings(encoder.head, embedding[None])."
    )


def _column_items(column: Any) -> list[Any]:
    """Return the values of a Series, an Index or an Arrow array, by position."""
    convert = next(getattr(column, name) for name in ("to_pylist", "to_list", "tolist") if hasattr(column, name))
    return convert()
