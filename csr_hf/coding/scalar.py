"""Keep what a code leaves of an embedding in half a byte or a byte for each axis, which is quick to multiply with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from csr_hf.coding.scalar_kernels import SCALE_BYTES, SHARED, STEPS, read_levels, write_levels
from csr_hf.plumbing.threads import available_threads, run

FEWEST_ROWS = 256
"""Residuals that a fit needs."""
_MOST_ROWS = 10_000
_CHUNK = 4096
_SMALLEST = 1e-12
_LARGEST_HALF = 65_504.0


class ScalarQuantizer:
    """Rounds residuals along their principal axes: a scale for each, and 16 or 256 levels for each axis.

    A residual of `size` bytes is a scale, float16; then a byte for each of the first `whole` axes; then a byte for
    two of the others. Axes of the least variance are left out where bytes do not suffice for all. Both kinds of axes
    are rotated among themselves, so that values are nearly normal and of one variance; the 16 levels are those that
    are best for such values (Max 1960, Lloyd 1982).

    Args:
        axes: orthogonal, times what a level is worth along each where the scale is one, float32, shape (m, dim).
        size: bytes of a residual, the scale among them.

    Raises:
        ValueError: if axes have another type or shape than `size` asks for, or one is NaN, infinite or zero.
    """

    kind: ClassVar[str] = "scalar quantization"

    def __init__(self, axes: np.ndarray, size: int) -> None:
        if axes.dtype != np.float32 or axes.ndim != 2:
            raise ValueError(
                f"`axes` ({axes.dtype}, {axes.shape}) must be float32 with the shape (m, dim). Take those of `fit`."
            )
        self.whole, self.half = divide_axes(axes.shape[1], size)
        if len(axes) != self.whole + 2 * self.half:
            raise ValueError(
                f"`axes` has {len(axes)} rows; {size} bytes take {self.whole + 2 * self.half}. Fit them again."
            )
        lengths = np.einsum("ij,ij->i", axes.astype(np.float64), axes)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ValueError("`axes` holds NaN, infinity, or a row of zeros. Fit them again.")
        self.axes, self.size = np.ascontiguousarray(axes), size
        self._inverse = np.asarray(axes / lengths[:, None], np.float32).T.copy()

    @classmethod
    def fit(cls, residuals: np.ndarray, size: int) -> ScalarQuantizer:
        """Find the axes.

        Args:
            residuals: what codes of training embeddings leave of them, shape (n, dim); 10,000 of them are used.
            size: bytes of a residual: 3 up to two more than the dim.

        Raises:
            ValueError: if `size` is out of range, or there are fewer than 256 residuals.
        """
        whole, half = divide_axes(residuals.shape[1], size)
        if len(residuals) < FEWEST_ROWS:
            raise ValueError(f"residual codes need {FEWEST_ROWS} training embeddings; there are {len(residuals)}.")
        chosen = np.random.default_rng(0).permutation(len(residuals))[:_MOST_ROWS]
        rows = np.asarray(residuals[np.sort(chosen)], np.float64)
        variances, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        principal, variances = vectors[:, ::-1].T, variances[::-1]
        rng, parts = np.random.default_rng(0), []
        for first, count, step in ((0, whole, STEPS[0]), (whole, 2 * half, STEPS[1])):
            if count:
                turned = np.linalg.qr(rng.normal(size=(count, count)))[0] @ principal[first : first + count]
                spread = np.sqrt(max(variances[first : first + count].mean(), _SMALLEST))
                parts.append(turned * (spread * step))
        return cls(np.concatenate(parts).astype(np.float32), size)

    @property
    def dim(self) -> int:
        """Width of a residual."""
        return int(self.axes.shape[1])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {"axes": self.axes}

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Round residuals, uint8, shape (n, size)."""
        rows, codes = np.ascontiguousarray(residuals, np.float32), np.empty((len(residuals), self.size), np.uint8)

        def encode(first: int) -> None:
            own = slice(first, first + _CHUNK)
            scales = np.empty(len(rows[own]), np.float32)
            write_levels(rows[own] @ self._inverse, self.whole, codes[own], scales)
            halves = np.minimum(scales, _LARGEST_HALF).astype("<f2")
            codes[own, :SCALE_BYTES] = halves.view(np.uint8).reshape(-1, SCALE_BYTES)

        run(encode, [(first,) for first in range(0, len(rows), _CHUNK)], available_threads())
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Turn codes back into residuals, float32, shape (n, dim)."""
        levels = np.empty((len(codes), len(self.axes)), np.float32)
        read_levels(np.ascontiguousarray(codes), self.whole, levels)
        return levels @ self.axes


def divide_axes(dim: int, size: int) -> tuple[int, int]:
    """Divide the bytes of a residual: the more bytes, the more axes; once all have half a byte, some get a whole one.

    Args:
        dim: width of a residual.
        size: bytes, those of the scale among them.

    Returns:
        axes of a byte, and bytes that two axes share.

    Raises:
        ValueError: if `size` is less than 3, or more than two above the dim.
    """
    if not SCALE_BYTES < size <= dim + SCALE_BYTES:
        raise ValueError(
            f"`size` ({size}) of a residual must be between {SCALE_BYTES + 1} and {dim + SCALE_BYTES}: a scale, and a "
            "byte for each dimension at most."
        )
    left = size - SCALE_BYTES
    whole = max(0, 2 * left - dim)
    return whole, left - whole


def order_axes(whole: int, half: int, lanes: int) -> np.ndarray:
    """List axes in the order in which a search multiplies them, int32, -1 for none.

    Bytes are read in blocks, those that two axes share in blocks of `SHARED`, whose lower axes come first. The last
    block of each kind ends where its bytes end, and what it reads again counts nothing.

    Args:
        whole: axes of a byte.
        half: bytes that two axes share.
        lanes: bytes of a block of whole axes.
    """
    shared = _in_blocks(half, SHARED).reshape(-1, min(half, SHARED) or 1)
    lower, upper = (np.where(shared >= 0, first + shared, -1) for first in (whole, whole + half))
    return np.concatenate([_in_blocks(whole, lanes), np.stack([lower, upper], axis=1).ravel()]).astype(np.int32)


def _in_blocks(count: int, width: int) -> np.ndarray:
    """Number bytes by block, -1 for those that the last block reads again; in order where they fill no block."""
    if count < width:
        return np.arange(count)
    full = count - count % width
    last = np.arange(count - width, count)
    again = np.where(last < full, -1, last)
    return np.concatenate([np.arange(full), again if count > full else np.empty(0, np.int64)])
