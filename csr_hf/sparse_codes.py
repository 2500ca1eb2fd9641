"""Hold sparse codes as two small arrays: the active latents of every row and their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from csr_hf.code_files import open_codes, pack_ids, read_head, read_ids, read_metadata, read_tensor, select_one
from csr_hf.plumbing.atomic import write_whole

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

    import csr_hf

SPARSE_FORMAT = "csr_hf.sparse_codes"
_MAX_UINT16_DIM = 65_536
LARGEST_DIM = 2**31 - 1
"""Longest latents axis, so that every latent is an int32."""


class QueryProjections(NamedTuple):
    """Inner products of dense queries with the decoder: <x, decode(z)> = sum_j latents[j] * z_j + offset.

    `csr_hf.codes.project_queries` computes them.
    """

    latents: np.ndarray
    """Products with every atom of the dictionary, float32, shape (n, hidden_dim)."""
    offset: np.ndarray
    """Products with pre_bias, float32, shape (n,)."""
    head_fingerprint: str | None = None
    """Of the head; None when unknown."""

    def codes(self, k: int) -> SparseCodes:
        """Keep the k largest projections as sparse queries, for an index with decoded norms; negative ones become 0.

        Raises:
            ValueError: if `k` is not between 1 and hidden_dim.
        """
        dim = self.latents.shape[1]
        if not 1 <= k <= dim:
            raise ValueError(f"`k` ({k}) must be between 1 and the hidden_dim ({dim}).")
        # Plain indexing: `take_along_axis` takes longer than a search where there is one query.
        rows = np.arange(len(self.latents))[:, None]
        largest = np.argpartition(self.latents, dim - k, axis=1)[:, dim - k :]
        largest = largest[rows, np.argsort(-self.latents[rows, largest], axis=1, kind="stable")]
        values = np.maximum(self.latents[rows, largest], 0).astype(np.float32)
        indices = largest.astype(index_dtype(dim))
        return SparseCodes(indices, values, dim, self.head_fingerprint, check=False)


class SparseCodes:
    """Codes of `n` embeddings: each has at most `k` active latents out of `dim`.

    Rows are sorted by value, largest first, so that a smaller `k` is a slice of the same codes. Values are
    non-negative; a row with fewer than `k` active latents ends in zeros.

    Args:
        indices: active latents, integers in [0, dim), shape (n, k). Stored as uint16 when `dim` allows, else int32.
        values: their values, shape (n, k), descending. float16 stays float16; every other type becomes float32.
        dim: length of the latents axis (the head's `hidden_dim`), below 2**31.
        head_fingerprint: of the head that made the codes; None when unknown. An index refuses codes of another head.
        check: verify ranges, order and finiteness, one pass over the arrays; False where they are known to be valid.

    Raises:
        ValueError: if shapes differ, `dim` or indices are not integers or out of range, or values are unsorted,
            negative or not finite as they are stored.
    """

    __slots__ = ("dim", "head_fingerprint", "indices", "values")

    def __init__(
        self,
        indices: np.ndarray,
        values: np.ndarray,
        dim: int,
        head_fingerprint: str | None = None,
        *,
        check: bool = True,
    ) -> None:
        for name, array in (("indices", indices), ("values", values)):
            if not isinstance(array, np.ndarray):
                raise ValueError(f"`{name}` is a {type(array).__name__}. Give a NumPy array of the shape (n, k).")
        if indices.ndim != 2 or indices.shape != values.shape:
            raise ValueError(f"`indices` {indices.shape} and `values` {values.shape} must both have the shape (n, k).")
        if indices.dtype.kind not in "iu":
            raise ValueError(f"`indices` ({indices.dtype}) must be integers.")
        if not isinstance(dim, int | np.integer) or not 1 <= dim <= LARGEST_DIM:
            raise ValueError(
                f"`dim` ({dim!r}) must be an integer from 1 to {LARGEST_DIM}: the number of latents of the head."
            )
        # What is beyond float32 becomes infinite, and is refused.
        with np.errstate(over="ignore"):
            values = values.astype(np.float16 if values.dtype == np.float16 else np.float32, copy=False)
        if check and indices.size:
            _check_arrays(indices, values, dim)
        self.indices = indices.astype(index_dtype(dim), copy=False)
        self.values = values
        self.dim = int(dim)
        self.head_fingerprint = head_fingerprint

    @property
    def k(self) -> int:
        """Latents stored for each row."""
        return self.indices.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix that the codes represent: (n, dim)."""
        return len(self), self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of the two arrays."""
        return self.indices.nbytes + self.values.nbytes

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __repr__(self) -> str:
        size = self.nbytes / max(len(self), 1)
        return f"SparseCodes(n={len(self)}, k={self.k}, dim={self.dim}, {size:.0f} bytes a row)"

    def __getitem__(self, rows: int | slice | np.ndarray) -> SparseCodes:
        """Select rows by an integer (one row), a slice, a bool mask or row numbers."""
        rows = select_one(rows, len(self))
        return self._like(self.indices[rows], self.values[rows])

    def truncate(self, k: int) -> SparseCodes:
        """Keep the `k` largest latents of every row; a view, no copy.

        Raises:
            ValueError: if `k` is below 1 or above the k of these codes.
        """
        if not 1 <= k <= self.k:
            raise ValueError(
                f"`k` ({k}) must be between 1 and the k of these codes ({self.k}). Encode with a larger k."
            )
        return self._like(self.indices[:, :k], self.values[:, :k])

    def normalize(self) -> SparseCodes:
        """Scale rows to unit Euclidean norm, so that dot products are cosines; rows of zeros stay zero."""
        values = self.values.astype(np.float32)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        values /= np.where(norms > 0, norms, 1)
        return self._like(self.indices, values.astype(self.values.dtype))

    def astype(self, dtype: Literal["float32", "float16"]) -> SparseCodes:
        """Convert the values to another float type; indices are shared."""
        return self._like(self.indices, self.values.astype(np.dtype(dtype)))

    def to_scipy(self) -> csr_matrix:
        """Convert to a scipy matrix of shape (n, dim), float32, without explicit zeros."""
        from scipy.sparse import csr_matrix

        n, k = self.indices.shape
        pointers = np.arange(0, n * k + 1, k, dtype=np.int64) if k else np.zeros(n + 1, np.int64)
        data, latents = self.values.astype(np.float32).ravel(), self.indices.ravel().astype(np.int32)
        _check_range(latents, self.dim)
        matrix = csr_matrix((data, latents, pointers), shape=self.shape)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return matrix

    def to_torch(self, layout: Literal["sparse", "dense"] = "sparse") -> torch.Tensor:
        """Convert to a float32 torch tensor of shape (n, dim): sparse COO, as in sentence-transformers, or dense.

        Raises:
            ValueError: for another layout.
        """
        import torch

        if layout not in ("sparse", "dense"):
            raise ValueError(f'`layout` ({layout!r}) is unknown. Choose "sparse" or "dense".')
        rows, columns = np.nonzero(self.values)
        latents = self.indices[rows, columns].astype(np.int64)
        _check_range(latents, self.dim)
        values = torch.from_numpy(self.values[rows, columns].astype(np.float32))
        coordinates = torch.from_numpy(np.stack([rows, latents]))
        tensor = torch.sparse_coo_tensor(coordinates, values, self.shape, check_invariants=False)
        return tensor.to_dense() if layout == "dense" else tensor.coalesce()

    def pack(self, bits: int = 4) -> csr_hf.PackedCodes:
        """Round and pack these codes at their true size; see `PackedCodes.pack`.

        Args:
            bits: of a value, from 1 to 8. Values below half a step of their row are dropped.

        Raises:
            ValueError: for `bits` out of range, and for values above 2**119.
        """
        # By the public door: packed codes are made of these, so that their module imports this one.
        import csr_hf

        return csr_hf.PackedCodes.pack(self, bits)

    @staticmethod
    def concatenate(parts: list[SparseCodes]) -> SparseCodes:
        """Stack codes of one head and one k into one object.

        Raises:
            ValueError: if there are none, or their `k`, `dim` or `head` differ.
        """
        if not parts:
            raise ValueError("`parts` is empty: nothing to concatenate.")
        first = parts[0]
        for part in parts[1:]:
            if (part.k, part.dim, part.head_fingerprint) != (first.k, first.dim, first.head_fingerprint):
                raise ValueError(
                    f"codes differ in (k, dim, head): {(first.k, first.dim, first.head_fingerprint)} and "
                    f"{(part.k, part.dim, part.head_fingerprint)}. Truncate to one k and use one head."
                )
        indices = np.concatenate([part.indices for part in parts])
        return first._like(indices, np.concatenate([part.values for part in parts]))

    def save(self, path: str | Path, *, ids: Sequence[str] | None = None) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: the file.
            ids: names of the rows, which `load_ids` reads.

        Raises:
            ValueError: if there are not as many ids as rows.
            OSError: if the folder cannot be written; nothing is left behind.
        """
        from safetensors.numpy import save_file

        metadata = {"format": SPARSE_FORMAT, "dim": str(self.dim), "head": json.dumps(self.head_fingerprint)}
        tensors = {"indices": np.ascontiguousarray(self.indices), "values": np.ascontiguousarray(self.values)}
        if ids is not None:
            tensors["ids"] = pack_ids(ids, len(self))
        with write_whole(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | Path) -> SparseCodes:
        """Read what `save` wrote, and check every row: the arrays index into others, so damage must be found here.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, holds something else, or holds values that `SparseCodes` refuses.
        """
        from safetensors import SafetensorError

        try:
            with open_codes(path) as file:
                metadata = read_metadata(file, SPARSE_FORMAT)
                indices, values = read_tensor(file, "indices"), read_tensor(file, "values")
            return cls(indices, values, int(metadata["dim"]), read_head(metadata))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = str(error)[:200]
            raise ValueError(
                f"{path} is truncated, damaged, or no file of sparse codes ({reason}). Encode and save again."
            ) from error

    @staticmethod
    def load_ids(path: str | Path) -> list[str] | None:
        """Read the names of the rows that a file of codes holds; None if it holds none.

        Args:
            path: the safetensors file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or has not as many names as rows.
        """
        return read_ids(path, "indices")

    def _like(self, indices: np.ndarray, values: np.ndarray) -> SparseCodes:
        return SparseCodes(indices, values, self.dim, self.head_fingerprint, check=False)


def index_dtype(dim: int) -> type[np.uint16] | type[np.int32]:
    """Return the narrowest integer type that holds the numbers of `dim` latents."""
    return np.uint16 if dim <= _MAX_UINT16_DIM else np.int32


def _check_arrays(indices: np.ndarray, values: np.ndarray, dim: int) -> None:
    """Check ranges, finiteness and order of arrays that are not empty."""
    _check_range(indices, dim)
    if not np.isfinite(values).all():
        raise ValueError(f"`values` holds NaN or infinity, first in row {int(np.argmin(np.isfinite(values).all(1)))}.")
    if values.min() < 0 or (values[:, 1:] > values[:, :-1]).any():
        raise ValueError("`values` must be non-negative and descend within each row.")


def _check_range(indices: np.ndarray, dim: int) -> None:
    """Check what leaves for a library that reads wherever an index says, also of codes that were not checked."""
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < dim:
        raise ValueError(f"`indices` must lie in [0, {dim}); found {int(indices.min())} to {int(indices.max())}.")
