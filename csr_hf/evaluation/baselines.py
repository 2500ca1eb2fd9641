"""What a user can have without CSR: cheaper dense vectors, compared by inner product with a float query.

Each baseline is fitted on training embeddings (or needs no fit) and gives the vectors that a search would compare;
`bytes_per_vector` is what it stores of a document.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Baseline(Protocol):
    """A way to store documents in fewer bytes."""

    name: str

    @property
    def bytes_per_vector(self) -> int:
        """Bytes stored of a document."""
        ...

    def documents(self, embeddings: np.ndarray) -> np.ndarray:
        """The stored vectors, decoded to float32, shape (n, anything)."""
        ...

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Float32 vectors to compare with them."""
        ...


class _Float16Projection(ABC):
    """Fewer dimensions, two bytes each; a subclass says which ones."""

    dims: int

    @property
    def bytes_per_vector(self) -> int:
        """Two bytes a dimension."""
        return 2 * self.dims

    @abstractmethod
    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Unit vectors of `dims` dimensions."""

    def documents(self, embeddings: np.ndarray) -> np.ndarray:
        """The same as float16 keeps them."""
        return self.queries(embeddings).astype(np.float16).astype(np.float32)


@dataclass
class Truncation(_Float16Projection):
    """The first `dims` dimensions in float16, renormalised; what Matryoshka models are trained for."""

    dims: int
    name: str = "truncation"

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The prefixes."""
        return _unit(embeddings[:, : self.dims])


class PCA(_Float16Projection):
    """The `dims` directions of largest variance of the training embeddings, in float16, renormalised.

    Args:
        train: embeddings to fit on, shape (n, dim).
        dims: directions to keep.
    """

    name = "PCA"

    def __init__(self, train: np.ndarray, dims: int) -> None:
        self.dims = dims
        self.mean = train.mean(axis=0, dtype=np.float64)
        centred = train.astype(np.float64) - self.mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        self.directions = vectors[:, ::-1][:, :dims].astype(np.float32)

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The projections."""
        return _unit((embeddings.astype(np.float32) - self.mean.astype(np.float32)) @ self.directions)


class Int8:
    """One byte a dimension, scaled by each dimension's range in the training embeddings; the query stays float.

    Args:
        train: embeddings that give the ranges, shape (n, dim).
    """

    name = "int8"

    def __init__(self, train: np.ndarray) -> None:
        self.low = train.min(axis=0).astype(np.float32)
        self.step = np.maximum((train.max(axis=0).astype(np.float32) - self.low) / 255, 1e-12)

    @property
    def bytes_per_vector(self) -> int:
        """One byte a dimension."""
        return len(self.low)

    def documents(self, embeddings: np.ndarray) -> np.ndarray:
        """Decoded bytes."""
        levels = np.clip(np.rint((embeddings.astype(np.float32) - self.low) / self.step), 0, 255)
        return levels * self.step + self.low

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings themselves."""
        return embeddings.astype(np.float32)


@dataclass
class Binary:
    """The sign of each dimension, one bit; the query stays float."""

    dim: int
    name: str = "binary"

    @property
    def bytes_per_vector(self) -> int:
        """One bit a dimension."""
        return -(-self.dim // 8)

    def documents(self, embeddings: np.ndarray) -> np.ndarray:
        """+1 and -1."""
        return np.where(embeddings > 0, np.float32(1), np.float32(-1))

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings themselves."""
        return embeddings.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
