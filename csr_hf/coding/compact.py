"""Hold codes in as few bytes as they are probable: rows that the coder that made them reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr_hf.code_files import read_format, read_ids, select_one
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.row_files import RowFile, read_row_file, write_row_file
from csr_hf.coding.row_lengths import stored_bytes
from csr_hf.plumbing.jit import frozen

COMPACT_FORMAT = "csr_hf.compact_codes"
_LONGEST_NAME = 64


class CompactCodes:
    """Codes of n embeddings in as few bits as they are probable, written by a `CompactCoder`; its `decode` reads them.

    Args:
        rows: uint8, shape (n, m).
        coder: fingerprint of the coder.
        head_fingerprint: of its head; None when unknown.
        residual: what the coder wrote beside each row, uint8, shape (n, width), zeros behind the end of each; None for
            none.

    Raises:
        ValueError: if these are no bytes of such shapes, or not as many residuals as rows.
    """

    __slots__ = ("coder", "head_fingerprint", "residual", "rows")

    def __init__(
        self, rows: np.ndarray, coder: str, head_fingerprint: str | None = None, residual: np.ndarray | None = None
    ) -> None:
        if not isinstance(coder, str) or not 0 < len(coder) <= _LONGEST_NAME:
            raise ValueError(f"`coder` ({coder!r:.80}) must be the fingerprint of a coder.")
        for name, array in (("rows", rows), ("residual", residual)):
            if array is not None and (array.dtype != np.uint8 or array.ndim != 2):
                raise ValueError(f"`{name}` ({array.dtype}, {array.shape}) must be uint8 with the shape (n, bytes).")
        if residual is not None and len(residual) != len(rows):
            raise ValueError(f"`residual` has {len(residual)} rows for {len(rows)} of `rows`. Give one for each.")
        self.rows, self.coder, self.head_fingerprint = frozen(rows), coder, head_fingerprint
        self.residual = None if residual is None else frozen(residual)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without its residual."""
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows with their residuals."""
        return self.rows.size + (0 if self.residual is None else stored_bytes(self.residual))

    @property
    def bytes_per_row(self) -> float:
        """Mean bytes of a row with its residual."""
        return self.nbytes / len(self) if len(self) else float(self.row_bytes)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        residual = "" if self.residual is None else f", {self.bytes_per_row - self.row_bytes:.5g} of them residual"
        return f"CompactCodes(n={len(self)}, {self.bytes_per_row:.5g} bytes a row{residual})"

    def __getitem__(self, rows: int | slice | np.ndarray) -> CompactCodes:
        """Select rows by an integer (one row), a slice, a bool mask or row numbers; residuals go along."""
        rows = select_one(rows, len(self))
        residual = None if self.residual is None else self.residual[rows]
        return CompactCodes(self.rows[rows], self.coder, self.head_fingerprint, residual)

    @staticmethod
    def concatenate(parts: Sequence[CompactCodes]) -> CompactCodes:
        """Stack codes of one coder.

        Raises:
            ValueError: if there are none, or their coders differ.
        """
        if not parts or len({(part.coder, part.row_bytes, part.residual is None) for part in parts}) > 1:
            raise ValueError("`parts` must be codes of one coder, of one at least.")
        residuals = [part.residual for part in parts if part.residual is not None]
        residual = np.concatenate(residuals) if residuals else None
        first = parts[0]
        return CompactCodes(
            np.concatenate([part.rows for part in parts]), first.coder, first.head_fingerprint, residual
        )

    def save(self, path: str | Path, *, ids: Sequence[str] | None = None) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: the file.
            ids: names of the rows, which `load_ids` reads.

        Raises:
            ValueError: if there are not as many ids as rows.
            OSError: if the folder cannot be written; nothing is left behind.
        """
        content = RowFile(self.rows, self.residual, self.head_fingerprint, {"coder": self.coder})
        write_row_file(path, COMPACT_FORMAT, content, ids)

    @classmethod
    def load(cls, path: str | Path) -> CompactCodes:
        """Read what `save` wrote. Any bytes are codes, so that their values are not checked.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated or holds something else.
        """
        try:
            rows, residual, head, metadata = read_row_file(path, COMPACT_FORMAT)
            return cls(rows, metadata.get("coder", ""), head, residual)
        except ValueError as error:
            raise ValueError(
                f"{path} is truncated, damaged, or no file of compact codes ({error}). Encode and save again."
            ) from error

    @staticmethod
    def load_ids(path: str | Path) -> list[str] | None:
        """Read the names of the rows that a file of compact codes holds; None if it holds none.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or has not as many names as rows.
        """
        return read_ids(path, "rows")


def load_codes(path: str | Path) -> PackedCodes | CompactCodes:
    """Read codes of either kind that a coder made and that were saved.

    Args:
        path: the safetensors file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, damaged, or holds something else.
    """
    return CompactCodes.load(path) if read_format(path) == COMPACT_FORMAT else PackedCodes.load(path)
