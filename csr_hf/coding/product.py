"""Keep what a code leaves of an embedding in a byte for each part, which tables of products look up quickly."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from csr_hf.coding.product_kernels import CENTROIDS, encode_parts, fit_part
from csr_hf.plumbing.threads import available_threads, run

FEWEST_ROWS = CENTROIDS
"""Residuals that a fit needs: as many as each part has centroids."""
_ROUNDS = 25
_MOST_ROWS = 10_000
_CHUNK = 1024


class ProductQuantizer:
    """Replaces each part of a residual by the nearest of 256 centroids: one byte a part (Jégou et al. 2011).

    Parts are neighboring dimensions. Where their number does not divide the width, the first ones are wider by one.

    Args:
        centroids: of each part, float32, shape (bytes, width of the widest part, 256), zeros beyond a part's width.
        dim: width of a residual. Default: all parts are equally wide.

    Raises:
        ValueError: if centroids have another type or shape, one is NaN or infinite, or `dim` does not fit them.
    """

    kind: ClassVar[str] = "product quantization"

    def __init__(self, centroids: np.ndarray, dim: int | None = None) -> None:
        if centroids.dtype != np.float32 or centroids.ndim != 3 or centroids.shape[2] != CENTROIDS:
            found = f"{centroids.dtype}, {centroids.shape}"
            raise ValueError(f"`centroids` ({found}) must be float32 with the shape (bytes, width of a part, 256).")
        if not np.isfinite(centroids).all():
            raise ValueError("`centroids` holds NaN or infinity. Fit them again.")
        size, widest, _ = centroids.shape
        self.dim = size * widest if dim is None else dim
        """Width of a residual."""
        if not 0 < size * (widest - 1) < self.dim <= size * widest and (size, widest) != (self.dim, 1):
            raise ValueError(f"`centroids` ({size} parts of {widest} dimensions) are not for {self.dim} dimensions.")
        self.starts = part_starts(self.dim, size)
        """Where parts begin, and the width, int64, shape (bytes + 1,)."""
        for part in np.flatnonzero(np.diff(self.starts) < widest):
            if centroids[part, -1].any():
                raise ValueError(f"`centroids[{part}, {widest - 1}]` must be zeros: that part is not so wide.")
        self.centroids = np.ascontiguousarray(centroids)
        self._lengths = (self.centroids**2).sum(axis=1) / 2

    @classmethod
    def fit(cls, residuals: np.ndarray, size: int) -> ProductQuantizer:
        """Find centroids by k-means.

        Args:
            residuals: what codes of training embeddings leave of them, shape (n, dim); 10,000 of them are used.
            size: bytes, at most the dim.

        Raises:
            ValueError: if `size` is out of range, or there are fewer than 256 residuals.
        """
        dim = residuals.shape[1]
        if not 1 <= size <= dim:
            raise ValueError(f"`size` ({size}) must be between 1 and the width of the embeddings ({dim}).")
        if len(residuals) < FEWEST_ROWS:
            raise ValueError(f"residual codes need {FEWEST_ROWS} training embeddings; there are {len(residuals)}.")
        chosen = np.random.default_rng(0).permutation(len(residuals))[:_MOST_ROWS]
        rows = np.asarray(residuals[np.sort(chosen)], np.float32)
        starts = part_starts(dim, size)
        centroids = np.zeros((size, starts[1], CENTROIDS), np.float32)

        def fit(part: int) -> None:
            own = np.ascontiguousarray(rows[:, starts[part] : starts[part + 1]])
            first = np.random.default_rng(part).permutation(len(own))[:CENTROIDS]
            fitted = np.ascontiguousarray(own[first].T)
            fit_part(own, fitted, _ROUNDS)
            centroids[part, : len(fitted)] = fitted

        run(fit, [(part,) for part in range(size)], available_threads())
        return cls(centroids, dim)

    @property
    def size(self) -> int:
        """Bytes of a residual."""
        return len(self.centroids)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {"centroids": self.centroids}

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Find the nearest centroids, uint8, shape (n, size)."""
        rows, codes = np.ascontiguousarray(residuals, np.float32), np.empty((len(residuals), self.size), np.uint8)
        parts = self.starts, self.centroids, self._lengths
        chunks = range(0, len(rows), _CHUNK)
        tasks = [(rows[first : first + _CHUNK], *parts, codes[first : first + _CHUNK]) for first in chunks]
        run(encode_parts, tasks, available_threads())
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Put the centroids of codes side by side, float32, shape (n, dim)."""
        decoded = np.empty((len(codes), self.dim), np.float32)
        for part, centroids in enumerate(self.centroids):
            first, stop = self.starts[part : part + 2]
            decoded[:, first:stop] = centroids[: stop - first, codes[:, part]].T
        return decoded


def part_starts(dim: int, parts: int) -> np.ndarray:
    """Divide dimensions into parts, the first ones wider by one where the number does not divide them.

    Returns:
        where parts begin, and `dim`, int64, shape (parts + 1,).
    """
    width, wider = divmod(dim, parts)
    return np.r_[0, np.cumsum(np.where(np.arange(parts) < wider, width + 1, width))]
