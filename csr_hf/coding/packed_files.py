"""Files of packed codes: one safetensors file with the bytes of all rows, and how they are to be read beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csr_hf.code_files import open_codes, pack_ids, read_head, read_metadata
from csr_hf.coding.bit_reading import Layout
from csr_hf.coding.row_lengths import RaggedRows, cut_rows, pad_rows
from csr_hf.plumbing.atomic import write_whole

PACKED_FORMAT = "csr_hf.packed_codes"
_LENGTHS = "residual_lengths"
_TYPES = {_LENGTHS: ("U8", "U16")}


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
    from safetensors.numpy import save_file

    metadata = {name: str(value) for name, value in content.layout._asdict().items()}
    metadata |= {"format": PACKED_FORMAT, "base": repr(content.base), "head": json.dumps(content.head_fingerprint)}
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


def is_packed(path: str | Path) -> bool:
    """Tell whether a safetensors file says that it holds packed codes; False also where it cannot be read."""
    from safetensors import SafetensorError

    try:
        with open_codes(path) as file:
            return (file.metadata() or {}).get("format") == PACKED_FORMAT
    except (OSError, SafetensorError):
        return False


def read_packed(path: str | Path) -> PackedFile:
    """Read what `write_packed` wrote. Types are checked, numbers and rows are not.

    Args:
        path: the safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, or holds something else.
    """
    from safetensors import SafetensorError

    try:
        with open_codes(path) as file:
            metadata, names = read_metadata(file, PACKED_FORMAT), set(file.keys())
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
        layout, base = Layout(*(int(metadata[name]) for name in Layout._fields)), float(metadata["base"])
        with np.errstate(over="ignore"):
            if float(np.float32(base)) != base:
                raise ValueError(f"its base {base!r} is no float32")
        return PackedFile(rows, layout, base, read_head(metadata), residual)
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from error
