"""What a user can have without CSR: dense vectors, whole or cheaper, compared with a float query as the model says.

Vectors are scaled to unit norm where they are compared by cosine. Other similarities depend on norms, so nothing is
scaled there, and what a method drops of a vector is put back when it is read.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.method import Hits, Method, Searcher, name_similarity
from csr_hf.evaluation.names import Baseline
from csr_hf.evaluation.neighbors import top_neighbors
from csr_hf.evaluation.similarity import compare_with, rows_for, unit_rows
from csr_hf.plumbing.settings import suggest

_CENTROIDS = 256
_TRAIN_ROWS = 10_240
_ITERATIONS = 15
_NORM_BYTES = 4


class VectorMethod(Method):
    """Dense vectors; a subclass says how they are stored.

    Args:
        bytes_per_vector: stored for a document.
        similarity: what the embeddings are compared by.
        fit: identifies the embeddings that it was fitted on, for `settings`; empty without a fit.
    """

    def __init__(self, bytes_per_vector: int, similarity: Similarity, fit: str = "") -> None:
        self.bytes_per_vector, self.similarity, self.fit = bytes_per_vector, similarity, fit

    @abstractmethod
    def store(self, rows: np.ndarray) -> np.ndarray:
        """Store rows of `rows_for` and read them back, float32, shape (n, any width)."""

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Compute float32 vectors to compare with stored ones; queries are not stored, so they are not rounded."""
        return rows

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Store embeddings, of unit norm for cosine, and read them back."""
        return self.store(rows_for(embeddings, self.similarity))

    def index(self, documents: np.ndarray) -> Searcher:
        """Store documents for an exact search."""
        return VectorSearcher(self, documents)

    @property
    def settings(self) -> dict[str, Any]:
        """Name, bytes, and what it was fitted on."""
        return {**super().settings, **({"fit": self.fit} if self.fit else {})}


class VectorSearcher(Searcher):
    """Exact search by the similarity of a method.

    Args:
        method: stores the documents and prepares the queries.
        documents: dense, shape (n, input_dim).
    """

    def __init__(self, method: VectorMethod, documents: np.ndarray) -> None:
        self.method, self.stored = method, method.store(rows_for(documents, method.similarity))

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        """Compare every query with every document."""
        queries, similarity = self._read(queries), self.method.similarity
        positions = top_neighbors(queries, self.stored, top_k, similarity)
        scores = np.empty(positions.shape, np.float32)
        for row, found in enumerate(positions):
            scores[row] = compare_with(queries[row], self.stored[found], similarity)
        return Hits(positions, scores)

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Compute similarities with chosen documents."""
        return compare_with(self._read(query[None])[0], self.stored[positions], self.method.similarity)

    def _read(self, queries: np.ndarray) -> np.ndarray:
        return self.method.query(rows_for(queries, self.method.similarity))


class DenseMethod(VectorMethod):
    """The backbone's float32 embeddings, compared as the backbone says.

    Args:
        dim: width of the embeddings.
        similarity: the backbone's.
    """

    name = "dense"

    def __init__(self, dim: int, similarity: Similarity = "cosine") -> None:
        super().__init__(4 * dim, similarity)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Keep all of them."""
        return rows

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the embeddings themselves, whatever their norms."""
        return embeddings

    @property
    def settings(self) -> dict[str, Any]:
        """None but the similarity: this is the model itself."""
        return name_similarity(self.similarity)


class Truncation(VectorMethod):
    """The first dimensions in float16, renormalized for cosine; Matryoshka models are trained for this.

    Args:
        dims: dimensions to keep.
        similarity: what the embeddings are compared by.
    """

    name = "truncation"

    def __init__(self, dims: int, similarity: Similarity = "cosine") -> None:
        super().__init__(2 * dims, similarity)
        self.dims = dims

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Round the prefixes to float16."""
        return _round_to_float16(self.query(rows))

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Cut off the prefixes."""
        return rows_for(rows[:, : self.dims], self.similarity)


class PCA(VectorMethod):
    """Projections on the directions of largest variance of the training embeddings, in float16.

    For cosine they are renormalized and compared as they are. Else a document is read back as the point that its
    projections stand for: the mean, which is stored once, counts in an inner product.

    Args:
        train: rows of `rows_for` to fit on, shape (n, dim).
        dims: directions to keep, at most n.
        similarity: what the embeddings are compared by.
        fit: identifies `train`, for `settings`.
    """

    name = "PCA"

    def __init__(self, train: np.ndarray, dims: int, similarity: Similarity = "cosine", fit: str = "") -> None:
        from sklearn.decomposition import PCA as Estimator

        super().__init__(2 * dims, similarity, fit)
        self.estimator = Estimator(dims, svd_solver="covariance_eigh").fit(train.astype(np.float64))

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Round the projections to float16."""
        if self.similarity == "cosine":
            return _round_to_float16(self.query(rows))
        projections = _round_to_float16(self.estimator.transform(rows))
        return self.estimator.inverse_transform(projections).astype(np.float32)

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Project for cosine, else return the rows."""
        return unit_rows(self.estimator.transform(rows)) if self.similarity == "cosine" else rows


class Int8(VectorMethod):
    """One byte a dimension, scaled by each dimension's range in the training embeddings.

    Unlike `sentence_transformers.quantize_embeddings`, values are rounded to the nearest level, not down.

    Args:
        train: rows of `rows_for` that give the ranges, shape (n, dim).
        similarity: what the embeddings are compared by.
        fit: identifies `train`, for `settings`.
    """

    name = "int8"

    def __init__(self, train: np.ndarray, similarity: Similarity = "cosine", fit: str = "") -> None:
        super().__init__(train.shape[1], similarity, fit)
        self.low = train.min(axis=0).astype(np.float32)
        self.step = np.maximum((train.max(axis=0).astype(np.float32) - self.low) / 255, 1e-12)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Round to 256 levels, clip what is out of range, and decode."""
        return np.clip(np.rint((rows - self.low) / self.step), 0, 255) * self.step + self.low


class Binary(VectorMethod):
    """The sign of each dimension, one bit; beside it the norm in float32, unless cosine is to be approximated.

    Args:
        dim: width of the embeddings.
        similarity: what the embeddings are compared by.
    """

    name = "binary"

    def __init__(self, dim: int, similarity: Similarity = "cosine") -> None:
        super().__init__(-(-dim // 8) + (0 if similarity == "cosine" else _NORM_BYTES), similarity)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Replace components by +1 and -1, or by such as give the row its norm."""
        signs = np.where(rows > 0, np.float32(1), np.float32(-1))
        if self.similarity == "cosine":
            return signs
        return signs * (np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(np.float32(rows.shape[1])))


class ProductQuantization(VectorMethod):
    """One byte for each part of the vector: its nearest of 256 centroids, found by k-means on training embeddings.

    Args:
        train: rows of `rows_for` to learn the centroids on, shape (n, dim); 10,240 of them are used.
        size: bytes, which is the number of parts; where it does not divide the width, some parts are one dimension
            wider.
        similarity: what the embeddings are compared by.
        fit: identifies `train`, for `settings`.

    Raises:
        ValueError: if there are fewer than 256 training embeddings, or more bytes than dimensions.
    """

    name = "PQ"

    def __init__(self, train: np.ndarray, size: int, similarity: Similarity = "cosine", fit: str = "") -> None:
        from sklearn.cluster import KMeans

        dim = train.shape[1]
        if not 1 <= size <= dim:
            raise ValueError(f"product quantization to {size} bytes needs {size} dimensions; there are {dim}.")
        if len(train) < _CENTROIDS:
            raise ValueError(f"product quantization needs {_CENTROIDS} training embeddings; there are {len(train)}.")
        super().__init__(size, similarity, fit)
        rows = np.random.default_rng(0).permutation(len(train))[:_TRAIN_ROWS]
        means = KMeans(_CENTROIDS, init="random", n_init=1, max_iter=_ITERATIONS, tol=0, random_state=0)
        with warnings.catch_warnings():
            # Parts with fewer distinct values than centroids are stored exactly.
            warnings.simplefilter("ignore")
            self.centroids = [means.fit(part).cluster_centers_ for part in self._split(train[rows])]

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Replace every part by its nearest centroid."""
        from sklearn.metrics import pairwise_distances_argmin

        parts = zip(self._split(rows), self.centroids, strict=True)
        nearest = [centroids[pairwise_distances_argmin(part, centroids)] for part, centroids in parts]
        return np.concatenate(nearest, axis=1).astype(np.float32)

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        parts = np.array_split(rows.astype(np.float32), self.bytes_per_vector, axis=1)
        return [np.ascontiguousarray(part) for part in parts]


def make_baselines(
    names: Sequence[str],
    train: np.ndarray | None,
    dim: int,
    budgets: Sequence[int],
    similarity: Similarity = "cosine",
) -> list[VectorMethod]:
    """Make baselines by name, those of any size once for each budget.

    Args:
        names: of `Baseline`.
        train: rows of `rows_for` to fit on, shape (n, dim); without them PCA, PQ and int8 are left out.
        dim: width of the embeddings.
        budgets: bytes of a vector.
        similarity: what the embeddings are compared by.

    Raises:
        ValueError: for an unknown name; the nearest known one is named.
    """
    for name in names:
        if name not in get_args(Baseline):
            raise ValueError(f"baseline {name!r} is unknown. {suggest(name, get_args(Baseline))}")
    made: list[VectorMethod] = []
    if "truncate" in names:
        made += [Truncation(dims, similarity) for dims in sorted({min(dim, size // 2) for size in budgets})]
    if train is not None:
        shape = repr(train.shape).encode()
        fit = hashlib.blake2b(shape + np.ascontiguousarray(train).tobytes(), digest_size=6).hexdigest()
        if "pca" in names:
            most = min(train.shape)
            made += [PCA(train, dims, similarity, fit) for dims in sorted({min(most, size // 2) for size in budgets})]
        if "pq" in names:
            sizes = sorted({min(size, dim) for size in budgets})
            made += [ProductQuantization(train, size, similarity, fit) for size in sizes]
        if "int8" in names:
            made.append(Int8(train, similarity, fit))
    if "binary" in names:
        made.append(Binary(dim, similarity))
    return made


def _round_to_float16(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float16).astype(np.float32)
