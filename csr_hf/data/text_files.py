"""Open text files as they are found: in UTF-8 or UTF-16, compressed or not, with any line breaks."""

from __future__ import annotations

import codecs
import io
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Endings of compressed files -> what pyarrow calls them."""
# That of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


_STARTS = {rb"\x1f\x8b": ".gz", rb"BZh[1-9]1AY&SY": ".bz2", rb"\x28\xb5\x2f\xfd": ".zst"}
"""Patterns of the first bytes of compressed files -> their endings."""


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    r"""Open a text file in UTF-8, or in the encoding that its byte order mark names.

    Args:
        path: the file; with the ending .gz, .bz2 or .zst it is decompressed.
        newline: as for `open`: by default lines end at "\n", "\r\n" and "\r" and at nothing else.

    Yields:
        The file, to be read to its end or not.

    Raises:
        ValueError: if it is in another encoding, also while it is read in the block; the line and the next step are
            named.
        OSError: if it cannot be opened or decompressed.
    """
    with _open_bytes(path) as file:
        encoding = _find_encoding(file, path)
        try:
            with io.TextIOWrapper(file, encoding, newline=newline) as text:
                yield text
        except UnicodeDecodeError as error:
            raise ValueError(_describe_bad_byte(path, encoding)) from error


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a text file, without their line breaks: "\n", "\r\n" or "\r", and nothing else.

    Raises:
        ValueError: as `open_text` does.
    """
    with open_text(path) as file:
        for line in file:
            yield line.removesuffix("\n")


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        with path.open("rb") as file:
            yield file
        return
    import pyarrow as pa

    with pa.input_stream(str(path), compression=compression) as stream:
        yield io.BufferedReader(cast(Any, stream))


def _find_encoding(file: io.BufferedReader, path: Path) -> str:
    start = file.peek(10)[:10]
    begin = start[:4]
    ending = next((ending for pattern, ending in _STARTS.items() if re.match(pattern, start)), None)
    if ending is not None and path.suffix.lower() not in COMPRESSIONS:
        raise ValueError(f"it is compressed. Give it the ending that says so: {path.name}{ending}.")
    for mark, encoding in _MARKS.items():
        if begin.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in begin]
    if zeros in ([False, True, False, True], [True, False, True, False]):
        encoding = "utf-16le" if zeros[1] else "utf-16be"
        raise ValueError(f"it is UTF-16 without a byte order mark. {_convert(path, encoding)}")
    return "utf-8"


def _describe_bad_byte(path: Path, encoding: str) -> str:
    """Find the first byte that is no text, and say where it is and how the file is converted."""
    if encoding.startswith(("utf-16", "utf-32")):
        return f"it begins as {encoding.upper()}, but is not. Save it again as UTF-8."
    with _open_bytes(path) as file:
        number, byte = _find_bad_byte(file)
    return f"line {number} is not UTF-8 (byte 0x{byte:02x}). {_convert(path, 'latin1')}"


def _find_bad_byte(file: Iterable[bytes]) -> tuple[int, int]:
    lines = 0
    for line in file:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return lines + line[: error.start].count(b"\r") + 1, line[error.start]
        # Line breaks of one "\r" are inside of what Python takes for a line of bytes.
        lines += 1 + line.count(b"\r") - line.endswith(b"\r\n")
    return lines, 0


def _convert(path: Path, encoding: str) -> str:
    first, plain = "Convert it", path
    if path.suffix.lower() in COMPRESSIONS:
        first, plain = "Decompress and convert it", path.with_suffix("")
    target = plain.with_name(f"{plain.stem}.utf8{plain.suffix}")
    return f"{first}: iconv -f {encoding} -t utf-8 {shlex.quote(plain.name)} > {shlex.quote(target.name)}"
