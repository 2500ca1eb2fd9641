"""What a user can have without CSR: cheaper dense vectors, compared by inner product with a float query.

Each baseline is fitted on training embeddings (or needs no fit) and gives the vectors that a search would compare;
`bytes_per_vector` is what it stores of a document.
"""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from csr_hf.evaluation.neighbors import unit_rows

_CENTROIDS = 256
_TRAIN_ROWS = 10_240
_ITERATIONS = 15


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
    """The first `dims` dimensions in float16, renormalized; what Matryoshka models are trained for."""

    dims: int
    name: str = "truncation"

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The prefixes."""
        return unit_rows(embeddings[:, : self.dims])


class PCA(_Float16Projection):
    """The `dims` directions of largest variance of the training embeddings, in float16, renormalized.

    Args:
        train: embeddings to fit on, shape (n, dim).
        dims: directions to keep.
    """

    name = "PCA"

    def __init__(self, train: np.ndarray, dims: int) -> None:
        self.dims = dims
        self.mean = train.mean(axis=0, dtype=np.float64)
        centered = train.astype(np.float64) - self.mean
        _, vectors = np.linalg.eigh(centered.T @ centered)
        self.directions = vectors[:, ::-1][:, :dims].astype(np.float32)

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The projections."""
        return unit_rows((embeddings.astype(np.float32) - self.mean.astype(np.float32)) @ self.directions)


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


class ProductQuantization:
    """One byte for each part of the vector: its nearest of 256 centroids, by k-means on training embeddings.

    Args:
        train: embeddings to learn the centroids on, shape (n, dim); 10,240 of them are used.
        size: bytes, that is parts; some are one dimension wider than others where it does not divide the width.

    Raises:
        ImportError: if scikit-learn is missing, with the line to type.
        ValueError: if there are fewer than 256 training embeddings, or more bytes than dimensions.
    """

    name = "PQ"

    def __init__(self, train: np.ndarray, size: int) -> None:
        try:
            from sklearn.cluster import KMeans
        except ImportError as error:
            raise ImportError('product quantization needs scikit-learn: pip install "csr_hf[eval]"') from error
        if not 1 <= size <= train.shape[1]:
            raise ValueError(f"product quantization to {size} bytes needs that many of {train.shape[1]} dimensions.")
        if len(train) < _CENTROIDS:
            raise ValueError(f"product quantization needs {_CENTROIDS} training embeddings; there are {len(train)}.")
        self.bytes_per_vector = size
        rows = np.random.default_rng(0).permutation(len(train))[:_TRAIN_ROWS]
        means = KMeans(_CENTROIDS, init="random", n_init=1, max_iter=_ITERATIONS, tol=0, random_state=0)
        with warnings.catch_warnings():
            # Fewer distinct values than centroids are no defect.
            warnings.simplefilter("ignore")
            self.centroids = [means.fit(part).cluster_centers_ for part in self._parts(train[rows])]

    def documents(self, embeddings: np.ndarray) -> np.ndarray:
        """The centroids."""
        from sklearn.metrics import pairwise_distances_argmin

        parts = zip(self._parts(embeddings), self.centroids, strict=True)
        stored = [centroids[pairwise_distances_argmin(part, centroids)] for part, centroids in parts]
        return np.concatenate(stored, axis=1).astype(np.float32)

    def queries(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings themselves."""
        return embeddings.astype(np.float32)

    def _parts(self, embeddings: np.ndarray) -> list[np.ndarray]:
        parts = np.array_split(embeddings.astype(np.float32), self.bytes_per_vector, axis=1)
        return [np.ascontiguousarray(part) for part in parts]


NAMES = ("truncate", "pca", "int8", "binary", "pq")
"""What `make_baselines` knows."""


def make_baselines(names: Sequence[str], train: np.ndarray | None, dim: int, budgets: Sequence[int]) -> list[Baseline]:
    """Baselines by name; those of any size once for each budget.

    Args:
        names: of `NAMES`.
        train: embeddings to fit on, shape (n, dim); without them only truncation and binary can be had.
        dim: width of the embeddings.
        budgets: bytes of a vector.

    Raises:
        ValueError: for an unknown name; the nearest is named.
        ImportError: if product quantization is wanted and scikit-learn is missing.
    """
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(NAMES)}."
            raise ValueError(f"baseline {name!r} is unknown. {hint}")
    made: list[Baseline] = []
    if "truncate" in names:
        made += [Truncation(dims) for dims in _kept_dims(budgets, dim)]
    if "pca" in names and train is not None:
        made += [PCA(train, dims) for dims in _kept_dims(budgets, dim)]
    if "pq" in names and train is not None:
        made += [ProductQuantization(train, size) for size in sorted({min(size, dim) for size in budgets})]
    if "int8" in names and train is not None:
        made.append(Int8(train))
    if "binary" in names:
        made.append(Binary(dim))
    return made


def _kept_dims(budgets: Sequence[int], dim: int) -> list[int]:
    return sorted({min(dim, size // 2) for size in budgets})
