"""Files of packed codes: the bytes of all rows, and how they are to be read beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_reading import Layout
from csr_hf.coding.row_files import RowFile, read_row_file, write_row_file

PACKED_FORMAT = "csr_hf.packed_codes"


class PackedFile(NamedTuple):
    """What such a file holds, in the order that `PackedCodes` takes it."""

    rows: np.ndarray
    layout: Layout
    base: float
    head_fingerprint: str | None
    residual: np.ndarray | None


def write_packed(path: str | Path, content: PackedFile, ids: Sequence[str] | None) -> None:
    """Write one safetensors file, whole or not at all.

    Args:
        path: the file.
        content: of the file.
        ids: names of the rows; None for none.

    Raises:
        ValueError: if there are not as many ids as rows.
        OSError: if the folder cannot be written; nothing is left behind.
    """
    metadata = {name: str(value) for name, value in content.layout._asdict().items()} | {"base": repr(content.base)}
    rows = RowFile(content.rows, content.residual, content.head_fingerprint, metadata)
    write_row_file(path, PACKED_FORMAT, rows, ids)


def read_packed(path: str | Path) -> PackedFile:
    """Read what `write_packed` wrote. Types are checked, numbers and rows are not.

    Args:
        path: the safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, or holds something else.
    """
    rows, residual, head, metadata = read_row_file(path, PACKED_FORMAT)
    try:
        layout, base = Layout(*(int(metadata[name]) for name in Layout._fields)), float(metadata["base"])
        with np.errstate(over="ignore"):
            if float(np.float32(base)) != base:
                raise ValueError(f"its base {base!r} is no float32")
    except (KeyError, ValueError) as error:
        raise ValueError(str(error)[:200]) from error
    return PackedFile(rows, layout, base, head, residual)
