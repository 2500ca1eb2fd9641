"""Arrays of a segment as one safetensors file, written once, then read or mapped into memory.

Nothing in a file is believed: its header must account for every byte, and what it says of types, shapes and places
must agree. Links are not followed, so that nothing outside of a folder is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap as memory
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = "csr_hf.segment"
_DTYPES = {
    **{"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4"},
    **{"U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"},
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_ALIGNMENT = 64
_LONGEST_HEADER = 2**20
_MOST_DIMENSIONS = 8


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write arrays as one safetensors file, whose content begins at a multiple of 64 bytes.

    Args:
        path: a file that does not exist yet.
        arrays: by name.

    Returns:
        size and checksum of the file, as `read_content` takes them.
    """
    # Wide numbers first, so that every array begins at a multiple of its own width.
    ordered = sorted(arrays.items(), key=lambda entry: (-entry[1].dtype.itemsize, entry[0]))
    header: dict[str, Any] = {"__metadata__": {"format": _FORMAT}}
    at = 0
    for name, array in ordered:
        where = [at, at + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": where}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    digest, size = hashlib.blake2b(digest_size=16), 0
    with path.open("xb") as file:
        pieces: list[Any] = [len(text).to_bytes(8, "little"), text, *(_bytes_of(array) for _, array in ordered)]
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "checksum": digest.hexdigest()}


def read_content(path: Path, entry: Mapping[str, Any], *, mmap: bool, verify: bool) -> np.ndarray:
    """Read a file whole, or map it into memory.

    Args:
        path: the file.
        entry: its size and checksum.
        mmap: map it.
        verify: compare it with its checksum.

    Returns:
        its bytes, uint8, read-only.

    Raises:
        ValueError: if it is missing, no plain file, of another size, or does not match its checksum. The message says
            so of the file, which the caller names.
    """
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size != entry["bytes"]:
            raise ValueError(f"has {size:,} bytes instead of {entry['bytes']:,}")
        if mmap and size:
            content = np.frombuffer(memory.mmap(descriptor, size, access=memory.ACCESS_READ), np.uint8)
        else:
            content = np.empty(size, np.uint8)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                if file.readinto(content) != size:
                    raise ValueError("was changed while it was read")
            content.flags.writeable = False
    if verify and hashlib.blake2b(content, digest_size=16).hexdigest() != entry["checksum"]:
        raise ValueError("does not match its checksum")
    return content


def read_text(path: Path, most: int) -> str:
    """Read a small file of text.

    Raises:
        ValueError: if it is missing, no plain file, longer than `most` bytes, or no UTF-8.
    """
    with _opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is longer than {most:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8") from None


def parse_arrays(content: np.ndarray) -> dict[str, np.ndarray]:
    """Find the arrays in the bytes of a file.

    Args:
        content: of the whole file, uint8.

    Returns:
        views of it by name, as read-only as it is.

    Raises:
        ValueError: unless the header accounts for every byte.
    """
    length = int.from_bytes(content[:8].tobytes(), "little") if len(content) >= 8 else -1
    if not 0 <= length <= min(len(content) - 8, _LONGEST_HEADER):
        raise ValueError("has no header")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
    except (ValueError, RecursionError):
        raise ValueError("has a header that is no JSON") from None
    if not isinstance(header, dict) or header.pop("__metadata__", None) != {"format": _FORMAT}:
        raise ValueError("is no segment of an index")
    data = content[8 + length :]
    arrays, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _place(*item)):
        first, last = _place(name, entry)
        dtype, shape = _kind(name, entry)
        if first != at or last - first != math.prod(shape) * dtype.itemsize or last > len(data):
            raise ValueError(f"has a header that does not fit its content at {name!r:.80}")
        if (8 + length + first) % dtype.itemsize:
            raise ValueError(f"has {name!r:.80} at a place where numbers of its type cannot begin")
        arrays[name] = data[first:last].view(dtype).reshape(shape)
        at = last
    if at != len(data):
        raise ValueError(f"has {len(data) - at:,} bytes that its header does not name")
    return arrays


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Return where an array begins and ends, as the header says."""
    found = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(found, list) and len(found) == 2 and all(_is_count(one) for one in found)):
        raise ValueError(f"has a header without a place for {name!r:.80}")
    return found[0], found[1]


def _kind(name: str, entry: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    """Return type and shape of an array, as the header says."""
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"has {name!r:.80} of an unknown type")
    if not (isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS and all(_is_count(one) for one in shape)):
        raise ValueError(f"has {name!r:.80} of an unknown shape")
    return np.dtype(_DTYPES[dtype]), tuple(shape)


def _is_count(one: Any) -> bool:
    return type(one) is int and 0 <= one < 2**48


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a plain file for reading; links are not followed, and nothing waits for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():
        raise ValueError("is a link, which is not followed: copy the folder with what its links name (cp -rL)")
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no plain file")
        yield descriptor
    finally:
        os.close(descriptor)
