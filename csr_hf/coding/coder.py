"""Store embeddings in a given number of bytes, as packed codes of a head with or without a residual code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from csr_hf.code_files import open_codes, read_head, read_metadata, read_tensor
from csr_hf.codes import decode_codes, head_fingerprint, to_finite_rows
from csr_hf.coding.bit_rows import check_bits
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.pursuit import MOST_LATENTS, Pursuit
from csr_hf.coding.rounding import largest_row_bytes, most_latents, round_chosen
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.coding.transform import TransformQuantizer
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.float_rows import as_float_rows

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

Residual = ScalarQuantizer | TransformQuantizer
"""What keeps the rest of an embedding: as bytes that are quick to read, or as close as their number allows."""
_FORMAT = "csr_hf.coder"
# A scale and a latent; rows as wide as `PackedCodes` takes.
_LEAST_ROW, _WIDEST_ROW = 3, 2**24
_LARGEST = 1e15
"""Of a number of a residual: its square is finite in float32."""


class Coder:
    """Turns embeddings into packed codes and back; latents are chosen by pursuit, values rounded to repair each other.

    Args:
        head: the CSR head, of at most 8,192 latents. Codes are computed on the CPU in float32 wherever it is.
        row_bytes: of a code; it gets as many latents as fit. Default: what k latents need at most.
        k: latents of a code at most. Default: as many as fit.
        bits: of a value.
        residual: keeps what the codes leave of the embeddings; None leaves it out.

    Raises:
        ValueError: if both `row_bytes` and `k` are missing, one is out of range, or the head has too many latents.
    """

    def __init__(
        self,
        head: CSRModel,
        *,
        row_bytes: int | None = None,
        k: int | None = None,
        bits: int = 4,
        residual: Residual | None = None,
    ) -> None:
        dim, bits = head.config.hidden_dim, check_bits(bits)
        if dim > MOST_LATENTS:
            raise ValueError(
                f"`hidden_dim` ({dim:,}) is above the {MOST_LATENTS:,} latents that a coder takes. Encode with "
                "refine=True (--refine values) and `SparseCodes.pack`."
            )
        if k is not None and not 1 <= k <= dim:
            raise ValueError(f"`k` ({k}) must be between 1 and `hidden_dim` ({dim}).")
        if row_bytes is None:
            if k is None:
                raise ValueError("`row_bytes` and `k` are both missing. Give one of them.")
            row_bytes = max(largest_row_bytes(dim, k, bits), _LEAST_ROW)
        if row_bytes < _LEAST_ROW:
            raise ValueError(f"`row_bytes` ({row_bytes}) must be at least {_LEAST_ROW}: a scale and a latent.")
        self.head, self.row_bytes, self.bits, self.residual = head, row_bytes, bits, residual
        self.k = most_latents(dim, row_bytes, bits) if k is None else k
        self._pursuit: Pursuit | None = None

    @property
    def name(self) -> str:
        """Shown in tables."""
        return "CSR, packed" if self.residual is None else "CSR + residual"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes stored for an embedding at most; residuals by transform coding take theirs on average."""
        return self.row_bytes + (0 if self.residual is None else self.residual.size)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells its codes from those of another coder."""
        found: dict[str, Any] = {"k": self.k, "row_bytes": self.row_bytes, "bits": self.bits}
        if self.residual is not None:
            digest = hashlib.blake2b(self.residual.kind.encode(), digest_size=6)
            for array in self.residual.arrays.values():
                digest.update(array.tobytes())
            found |= {"residual_bytes": self.residual.size, "residual": digest.hexdigest()}
        return {**found, "head": head_fingerprint(self.head)}

    def encode(self, embeddings: Any) -> PackedCodes:
        """Encode embeddings, shape (n, input_dim), without the mean of their modality.

        Raises:
            ValueError: if they are no floats, one is NaN or infinite, or the width is wrong.
        """
        rows = as_float_rows(embeddings, "`embeddings`")
        width = self.head.config.input_dim
        if rows.shape[1] != width:
            found = f"embeddings are {rows.shape[1]} wide, this head takes `input_dim` {width}"
            raise ValueError(f"{found}. Use the backbone that it was trained on.")
        rows = to_finite_rows(rows, 0, len(rows))
        pursuit = self._make_pursuit()
        levels, base = round_chosen(pursuit, pursuit.choose(torch.from_numpy(rows), self.k), self.bits, self.row_bytes)
        dim, fingerprint = self.head.config.hidden_dim, head_fingerprint(self.head)
        packed = PackedCodes.from_levels(*levels, dim, self.bits, base, fingerprint)
        if self.residual is None:
            return packed
        return packed.with_residual(self.residual.encode(rows - decode_codes(self.head, packed.unpack())))

    def decode(self, packed: PackedCodes) -> np.ndarray:
        """Decode packed codes with their residuals, float32, shape (n, input_dim)."""
        decoded = decode_codes(self.head, packed.unpack())
        if self.residual is not None and packed.residual is not None:
            decoded += self.residual.decode(packed.residual)
        return decoded

    def save(self, path: str | Path) -> None:
        """Write what decodes its codes, beside the head, as one safetensors file, whole or not at all.

        Raises:
            OSError: if the folder cannot be written; nothing is left behind.
        """
        from safetensors.numpy import save_file

        metadata = {"format": _FORMAT, "head": json.dumps(head_fingerprint(self.head))}
        metadata |= {"k": str(self.k), "row_bytes": str(self.row_bytes), "bits": str(self.bits)}
        tensors = {} if self.residual is None else self.residual.arrays
        metadata["residual_bytes"] = str(0 if self.residual is None else self.residual.size)
        with write_whole(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | Path, head: CSRModel) -> Coder:
        """Read what `save` wrote.

        Args:
            path: the file.
            head: the one that it was made for.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else, or was made for another head.
        """
        from safetensors import SafetensorError

        try:
            with open_codes(path) as file:
                metadata = read_metadata(file, _FORMAT)
                arrays = {name: read_tensor(file, name) for name in file.keys()}
            fingerprint = read_head(metadata)
            k, row_bytes, bits, size = (int(metadata[name]) for name in ("k", "row_bytes", "bits", "residual_bytes"))
            if not _LEAST_ROW <= row_bytes <= _WIDEST_ROW:
                raise ValueError(f"its rows have {row_bytes} bytes")
            residual = _make_residual(arrays, size, head.config.input_dim)
            coder = cls(head, k=k, row_bytes=row_bytes, bits=bits, residual=residual)
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no file of a coder ({error}). Save it again.") from error
        if fingerprint != head_fingerprint(head):
            raise ValueError(f"{path} was made for another head ({fingerprint!r:.80}) than {head_fingerprint(head)}.")
        return coder

    def _make_pursuit(self) -> Pursuit:
        if self._pursuit is None:
            parts = (self.head.dictionary, self.head.pre_bias)
            self._pursuit = Pursuit(*(part.detach().float().cpu() for part in parts))
        return self._pursuit


def _make_residual(arrays: dict[str, np.ndarray], size: int, dim: int) -> Residual | None:
    """Put together what a file says of residuals.

    Raises:
        ValueError: if the arrays are not those of a residual of `size` bytes, for embeddings of width `dim`.
    """
    residual: Residual | None = None
    for name, array in arrays.items():
        if array.dtype.kind == "f" and (np.abs(array.astype(np.float64)) > _LARGEST).any():
            raise ValueError(f"its {name} hold values above {_LARGEST:g}")
    if set(arrays) == {"axes"}:
        residual = ScalarQuantizer(arrays["axes"], size)
    elif set(arrays) == {"axes", "mean", "spreads"}:
        residual = TransformQuantizer(**arrays, size=size)
    elif arrays:
        raise ValueError(f"it holds {sorted(arrays)}")
    if (0 if residual is None else residual.size) != size or (residual is not None and residual.dim != dim):
        raise ValueError(f"its residual is not one of {size} bytes for embeddings of {dim} dimensions")
    return residual
