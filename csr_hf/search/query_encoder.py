"""What queries need of the head and its coder, as NumPy arrays: inner products with stored documents need no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.coding.scalar import ScalarQuantizer, divide_axes, order_axes
from csr_hf.plumbing.float_rows import to_array
from csr_hf.plumbing.jit import frozen
from csr_hf.search.build.signs import make_rotation
from csr_hf.search.kernels.dots import LANES
from csr_hf.search.kernels.group import QueryTables
from csr_hf.search.kernels.products import Factors
from csr_hf.search.kernels.queries import bring_to_unit_norm

if TYPE_CHECKING:
    from csr_hf.coding.coder import Coder


_SMALLEST_NORM = 1e-12


class QueryEncoder(NamedTuple):
    """The head's decoder, the axes of residuals, and what tells which partitions to visit."""

    atoms: np.ndarray
    """Of the dictionary, float32, shape (hidden_dim, input_dim)."""
    bias: np.ndarray
    """What is added to every decoded code, float32, shape (input_dim,)."""
    residual: np.ndarray
    """Axes of residuals, float32, shape (axes, input_dim); none where there is no residual."""
    rotation: np.ndarray
    """Orthogonal, float32, shape (input_dim, input_dim)."""
    centers: np.ndarray
    """Of the partitions, float32, shape (partitions, input_dim)."""

    @classmethod
    def of(cls, coder: Coder, centers: np.ndarray, seed: int = 0) -> QueryEncoder:
        """Take the arrays of a coder."""
        atoms, bias = (_to_numpy(part) for part in (coder.head.dictionary, coder.head.pre_bias))
        residual = _axes_of(coder)
        rotation = make_rotation(len(bias), seed)
        return cls(*(frozen(array) for array in (atoms.copy(), bias.copy(), residual, rotation, centers)))

    def make_tables(self, settings: dict[str, Any]) -> QueryTables:
        """Make what searches read.

        Args:
            settings: of the index; what rows decode to is divided by the "norm" that they were brought to before.
        """
        scale, size = np.float32(settings["norm"]), settings["residual_bytes"]
        divided = divide_axes(self.input_dim, size) if size else (0, 0)
        return QueryTables(
            Factors.of(self.rotation, fine=False),
            Factors.of(self.centers, fine=False),
            Factors.of(self.atoms / scale, fine=True),
            frozen(self.bias / scale),
            Factors.of(self.residual / scale, fine=True),
            frozen(order_axes(*divided, LANES)),
            divided[0],
        )

    @property
    def input_dim(self) -> int:
        """Width of the embeddings."""
        return int(self.atoms.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self)


def _axes_of(coder: Coder) -> np.ndarray:
    if coder.residual is None:
        return np.empty((0, coder.head.config.input_dim), np.float32)
    if not isinstance(coder.residual, ScalarQuantizer):
        raise ValueError("an index takes residuals by scalar quantization alone: make its coder by fit_index_coder.")
    return coder.residual.axes


def _to_numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def check_queries(queries: Any, input_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return dense queries as float32 rows of unit norm, and their norms, shape (n, 1); zeros stay.

    Args:
        queries: shape (n, input_dim), floats.
        input_dim: of the index.

    Raises:
        ValueError: for another shape or type, and values that are not finite.
    """
    rows = to_array(queries)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != input_dim:
        raise ValueError(
            f"`queries` ({rows.dtype}, {rows.shape}) must be floats of the shape (n, {input_dim}): one query is "
            "vector[None]."
        )
    with np.errstate(over="ignore"):
        given = frozen(rows, np.float32)
    scaled, norms = np.empty(given.shape, np.float32), np.empty((len(given), 1), np.float32)
    wrong = bring_to_unit_norm(given, scaled, norms)
    if wrong >= 0:
        raise ValueError(f"`queries` holds NaN or infinity in row {wrong}.")
    return scaled, norms


def check_encoder(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Check arrays that were read from a file.

    Args:
        arrays: by the names of `QueryEncoder`.
        settings: of the index.

    Raises:
        ValueError: naming what is wrong.
    """
    if not (isinstance(settings["norm"], float) and _SMALLEST_NORM <= settings["norm"] <= 1 / _SMALLEST_NORM):
        raise ValueError(f"norm is {settings['norm']!r}")
    dim, width, size = settings["dim"], settings["input_dim"], settings["residual_bytes"]
    whole, half = divide_axes(width, size) if size else (0, 0)
    shapes = {"atoms": (dim, width), "bias": (width,), "residual": (whole + 2 * half, width)}
    shapes |= {"rotation": (width, width), "centers": (settings["partitions"], width)}
    if set(arrays) != set(shapes):
        raise ValueError(f"it holds {sorted(arrays)} instead of {sorted(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float32 or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape} instead of float32 {shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
