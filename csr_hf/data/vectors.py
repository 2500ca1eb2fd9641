"""Embeddings in whatever holds them, read row by row where they lie: arrays, tensors, columns of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from csr_hf.embedding.cache import EmbeddingCache

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset

_NEXT_STEP = "Give floats; embed texts and images first: by `csr-hf run`, or in Python by `load_backbone(...).embed`."
_FLOATS = ("halffloat", "float", "double")


class ChunkedVectors:
    """Rows of several arrays one after the other; float64 is read as float32.

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
        return np.dtype(np.float16 if self.arrays[0].dtype == np.float16 else np.float32)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read the rows of a slice, a bool mask or row numbers; no other rows are read."""
        places = _row_numbers(rows, len(self))
        if self.order is not None:
            places = self.order[places].astype(np.int64)
        # In their order, the rows of an array lie side by side.
        order = np.argsort(places, kind="stable")
        ends = np.searchsorted(places[order], self._starts)
        found = np.empty((len(places), self.shape[1]), self.dtype)
        for number in np.flatnonzero(np.diff(ends)):
            chosen = order[ends[number] : ends[number + 1]]
            # What is beyond float32 becomes infinite, which training refuses by its row.
            with np.errstate(over="ignore"):
                found[chosen] = self.arrays[number][places[chosen] - self._starts[number]]
        return found

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


Vectors: TypeAlias = np.ndarray | EmbeddingCache | ChunkedVectors | TensorVectors
"""Embeddings, shape (n, input_dim), in memory or memory-mapped: `vectors[rows]` gives an array of those rows."""


def as_vectors(given: Any, name: str) -> Vectors:
    """Take an array or a tensor as embeddings, without a copy.

    Args:
        given: floats of shape (n, input_dim): float16, bfloat16, float32 or float64; vectors already.
        name: for messages.

    Raises:
        ValueError: for integers, texts or anything else, and for another number of axes.
    """
    if isinstance(given, EmbeddingCache | ChunkedVectors | TensorVectors):
        return given
    if isinstance(given, np.ndarray):
        if given.dtype.kind != "f" or given.dtype.itemsize not in (2, 4, 8):
            raise ValueError(f"{name} does not hold embeddings but {_kind_of(given)}. {_NEXT_STEP}")
        _check_axes(given.shape, name)
        return given if given.dtype.itemsize < 8 else ChunkedVectors([given])
    if type(given).__module__.partition(".")[0] == "torch":
        return _tensor_vectors(given, name)
    raise ValueError(f"{name} does not hold embeddings but {_describe(given)}. {_NEXT_STEP}")


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
        raise ValueError(f"{name} does not hold embeddings but {column.type}. {_NEXT_STEP}")
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
        raise ValueError(f"{name} does not hold embeddings of one width: row {first + row} holds {held}.")
    values = chunk.flatten()
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise ValueError(f"{name} has a missing value in row {first + row}. Drop that row.")
    array: np.ndarray = values.to_numpy(zero_copy_only=True).reshape(-1, width)
    return array


def _row_numbers(rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Return the numbers that a slice, a bool mask or numbers choose among `count` rows."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _tensor_vectors(given: Any, name: str) -> Vectors:
    import torch

    if not isinstance(given, torch.Tensor) or given.layout != torch.strided or not given.is_floating_point():
        is_tensor = isinstance(given, torch.Tensor)
        kind = f"{given.dtype}, {given.layout}" if is_tensor else f"a {type(given).__name__}"
        raise ValueError(f"{name} does not hold embeddings but {kind}. {_NEXT_STEP}")
    _check_axes(tuple(given.shape), name)
    given = given.detach()
    if given.device.type == "cpu" and given.dtype in (torch.float16, torch.float32, torch.float64):
        return as_vectors(given.numpy(), name)
    return TensorVectors(given)


def _check_axes(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{name} has the shape {shape}. Embeddings must have the shape (n, input_dim).")


def _kind_of(array: np.ndarray) -> str:
    return "texts" if array.dtype.kind in "US" else str(array.dtype)


def _describe(given: Any) -> str:
    if isinstance(given, str):
        return f"a text ({given[:40]!r})"
    if isinstance(given, list | tuple) and given and isinstance(given[0], str):
        return f"a list of texts ({given[0][:40]!r}, ...)"
    return f"a {type(given).__name__}"
