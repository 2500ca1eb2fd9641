"""What coders of a head have in common: embeddings in, latents chosen by pursuit, what they leave in a residual."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from csr_hf.code_files import open_codes, read_head, read_metadata, read_tensor
from csr_hf.codes import decode_codes, head_fingerprint, to_finite_rows
from csr_hf.coding.pursuit import MOST_LATENTS, Chosen, Pursuit
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.float_rows import as_float_rows
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

LEAST_ROW, WIDEST_ROW = 3, 2**24
"""Bytes of a row: from those of a scale and a latent to what `PackedCodes` takes."""
_LARGEST = 1e15
"""Of a number of a residual: its square is finite in float32."""


class Residual(Protocol):
    """Keeps the rest of embeddings in bytes."""

    kind: ClassVar[str]
    size: int

    @property
    def dim(self) -> int:
        """Width of the embeddings."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Write residuals, shape (n, dim), as bytes, shape (n, m)."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Read them back."""


class StoredCodes(Protocol):
    """Codes with bytes beside each row for the residual."""

    @property
    def residual(self) -> np.ndarray | None:
        """Bytes beside each row, shape (n, m); None for none."""


Codes = TypeVar("Codes", bound=StoredCodes)


class HeadCoder(ABC, Generic[Codes]):
    """Turns embeddings into codes of a head, of given bytes, and back.

    Args:
        head: the CSR head, of at most 8,192 latents. Codes are computed on the CPU in float32 wherever it is.
        row_bytes: of a code without its residual.
        k: latents of a code at most.
        residual: keeps what the codes leave of the embeddings; None leaves it out.

    Raises:
        ValueError: if `k` or `row_bytes` is out of range, or the head has too many latents.
    """

    format: ClassVar[str]
    """Of a file that holds such a coder."""

    def __init__(self, head: CSRModel, row_bytes: int, k: int, residual: Residual | None) -> None:
        dim = head.config.hidden_dim
        if dim > MOST_LATENTS:
            raise ValueError(
                f"`hidden_dim` ({dim:,}) is above the {MOST_LATENTS:,} latents that a coder takes. Encode with "
                "refine=True (--refine values) and `SparseCodes.pack`."
            )
        if not 1 <= k <= dim:
            raise ValueError(f"`k` ({k}) must be between 1 and `hidden_dim` ({dim}).")
        if not LEAST_ROW <= row_bytes <= WIDEST_ROW:
            raise ValueError(f"`row_bytes` ({row_bytes}) must be at least {LEAST_ROW}: a scale and a latent.")
        self.head, self.row_bytes, self.k, self.residual = head, row_bytes, k, residual
        self._made: Pursuit | None = None

    @property
    def name(self) -> str:
        """Shown in tables."""
        return "CSR, packed" if self.residual is None else "CSR + residual"

    @property
    def usual_k(self) -> int:
        """Latents that most codes have."""
        return self.k

    @property
    def bytes_per_vector(self) -> int:
        """Bytes stored for an embedding at most; residuals by transform coding take theirs on average."""
        return self.row_bytes + (0 if self.residual is None else self.residual.size)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells its codes from those of another coder."""
        found: dict[str, Any] = {"k": self.k, "row_bytes": self.row_bytes, **self._own_settings}
        if self.residual is not None:
            digest = digest_arrays(self.residual.kind, self.residual.arrays)
            found |= {"residual_bytes": self.residual.size, "residual": digest}
        return {**found, "head": head_fingerprint(self.head)}

    @property
    @abstractmethod
    def _own_settings(self) -> dict[str, Any]:
        """Settings that other coders have not."""

    @abstractmethod
    def _write(self, chosen: Chosen) -> Codes:
        """Write chosen latents as codes without residuals."""

    @abstractmethod
    def unpack(self, codes: Codes) -> SparseCodes:
        """Read the latents of codes; residuals are left out."""

    def encode(self, embeddings: Any) -> Codes:
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
        codes = self._write(self.pursuit.choose(torch.from_numpy(rows), self.k))
        if self.residual is None:
            return codes
        return self._put_residual(codes, self.residual.encode(rows - decode_codes(self.head, self.unpack(codes))))

    @abstractmethod
    def _put_residual(self, codes: Codes, residual: np.ndarray) -> Codes:
        """Put bytes beside every row."""

    def decode(self, codes: Codes) -> np.ndarray:
        """Decode codes with their residuals, float32, shape (n, input_dim)."""
        decoded = decode_codes(self.head, self.unpack(codes))
        if self.residual is not None and codes.residual is not None:
            decoded += self.residual.decode(codes.residual)
        return decoded

    def read_back(self, embeddings: Any) -> np.ndarray:
        """Encode embeddings and decode their codes, float32, shape (n, input_dim)."""
        return self.decode(self.encode(embeddings))

    @property
    def pursuit(self) -> Pursuit:
        """Chooses latents by the atoms of the head."""
        if self._made is None:
            parts = (self.head.dictionary, self.head.pre_bias)
            self._made = Pursuit(*(part.detach().float().cpu() for part in parts))
        return self._made

    def save(self, path: str | Path) -> None:
        """Write what decodes its codes, beside the head, as one safetensors file, whole or not at all.

        Raises:
            OSError: if the folder cannot be written; nothing is left behind.
        """
        from safetensors.numpy import save_file

        metadata = {"format": self.format, "head": json.dumps(head_fingerprint(self.head))}
        metadata |= {"row_bytes": str(self.row_bytes), **self._own_metadata}
        metadata["residual_bytes"] = str(0 if self.residual is None else self.residual.size)
        tensors = {**self._own_arrays, **({} if self.residual is None else self.residual.arrays)}
        with write_whole(path) as temporary:
            save_file(tensors, temporary, metadata)

    @property
    @abstractmethod
    def _own_metadata(self) -> dict[str, str]:
        """What a file says of it beside its bytes."""

    @property
    @abstractmethod
    def _own_arrays(self) -> dict[str, np.ndarray]:
        """What it is made of beside its residual."""

    @classmethod
    def load(cls, path: str | Path, head: CSRModel) -> Self:
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
                metadata = read_metadata(file, cls.format)
                arrays = {name: read_tensor(file, name) for name in file.keys()}
            fingerprint, size = read_head(metadata), int(metadata["residual_bytes"])
            for name, array in arrays.items():
                if array.dtype.kind == "f" and (np.abs(array.astype(np.float64)) > _LARGEST).any():
                    raise ValueError(f"its {name} hold values above {_LARGEST:g}")
            coder = cls._from_file(head, metadata, arrays)
            residual = coder.residual
            if (0 if residual is None else residual.size) != size:
                raise ValueError(f"its residual is not one of {size} bytes")
            if residual is not None and residual.dim != head.config.input_dim:
                raise ValueError(f"its residuals are not for embeddings of {head.config.input_dim} dimensions")
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no file of a coder ({error}). Save it again.") from error
        if fingerprint != head_fingerprint(head):
            raise ValueError(f"{path} was made for another head ({fingerprint!r:.80}) than {head_fingerprint(head)}.")
        return coder

    @classmethod
    @abstractmethod
    def _from_file(cls, head: CSRModel, metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> Self:
        """Put a coder together of what a file holds.

        Raises:
            KeyError: if something is missing.
            ValueError: if it does not fit together.
        """


def digest_arrays(kind: str, arrays: dict[str, np.ndarray]) -> str:
    """Compute a fingerprint of arrays of a kind."""
    digest = hashlib.blake2b(kind.encode(), digest_size=6)
    for array in arrays.values():
        digest.update(array.tobytes())
    return digest.hexdigest()
