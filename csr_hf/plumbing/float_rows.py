"""Take embeddings as rows of floats, whatever array, tensor or list holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

NEXT_STEP = "Give floats; embed texts and images first: by `csr-hf run`, or in Python by `load_backbone(...).embed`."
_SIZES = (2, 4, 8)
_SERIES_PACKAGES = ("pandas", "polars", "pyarrow")


def as_float_rows(given: Any, name: str) -> np.ndarray | torch.Tensor:
    """Return embeddings as an array, or as a tensor where NumPy cannot share it.

    Arrays and tensors on the CPU are not copied. Lists, Series and iterables of vectors are stacked.

    Args:
        given: floats of shape (n, dim): float16, float32, float64 or bfloat16, in any layout and byte order; or n
            vectors of one width.
        name: of the argument, for messages.

    Returns:
        An array of floats, shape (n, dim), perhaps not contiguous, of another byte order or of ml_dtypes' bfloat16; or
        a tensor that is bfloat16 or on another device.

    Raises:
        ValueError: for integers, texts, a table or anything else that holds no floats, another number of axes, masked
            values, or vectors of several widths (the first other one is named).
    """
    package = type(given).__module__.partition(".")[0]
    if package == "torch":
        return _take_tensor(given, name)
    if isinstance(given, np.ndarray):
        return _take_array(given, name)
    if isinstance(given, str | bytes | Set | Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"{name} does not hold embeddings but {_describe(given)}. {NEXT_STEP}")
    if package in (*_SERIES_PACKAGES, "datasets") and (hasattr(given, "columns") or hasattr(given, "column_names")):
        raise ValueError(
            f"{name} is a {type(given).__name__}, no embeddings. Give its numbers, df.to_numpy(), or the column that "
            'holds vectors, df["embedding"].'
        )
    return _stack(given, name)


def to_array(given: Any) -> np.ndarray:
    """Return an array as it is, a tensor of any device and type as one that numpy has, and make one of all else."""
    if isinstance(given, np.ndarray):
        return given
    if type(given).__module__.partition(".")[0] == "torch":
        given = given.detach().cpu()
        return (given.float() if given.is_floating_point() and given.element_size() == 2 else given).numpy()
    return np.asarray(given)


def is_float(dtype: np.dtype) -> bool:
    """Tell whether embeddings may have a type: a float of 2, 4 or 8 bytes, or bfloat16 of ml_dtypes."""
    return (dtype.kind == "f" and dtype.itemsize in _SIZES) or dtype.name == "bfloat16"


def _take_array(array: np.ndarray, name: str) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ValueError(f"{name} has masked values. Fill them, array.filled(0), or drop those rows.")
    if array.dtype == object and array.ndim == 1:
        return _stack(array, name)
    if not is_float(array.dtype):
        raise ValueError(f"{name} does not hold embeddings but {_kind(array)}. {NEXT_STEP}")
    _check_axes(array.shape, name)
    # Other subclasses index in other ways.
    return array if type(array) in (np.ndarray, np.memmap) else array.view(np.ndarray)


def _take_tensor(given: Any, name: str) -> np.ndarray | torch.Tensor:
    import torch

    if (
        not isinstance(given, torch.Tensor)
        or given.layout != torch.strided
        or given.is_meta
        or not given.is_floating_point()
        or given.element_size() not in _SIZES
    ):
        is_tensor = isinstance(given, torch.Tensor)
        kind = f"{given.dtype}, {given.layout}, on {given.device}" if is_tensor else f"a {type(given).__name__}"
        raise ValueError(f"{name} does not hold embeddings but {kind}. {NEXT_STEP}")
    _check_axes(tuple(given.shape), name)
    given = given.detach()
    shared: np.ndarray | torch.Tensor = given
    if given.device.type == "cpu" and given.dtype != torch.bfloat16:
        shared = given.resolve_neg().numpy()
    return shared


def _stack(given: Iterable[Any], name: str) -> np.ndarray:
    """Stack vectors into an array of their common type."""
    convert = next((getattr(given, other) for other in ("to_pylist", "to_list") if hasattr(given, other)), None)
    rows = [_as_vector(row) for row in (convert() if convert else given)]
    if not rows:
        raise ValueError(f"{name} is empty: there are no embeddings in it.")
    for number, row in enumerate(rows):
        if row.ndim == 0 and is_float(row.dtype):
            raise ValueError(f"{name} is one vector of numbers. Give a list of vectors: [vector].")
        if row.ndim == 0 or not is_float(row.dtype):
            what = _describe(given) if number == 0 and row.ndim == 0 else f"{_kind(row)} in row {number}"
            raise ValueError(f"{name} does not hold embeddings but {what}. {NEXT_STEP}")
        if row.ndim != 1 or len(row) != len(rows[0]):
            raise ValueError(
                f"{name} does not hold vectors of one width: row {number} has the shape {row.shape}, row 0 "
                f"{rows[0].shape}."
            )
    array = np.stack([row.astype(np.float32) if row.dtype.name == "bfloat16" else row for row in rows])
    _check_axes(array.shape, name)
    return array


def _as_vector(row: Any) -> np.ndarray:
    """Return one of several vectors as an array; what is none has no axis or no floats."""
    try:
        return to_array(row)
    except ValueError:
        # Lists of several lengths make no array.
        return np.asarray(None)


def _check_axes(shape: tuple[int, ...], name: str) -> None:
    if len(shape) == 1:
        raise ValueError(
            f"{name} has the shape {shape}. Embeddings must have the shape (n, input_dim): one is vector[None]."
        )
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{name} has the shape {shape}. Embeddings must have the shape (n, input_dim).")


def _kind(array: np.ndarray) -> str:
    return "texts" if array.dtype.kind in "US" else "nothing" if array.dtype == object else str(array.dtype)


def _describe(given: Any) -> str:
    if isinstance(given, str):
        return f"a text ({given[:40]!r})"
    if isinstance(given, list | tuple) and given and isinstance(given[0], str):
        return f"a list of texts ({given[0][:40]!r}, ...)"
    return f"a {type(given).__name__}"
