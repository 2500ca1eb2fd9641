"""Keep what a code leaves of an embedding in a few more bytes, by product quantization."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.faiss_fits import import_faiss, threads_for

FEWEST_ROWS = 256
"""Residuals that a fit needs: as many as each part has centroids."""
_CENTROIDS, _ITERATIONS = FEWEST_ROWS, 15
_MOST_ROWS = 10_000
_CHUNK = 4096


class ResidualQuantizer:
    """Replaces each part of a residual by the nearest of 256 centroids: one byte a part (Jégou et al. 2011).

    Args:
        centroids: of each part, float32, shape (bytes, 256, width of a part).

    Raises:
        ValueError: if they have another type or shape, or one is NaN or infinite.
    """

    def __init__(self, centroids: np.ndarray) -> None:
        if centroids.dtype != np.float32 or centroids.ndim != 3 or centroids.shape[1] != _CENTROIDS:
            found = f"{centroids.dtype}, {centroids.shape}"
            raise ValueError(f"`centroids` ({found}) must be float32 with the shape (bytes, 256, width of a part).")
        if not np.isfinite(centroids).all():
            raise ValueError("`centroids` holds NaN or infinity. Fit them again.")
        self.centroids = centroids
        self._lengths = (centroids**2).sum(axis=2) / 2

    @classmethod
    def fit(cls, residuals: np.ndarray, size: int) -> ResidualQuantizer:
        """Find centroids by k-means.

        Args:
            residuals: what codes of training embeddings leave of them, shape (n, dim); 10,000 of them are used.
            size: bytes; they must divide the dim.

        Raises:
            ValueError: if `size` does not divide the dim, or there are fewer than 256 residuals.
            ImportError: if faiss is missing, with the line to type.
        """
        faiss = import_faiss()
        dim = residuals.shape[1]
        if size < 1 or dim % size:
            raise ValueError(f"`size` ({size}) must divide the width of the embeddings ({dim}).")
        if len(residuals) < _CENTROIDS:
            raise ValueError(f"residual codes need {_CENTROIDS} training embeddings; there are {len(residuals)}.")
        quantizer = faiss.ProductQuantizer(dim, size, 8)
        # Few rows are worth a quantizer too; faiss would print a warning for each part.
        quantizer.cp.min_points_per_centroid = 1
        quantizer.cp.niter = _ITERATIONS
        rows = np.random.default_rng(0).permutation(len(residuals))[:_MOST_ROWS]
        with threads_for(faiss, len(rows)):
            quantizer.train(np.ascontiguousarray(residuals[np.sort(rows)], np.float32))
        return cls(faiss.vector_to_array(quantizer.centroids).reshape(size, _CENTROIDS, dim // size).copy())

    @property
    def size(self) -> int:
        """Bytes of a residual."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """Width of a residual."""
        return self.size * self.centroids.shape[2]

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Find the nearest centroids, uint8, shape (n, size)."""
        codes = np.empty((len(residuals), self.size), np.uint8)
        width = self.centroids.shape[2]
        for start in range(0, len(residuals), _CHUNK):
            rows = residuals[start : start + _CHUNK]
            for part, centroids in enumerate(self.centroids):
                closeness = rows[:, part * width : (part + 1) * width] @ centroids.T - self._lengths[part]
                codes[start : start + _CHUNK, part] = closeness.argmax(axis=1)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Put the centroids of codes side by side, float32, shape (n, dim)."""
        return self.centroids[np.arange(self.size), codes].reshape(len(codes), -1)
