"""Files of rows of bytes: one safetensors file with all rows, what stands beside each of them, and their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csr_hf.code_files import open_codes, pack_ids, read_head, read_metadata
from csr_hf.coding.row_lengths import RaggedRows, cut_rows, pad_rows
from csr_hf.plumbing.atomic import write_whole

_LENGTHS = "residual_lengths"
_TYPES = {_LENGTHS: ("U8", "U16")}


class RowFile(NamedTuple):
    """What such a file holds."""

    rows: np.ndarray
    """uint8, shape (n, m)."""
    residual: np.ndarray | None
    """What stands beside each row, uint8, shape (n, width); zeros behind the end of each are not stored."""
    head_fingerprint: str | None
    """Of the head that made the rows."""
    metadata: dict[str, str]
    """How the rows are to be read, by name."""


def write_row_file(path: str | Path, kind: str, content: RowFile, ids: Sequence[str] | None) -> None:
    """Write one safetensors file, whole or not at all.

    Args:
        path: the file.
        kind: of its format.
        content: of the file.
        ids: names of the rows; None for none.

    Raises:
        ValueError: if there are not as many ids as rows.
        OSError: if the folder cannot be written; nothing is left behind.
    """
    from safetensors.numpy import save_file

    metadata = {**content.metadata, "format": kind, "head": json.dumps(content.head_fingerprint)}
    tensors = {"rows": content.rows}
    if content.residual is not None:
        ragged = cut_rows(content.residual)
        tensors["residual"] = content.residual if ragged is None else ragged.content
        if ragged is not None:
            tensors[_LENGTHS] = ragged.lengths
            metadata["residual_width"] = str(content.residual.shape[1])
    if ids is not None:
        tensors["ids"] = pack_ids(ids, len(content.rows))
    with write_whole(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_row_file(path: str | Path, kind: str) -> RowFile:
    """Read what `write_row_file` wrote. Types are checked, numbers are not.

    Args:
        path: the safetensors file.
        kind: of its format.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, or holds something else.
    """
    from safetensors import SafetensorError

    try:
        with open_codes(path) as file:
            metadata, names = read_metadata(file, kind), set(file.keys())
            if not {"rows"} <= names <= {"rows", "ids", "residual", _LENGTHS} or (
                _LENGTHS in names and "residual" not in names
            ):
                raise ValueError(f"it holds {sorted(names)}")
            if any(file.get_slice(name).get_dtype() not in _TYPES.get(name, ("U8",)) for name in names):
                raise ValueError("it holds numbers that are no bytes")
            rows = file.get_tensor("rows")
            residual = file.get_tensor("residual") if "residual" in names else None
            if residual is not None and _LENGTHS in names:
                ragged = RaggedRows(residual, file.get_tensor(_LENGTHS))
                residual = pad_rows(ragged, int(metadata["residual_width"]))
        return RowFile(rows, residual, read_head(metadata), metadata)
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from error
