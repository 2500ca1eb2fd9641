"""Hold sparse codes at their true size: every row as the same number of bytes, read bit by bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr_hf.code_files import read_ids, select_one
from csr_hf.coding.bit_reading import Layout
from csr_hf.coding.bit_rows import (
    LARGEST_BASE,
    LEAST_BASE,
    Levels,
    check_bits,
    check_layout,
    check_rows,
    read_levels,
    round_values,
    sort_levels,
    step_sizes,
    write_levels,
)
from csr_hf.coding.packed_files import PackedFile, read_packed, write_packed
from csr_hf.coding.row_lengths import stored_bytes
from csr_hf.plumbing.jit import frozen
from csr_hf.sparse_codes import SparseCodes

_WIDEST_ROW = 2**24


class PackedCodes:
    """Codes of `n` embeddings as bits: rows of equal size, of which each has a scale and up to `k` active latents.

    Row i lies at byte i * row_bytes, and nothing else is needed to read it: a byte with its scale, then for each
    latent in ascending order the gap from the one before as a Rice code, and its level in `bits` bits. A value is
    level * base * 2**(-scale / 8). `csr_hf.coding.bit_reading` has the format to the bit, and the compiled loops.

    Args:
        rows: uint8, shape (n, row_bytes).
        layout: how they are to be read: dim, k, bits (1 to 8) and shift (0 to 31).
        base: largest step of a level, float32, from 2**-94 to 2**119.
        head_fingerprint: of the head that made the codes; None when unknown.
        residual: bytes that another module reads beside each row, uint8, shape (n, m); None for none.
        check: read all rows, and refuse those whose bits mean nothing; False where they are known to be valid.

    Raises:
        ValueError: for what is out of range, shapes that do not agree, and damaged rows.
    """

    __slots__ = ("_layout", "base", "head_fingerprint", "residual", "rows")

    def __init__(
        self,
        rows: np.ndarray,
        layout: Layout,
        base: float,
        head_fingerprint: str | None = None,
        residual: np.ndarray | None = None,
        *,
        check: bool = True,
    ) -> None:
        self._layout = check_layout(layout)
        self.base = _check_base(base)
        self.head_fingerprint = head_fingerprint
        self.rows = _check_bytes("rows", rows)
        self.residual = None if residual is None else _check_bytes("residual", residual)
        if not 1 <= self.row_bytes <= _WIDEST_ROW:
            raise ValueError(f"`rows` {self.rows.shape} must have from 1 to {_WIDEST_ROW} bytes each.")
        if self.residual is not None and len(self.residual) != len(self):
            raise ValueError(f"`residual` has {len(self.residual)} rows for {len(self)} of `rows`. Give one for each.")
        # Arrays of width k are made of it, so that it must not exceed what the bytes can say.
        most = (self.row_bytes - 1) * 8 // (1 + self.shift + self.bits)
        if self.k > most:
            raise ValueError(f"`layout.k` ({self.k}) exceeds the {most} latents that {self.row_bytes} bytes can hold.")
        if check:
            check_rows(self.rows, self._layout)

    @classmethod
    def pack(cls, codes: SparseCodes, bits: int = 4, *, base: float | None = None) -> PackedCodes:
        """Round codes to levels, and pack them.

        Each row gets the scale with the least squared error; values below half a step become 0, and their latents are
        dropped. Codes that were unpacked give the same values again by the `base` that they had, which may be left out
        where it was a power of two, as it is by default, and the rows are within 2**27 of each other.

        Args:
            codes: of any k.
            bits: of a level, from 1 to 8. Levels end at 255.
            base: largest step of a level (default: the power of two that the largest value does not exceed).

        Raises:
            ValueError: for `bits` or a `base` out of range, values above 2**119, and codes that were not checked
                and name a latent twice or out of range.
        """
        bits = check_bits(bits)
        largest, least = float(codes.values.max(initial=0)), float(codes.values.min(initial=0))
        if not (largest <= LARGEST_BASE and least >= 0):
            raise ValueError(
                f"`codes` hold values from {least:g} to {largest:g}, which must lie in [0, 2**119]. Encode them again."
            )
        if base is None:
            base = max(2.0 ** math.ceil(math.log2(largest)), LEAST_BASE) if largest else 1.0
        steps = step_sizes(_check_base(base))
        levels, scales = round_values(codes.values, steps, bits)
        return cls.from_levels(codes.indices, levels, scales, codes.dim, bits, base, codes.head_fingerprint)

    @classmethod
    def from_levels(
        cls,
        indices: np.ndarray,
        levels: np.ndarray,
        scales: np.ndarray,
        dim: int,
        bits: int,
        base: float,
        head_fingerprint: str | None = None,
    ) -> PackedCodes:
        """Pack values that are rounded already, on all cores.

        Args:
            indices: latents in any order, integers, shape (n, k).
            levels: from 1 to 2**bits, 0 where unused, integers, shape (n, k).
            scales: of each row, uint8, shape (n,).
            dim: length of the latents axis.
            bits: of a level, from 1 to 8.
            base: largest step of a level, from 2**-94 to 2**119; a power of two lets all such codes be concatenated.
            head_fingerprint: of the head; None when unknown.

        Returns:
            rows as small as the largest of them allows. Their `k` is the width of `indices`, or what the rows can hold
            where that is less.

        Raises:
            ValueError: if shapes or types differ from these, or a row names a latent twice or out of range, or has a
                level above 2**bits.
        """
        rows, layout = write_levels(indices, levels, scales, dim, bits)
        return cls(rows, layout, base, head_fingerprint, check=False)

    @property
    def dim(self) -> int:
        """Length of the latents axis (the head's `hidden_dim`)."""
        return self._layout.dim

    @property
    def k(self) -> int:
        """Latents that a row holds at most."""
        return self._layout.k

    @property
    def bits(self) -> int:
        """Bits of a level."""
        return self._layout.bits

    @property
    def shift(self) -> int:
        """Low bits of a gap between latents."""
        return self._layout.shift

    @property
    def layout(self) -> Layout:
        """How the rows are read, as kernels take it."""
        return self._layout

    @property
    def steps(self) -> np.ndarray:
        """What a level is worth by the scale of its row, float32, shape (256,)."""
        return step_sizes(self.base)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without its residual."""
        return self.rows.shape[1]

    @property
    def bytes_per_row(self) -> float:
        """Mean bytes of a row with its residual."""
        return self.nbytes / len(self) if len(self) else float(self.row_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows with their residuals."""
        return self.rows.size + (0 if self.residual is None else stored_bytes(self.residual))

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __repr__(self) -> str:
        size, shape = self.bytes_per_row, f"n={len(self)}, k={self.k}, dim={self.dim}, {self.bits} bits a value"
        residual = "" if self.residual is None else f", {size - self.row_bytes:.5g} of them residual"
        return f"PackedCodes({shape}, {size:.5g} bytes a row{residual})"

    def __getitem__(self, rows: int | slice | np.ndarray) -> PackedCodes:
        """Select rows by an integer (one row), a slice, a bool mask or row numbers; residuals go along."""
        rows = select_one(rows, len(self))
        residual = None if self.residual is None else self.residual[rows]
        return PackedCodes(self.rows[rows], self._layout, self.base, self.head_fingerprint, residual, check=False)

    def with_residual(self, residual: np.ndarray | None) -> PackedCodes:
        """Put bytes beside every row, or take them away.

        Args:
            residual: uint8, shape (n, m); None for none.

        Raises:
            ValueError: if it is no array of bytes with a row for each of these.
        """
        return PackedCodes(self.rows, self._layout, self.base, self.head_fingerprint, residual, check=False)

    def unpack(self) -> SparseCodes:
        """Decode all rows, on all cores; residuals are left out.

        Returns:
            values in float32, largest first, ties by latent; rows with fewer than `k` latents end in zeros.

        Raises:
            ValueError: if `rows` was changed since, and a row is damaged.
        """
        indices, levels = sort_levels(*read_levels(self.rows, self._layout))
        values = levels * self.steps[self.rows[:, 0], None]
        return SparseCodes(indices, values, self.dim, self.head_fingerprint, check=False)

    def to_levels(self) -> Levels:
        """Read the whole numbers that all rows hold; `from_levels` packs them again.

        Raises:
            ValueError: if `rows` was changed since, and a row is damaged.
        """
        return Levels(*read_levels(self.rows, self._layout), self.rows[:, 0].copy())

    @staticmethod
    def concatenate(parts: list[PackedCodes]) -> PackedCodes:
        """Stack codes of one head into one object; every value stays what it is to the bit.

        Rows of other sizes are filled up or packed anew, and scales are moved to the largest base.

        Raises:
            ValueError: if there are none; their `dim`, `bits`, head or residuals differ; or their bases do in such
                a way that no base and scales give the same values.
        """
        if not parts:
            raise ValueError("`parts` is empty: nothing to concatenate.")
        first, base = parts[0], max(part.base for part in parts)
        for part in parts[1:]:
            if part._kind() != first._kind():
                raise ValueError(
                    f"codes differ in (dim, bits, head, bytes of residual): {first._kind()} and {part._kind()}. "
                    "Encode all by one head and with the same settings."
                )
        rows = [part._rebase(base) for part in parts]
        residual = None if first.residual is None else np.concatenate([part.residual for part in parts])
        k = max(part.k for part in parts)
        if len({part.shift for part in parts}) == 1:
            size = max(part.row_bytes for part in parts)
            stacked = np.concatenate([np.pad(part, ((0, 0), (0, size - part.shape[1]))) for part in rows])
            return PackedCodes(
                stacked, first.layout._replace(k=k), base, first.head_fingerprint, residual, check=False
            )
        read = [part.to_levels() for part in parts]
        indices, levels = (
            np.concatenate([np.pad(part[at], ((0, 0), (0, k - part[at].shape[1]))) for part in read]) for at in (0, 1)
        )
        scales = np.concatenate([part[:, 0] for part in rows])
        packed = PackedCodes.from_levels(indices, levels, scales, first.dim, first.bits, base, first.head_fingerprint)
        return packed.with_residual(residual)

    def save(self, path: str | Path, *, ids: Sequence[str] | None = None) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: the file.
            ids: names of the rows, which `load_ids` reads.

        Raises:
            ValueError: if there are not as many ids as rows.
            OSError: if the folder cannot be written; nothing is left behind.
        """
        content = PackedFile(self.rows, self._layout, self.base, self.head_fingerprint, self.residual)
        write_packed(path, content, ids)

    @classmethod
    def load(cls, path: str | Path) -> PackedCodes:
        """Read what `save` wrote, and check every row.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, holds something else, or holds what `PackedCodes` refuses.
        """
        try:
            return cls(*read_packed(path))
        except ValueError as error:
            raise ValueError(
                f"{path} is truncated, damaged, or no file of packed codes ({error}). Encode and save again."
            ) from error

    @staticmethod
    def load_ids(path: str | Path) -> list[str] | None:
        """Read the names of the rows that a file of packed codes holds; None if it holds none.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or has not as many names as rows.
        """
        return read_ids(path, "rows")

    def _kind(self) -> tuple[int, int, str | None, int]:
        return self.dim, self.bits, self.head_fingerprint, 0 if self.residual is None else self.residual.shape[1]

    def _rebase(self, base: float) -> np.ndarray:
        """Return the rows with scales that give the same values by a larger base."""
        (fraction, exponent), (own_fraction, own_exponent) = math.frexp(base), math.frexp(self.base)
        # Eight scales halve a step, so that powers of two alone can be moved without rounding.
        moved = 8 * (exponent - own_exponent)
        if moved == 0 and fraction == own_fraction:
            return self.rows
        is_active = self.rows[:, 1:].any(axis=1)
        scales = self.rows[:, 0].astype(np.int64) + np.where(is_active, moved, 0)
        if fraction != own_fraction or scales.max(initial=0) > 255:
            raise ValueError(
                f"the bases {base:g} and {self.base:g} cannot be made one without changing values. Pack all codes "
                "with the same base."
            )
        rows = self.rows.copy()
        rows[:, 0] = scales
        return rows


def _check_base(base: float) -> float:
    if not LEAST_BASE <= base <= LARGEST_BASE:
        raise ValueError(f"`base` ({base!r}) must be from 2**-94 to 2**119, so that all steps are normal numbers.")
    return float(np.float32(base))


def _check_bytes(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 2:
        raise ValueError(f"`{name}` ({array.dtype}, {array.shape}) must be uint8 with the shape (n, bytes).")
    return frozen(array)
