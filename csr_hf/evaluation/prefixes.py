"""Methods that keep the first dimensions of a vector: its own, its principal components, or those of an adapter."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import VectorMethod

_SCALE_BYTES = 4
_LEVELS = 127


class PrefixFormat(NamedTuple):
    """How a prefix is stored."""

    dims: int
    """Dimensions that are kept."""
    precision: str
    """"int8" or "float16"."""
    size: int
    """Bytes of a document."""


def choose_format(budget: int, width: int, similarity: Similarity) -> PrefixFormat:
    """Choose what keeps most of a vector of a width within a budget of bytes.

    Twice as many dimensions in eight bits keep more than half of them in sixteen, so that a prefix is stored in int8
    until the whole vector fits in float16. Each document is scaled by its largest component. Cosine needs no scale to
    compare by; for other similarities it takes four bytes.

    Args:
        budget: bytes of a document at most.
        width: of the whole vector.
        similarity: what the embeddings are compared by.

    Returns:
        The format; of 0 dimensions where the budget holds none.
    """
    if budget >= 2 * width:
        return PrefixFormat(width, "float16", 2 * width)
    scale = 0 if similarity == "cosine" else _SCALE_BYTES
    dims = max(0, min(width, budget - scale))
    return PrefixFormat(dims, "int8", dims + scale)


class Prefix(VectorMethod):
    """The first dimensions of rows that a subclass projects, renormalized for cosine.

    Args:
        format: of `choose_format`.
        similarity: what the embeddings are compared by.
        fit: identifies what the projection was fitted on, for `settings`.
    """

    def __init__(self, format: PrefixFormat, similarity: Similarity = "cosine", fit: str = "") -> None:
        super().__init__(format.size, similarity, fit)
        self.format = format

    @abstractmethod
    def project(self, rows: np.ndarray) -> np.ndarray:
        """Compute the first dimensions of rows of `rows_for`, shape (n, dims)."""

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Cut off the prefixes."""
        return rows_for(self.project(rows), self.similarity)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Round the prefixes to what is stored."""
        return rows_for(self.round(self.query(rows)), self.similarity)

    def round(self, rows: np.ndarray) -> np.ndarray:
        """Round to float16, or to multiples of a 127th of each row's largest component."""
        if self.format.precision == "float16":
            return rows.astype(np.float16).astype(np.float32)
        step = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / _LEVELS, np.float32(1e-30))
        return np.rint(rows / step) * step

    @property
    def settings(self) -> dict[str, Any]:
        """Besides name, bytes and fit how many dimensions are stored, and how."""
        return {**super().settings, "dims": self.format.dims, "precision": self.format.precision}


class Truncation(Prefix):
    """The first dimensions of the embeddings; Matryoshka models are trained for this."""

    name = "truncation"

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Cut off the other dimensions."""
        return rows[:, : self.format.dims]


class Adapter(Prefix):
    """The first dimensions after a linear map whose prefixes were trained to keep similarities, see `fit_adapter`.

    Args:
        weight: of `fit_adapter`, shape (dim, dim).
        format: of `choose_format`.
        similarity: what the embeddings are compared by; a map keeps no Manhattan distances.
        fit: identifies what the map was fitted on, for `settings`.
    """

    name = "adapter"

    def __init__(
        self, weight: np.ndarray, format: PrefixFormat, similarity: Similarity = "cosine", fit: str = ""
    ) -> None:
        super().__init__(format, similarity, fit)
        self.weight = np.ascontiguousarray(weight[:, : format.dims], np.float32)

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Map the rows."""
        return rows @ self.weight


class Components(NamedTuple):
    """Mean and principal directions of embeddings."""

    mean: np.ndarray
    """float32, shape (dim,)."""
    directions: np.ndarray
    """Of largest variance first, orthonormal columns, float32, shape (dim, at most dim)."""


def fit_components(train: np.ndarray) -> Components:
    """Find the directions of largest variance of rows of `rows_for`, shape (n, dim), at most n of them."""
    rows = train.astype(np.float64)
    mean = rows.mean(axis=0)
    _, directions = np.linalg.eigh((rows - mean).T @ (rows - mean))
    most = min(train.shape)
    return Components(mean.astype(np.float32), directions[:, ::-1][:, :most].astype(np.float32))


class PCA(Prefix):
    """Projections on the directions of largest variance of the training embeddings.

    For cosine they are renormalized and compared as they are. Else a document is read back as the point that its
    projections stand for: the mean, which is stored once, counts in an inner product.

    Args:
        components: of `fit_components`.
        format: of `choose_format`, with no more dimensions than there are components.
        similarity: what the embeddings are compared by.
        fit: identifies what the components were fitted on, for `settings`.
    """

    name = "PCA"

    def __init__(
        self, components: Components, format: PrefixFormat, similarity: Similarity = "cosine", fit: str = ""
    ) -> None:
        super().__init__(format, similarity, fit)
        self.mean = components.mean
        self.directions = np.ascontiguousarray(components.directions[:, : format.dims])

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Project the rows without their mean."""
        return (rows - self.mean) @ self.directions

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Project for cosine, else return the rows."""
        return super().query(rows) if self.similarity == "cosine" else rows

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Round the projections to what is stored; for other similarities than cosine, go back to points."""
        if self.similarity == "cosine":
            return super().store(rows)
        return self.round(self.project(rows)) @ self.directions.T + self.mean
