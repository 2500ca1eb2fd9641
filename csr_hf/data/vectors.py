"""Embeddings in whatever holds them, read row by row where they lie: arrays, tensors, columns of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.embedding.shards import gather_rows, row_numbers
from csr_hf.plumbing.float_rows import NEXT_STEP, as_float_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset

_BLOCK_VALUES = 2**22
_FLOATS = ("halffloat", "float", "double")


class ChunkedVectors:
    """Rows of several arrays one after the other; float64, bfloat16 and another byte order are read as float32.

    Args:
        arrays: at least one, each of shape (rows, dim), memory-mapped or not, of one dtype.
        order: place of each row among those of the arrays, integers; None: as they lie.
    """

    def __init__(self, arrays: Sequence[np.ndarray], order: np.ndarray | None = None) -> None:
        self.arrays, self.order = tuple(arrays), order
        self._starts = np.cumsum([0, *(len(array) for array in self.arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.order is None else len(self.order)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return len(self), self.arrays[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """What is read: float16 or float32."""
        return np.dtype(np.float16 if self.arrays[0].dtype.newbyteorder("=") == np.float16 else np.float32)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read the rows of a slice, a bool mask or row numbers; no other rows are read."""
        places = row_numbers(rows, len(self))
        if self.order is not None:
            places = self.order[places].astype(np.int64)
        # What is beyond float32 becomes infinite, which training refuses by its row.
        return gather_rows(self.arrays, self._starts, places, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Copy all rows into memory."""
        return self[:].astype(dtype or self.dtype, copy=False)


class TensorVectors:
    """Rows of a tensor that numpy cannot share: bfloat16, or on another device; read as float32.

    Args:
        tensor: floats, shape (n, dim).
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __len__(self) -> int:
        return len(self._tensor)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return len(self._tensor), self._tensor.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """What is read: float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read the rows of a slice, a bool mask or row numbers."""
        import torch

        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self._tensor.device)
        found: np.ndarray = self._tensor[chosen].float().cpu().numpy()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Copy all rows into the memory of the CPU."""
        return self[:].astype(dtype or self.dtype, copy=False)


class AffineVectors:
    """Rows x of other vectors as (x - mean) @ matrix, computed as they are read, float32.

    Args:
        vectors: shape (n, dim).
        mean: shape (dim,).
        matrix: shape (dim, any width).
    """

    def __init__(self, vectors: Vectors, mean: np.ndarray, matrix: np.ndarray) -> None:
        self._vectors, self._mean, self._matrix = vectors, mean, matrix

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return len(self), self._matrix.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """What is read: float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read the rows of a slice, a bool mask or row numbers."""
        found: np.ndarray = (self._vectors[rows].astype(np.float32) - self._mean) @ self._matrix
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Compute all rows."""
        return self[:].astype(dtype or self.dtype, copy=False)


def check_finite(vectors: Vectors, name: str) -> None:
    """Check that embeddings are numbers, all of them, whether they are trained on or not.

    Args:
        vectors: shape (n, input_dim), read in blocks.
        name: of the source whose rows they are, for messages.

    Raises:
        ValueError: for NaN or infinity, also of values beyond float32; the first such row of the source is named.
    """
    block = max(1, _BLOCK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), block):
        finite = np.isfinite(vectors[start : start + block]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(
                f"{name}, row {row} holds NaN or infinity. Leave that row out, or embed its text in float32 again."
            )


Vectors: TypeAlias = np.ndarray | EmbeddingCache | ChunkedVectors | TensorVectors | AffineVectors
"""Embeddings, shape (n, input_dim), in memory or memory-mapped: `vectors[rows]` gives an array of those rows."""


def as_vectors(given: Any, name: str) -> Vectors:
    """Take an array or a tensor as embeddings, without a copy; stack a list of vectors.

    Args:
        given: what `as_float_rows` of `csr_hf.plumbing.float_rows` takes, or vectors already.
        name: for messages.

    Raises:
        ValueError: as `as_float_rows` does.
    """
    if isinstance(given, EmbeddingCache | ChunkedVectors | TensorVectors | AffineVectors):
        return given
    rows = as_float_rows(given, name)
    if not isinstance(rows, np.ndarray):
        return TensorVectors(rows)
    is_read_as_it_is = rows.dtype.isnative and rows.dtype in (np.float16, np.float32)
    return rows if is_read_as_it_is else ChunkedVectors([rows])


def column_vectors(dataset: Dataset, column: str, name: str) -> ChunkedVectors:
    """Take a column of a data set as embeddings, read where it lies.

    Args:
        dataset: rows in memory or memory-mapped.
        column: lists of floats, all of one length.
        name: for messages.

    Raises:
        ValueError: if the column does not hold embeddings of one width; the first such row is named.
    """
    order = None if dataset._indices is None else dataset._indices.column(0).to_numpy()
    return ChunkedVectors(arrow_arrays(dataset.data.column(column), f"column {column!r} of {name}"), order)


def holds_vectors(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds lists of floats."""
    # Lists of one length too, and those of more than 2**31 values.
    return hasattr(kind, "value_type") and str(kind.value_type) in _FLOATS


def arrow_arrays(column: pa.ChunkedArray, name: str, first: int = 0) -> list[np.ndarray]:
    """View the chunks of an Arrow column of lists as arrays of shape (rows, dim).

    Args:
        column: lists of floats, all of one length.
        name: for messages.
        first: number of the first row, for messages.

    Raises:
        ValueError: if it does not hold lists of floats, all of one length; the first such row is named.
    """
    if not holds_vectors(column.type):
        raise ValueError(f"{name} does not hold embeddings but {column.type}. {NEXT_STEP}")
    arrays: list[np.ndarray] = []
    for chunk in column.chunks:
        if len(chunk):
            arrays.append(_view(chunk, arrays[0].shape[1] if arrays else None, name, first))
        first += len(chunk)
    if not arrays:
        raise ValueError(f"{name} is empty: there is nothing to learn from.")
    return arrays


def _view(chunk: pa.Array, width: int | None, name: str, first: int) -> np.ndarray:
    """View a chunk as an array; `first` is the number of its first row."""
    import pyarrow.compute as pc

    lengths = np.where(chunk.is_null().to_numpy(zero_copy_only=False), -1, pc.list_value_length(chunk).fill_null(-1))
    width = int(lengths[0]) if width is None else width
    odd = np.flatnonzero(lengths != width)
    if len(odd) or width < 1:
        row = int(odd[0]) if len(odd) else 0
        held = "nothing" if lengths[row] < 1 else f"{lengths[row]} floats"
        raise ValueError(
            f"{name} does not hold embeddings of one width: row {first + row} holds {held}. Leave out such rows."
        )
    values = chunk.flatten()
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise ValueError(f"{name} has a missing value in row {first + row}. Drop that row.")
    array: np.ndarray = values.to_numpy(zero_copy_only=True).reshape(-1, width)
    return array
