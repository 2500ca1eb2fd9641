"""What files of sparse and of packed codes have in common: opened alike, with a head and with names of the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from safetensors import safe_open

_TYPES = ("U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64", "F16", "F32", "F64")


def select_one(rows: Any, count: int) -> Any:
    """Turn the number of a row into the slice of it alone; other selections of `count` rows stay as they are.

    Raises:
        IndexError: if there is no such row.
    """
    if not isinstance(rows, (int, np.integer)):
        return rows
    if not -count <= rows < count:
        raise IndexError(f"row {rows} of {count} codes")
    return slice(rows, rows + 1) if rows != -1 else slice(-1, None)


def open_codes(path: str | Path) -> safe_open:
    """Open a file of sparse or packed codes.

    Raises:
        FileNotFoundError: if there is no such file.
        SafetensorError: if its header is damaged, or does not agree with its length.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist. Write it with `SparseCodes.save` or `csr-hf encode`.")
    return safe_open(path, framework="numpy")


def read_format(path: str | Path) -> str | None:
    """Return the format that a safetensors file names; None where it names none, or cannot be read."""
    from safetensors import SafetensorError

    try:
        with open_codes(path) as file:
            return (file.metadata() or {}).get("format")
    except (OSError, SafetensorError):
        return None


def read_metadata(file: safe_open, expected: str) -> dict[str, str]:
    """Read the metadata of an open file of codes.

    Raises:
        ValueError: if it is not of the format that is expected.
    """
    metadata = file.metadata() or {}
    if metadata.get("format") != expected:
        found = metadata.get("format")
        raise ValueError(f"its format is {found!r:.80} instead of {expected!r}" if found else "it names no format")
    return dict(metadata)


def read_tensor(file: safe_open, name: str) -> np.ndarray:
    """Read an array of an open file of codes.

    Raises:
        SafetensorError: if there is none of this name.
        ValueError: if it is of a type that NumPy has not.
    """
    found = file.get_slice(name).get_dtype()
    if found not in _TYPES:
        raise ValueError(f"`{name}` is of the type {found}")
    array: np.ndarray = file.get_tensor(name)
    return array


def read_head(metadata: dict[str, str]) -> str | None:
    """Read the fingerprint of the head from the metadata of a file of codes.

    Raises:
        KeyError: if there is none, not even null.
        ValueError: if it is neither a text nor null.
    """
    head = json.loads(metadata["head"])
    if head is not None and not isinstance(head, str):
        raise ValueError("its head is neither a text nor null")
    return head


def pack_ids(ids: Sequence[str], rows: int) -> np.ndarray:
    """Turn names of rows into bytes, as files of codes hold them.

    Raises:
        ValueError: if there are not as many ids as rows.
    """
    if len(ids) != rows:
        raise ValueError(f"`ids` has {len(ids)} names for {rows} rows. Give one for each.")
    return np.frombuffer(json.dumps([str(name) for name in ids]).encode(), np.uint8)


def read_ids(path: str | Path, tensor: str) -> list[str] | None:
    """Read the names of the rows of a file of codes; None if it holds none.

    Args:
        path: the safetensors file.
        tensor: that has as many rows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or has not as many names as rows.
    """
    from safetensors import SafetensorError

    try:
        with open_codes(path) as file:
            if "ids" not in file.keys():
                return None
            ids = json.loads(read_tensor(file, "ids").tobytes())
            rows = file.get_slice(tensor).get_shape()[0]
        if not isinstance(ids, list) or len(ids) != rows or not all(isinstance(name, str) for name in ids):
            raise ValueError(f"its ids are not one text for each of {rows} rows")
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no ids that can be read ({error}). Encode and save again.") from error
    return ids
