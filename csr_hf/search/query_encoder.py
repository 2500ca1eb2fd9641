"""What queries need of the head and its coder, as NumPy arrays: inner products with stored documents need no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen

if TYPE_CHECKING:
    from csr_hf.coding.coder import Coder


class QueryEncoder(NamedTuple):
    """The head's decoder and the centroids of residual codes."""

    atoms: np.ndarray
    """Of the dictionary, float32, shape (hidden_dim, input_dim)."""
    bias: np.ndarray
    """What is added to every decoded code, float32, shape (input_dim,)."""
    residual: np.ndarray
    """Centroids of the residual, float32, shape (bytes, 256, width of a part); no bytes where there is no residual."""

    @classmethod
    def of(cls, coder: Coder) -> QueryEncoder:
        """Take the arrays of a coder."""
        atoms, bias = (_to_numpy(part) for part in (coder.head.dictionary, coder.head.pre_bias))
        residual = np.empty((0, 256, 1), np.float32) if coder.residual is None else coder.residual.centroids
        return cls(frozen(atoms.copy()), frozen(bias.copy()), frozen(residual))

    @property
    def input_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.atoms.shape[1])

    def project(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute inner products with all atoms, shape (n, hidden_dim), and with the bias, shape (n,)."""
        return queries @ self.atoms.T, queries @ self.bias


def _to_numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def check_queries(queries: Any, input_dim: int, *, unit: bool) -> np.ndarray:
    """Return dense queries as float32 rows, of unit norm for cosines.

    Args:
        queries: shape (n, input_dim), floats.
        input_dim: of the index.
        unit: divide by norms; a query of zeros stays.

    Raises:
        ValueError: for another shape or type, and values that are not finite.
    """
    rows = np.asarray(queries)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != input_dim:
        raise ValueError(
            f"`queries` ({rows.dtype}, {rows.shape}) must be floats of the shape (n, {input_dim}): one query is "
            "vector[None]."
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(rows, np.float32)
    largest = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError(f"`queries` holds NaN or infinity in row {int(np.argmin(np.isfinite(largest[:, 0])))}.")
    if not unit:
        return rows
    # Squares of what is large or small would overflow or vanish.
    rows = rows / np.where(largest > 0, largest, 1)
    norms: np.ndarray = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1)


def check_encoder(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Check arrays that were read from a file.

    Args:
        arrays: by the names of `QueryEncoder`.
        settings: of the index.

    Raises:
        ValueError: naming what is wrong.
    """
    dim, width, size = settings["dim"], settings["input_dim"], settings["residual_bytes"]
    shapes = {"atoms": (dim, width), "bias": (width,), "residual": (size, 256, width // size if size else 1)}
    if set(arrays) != set(shapes):
        raise ValueError(f"it holds {sorted(arrays)} instead of {sorted(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float32 or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape} instead of float32 {shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
