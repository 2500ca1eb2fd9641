"""Vector quantizers that faiss fits with its own defaults: PQ, OPQ and RaBitQ.

Scores are those of a float query with what a code stands for, so that a rival is as strong as its codes allow: for
cosine the vectors that PQ and OPQ read back get unit norm, which follows from the code and takes no bytes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.faiss_fits import import_faiss, threads_for
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import VectorMethod

_BITS = 8
_CENTROIDS = 1 << _BITS
RABITQ_BITS = (1, 2, 3, 4)
"""Bits a dimension that RaBitQ is measured with."""
_LOWEST = float(np.finfo(np.float32).min)
_ROWS_AT_A_TIME = 8_192


class ProductQuantization(VectorMethod):
    """One byte for each part of the vector: its nearest of 256 centroids, found by faiss's k-means.

    Args:
        train: rows of `rows_for` to learn the centroids on, shape (n, dim); faiss draws 65,536 of them.
        size: bytes, which is the number of parts; it divides the width.
        similarity: what the embeddings are compared by.
        fit: identifies `train`, for `settings`.

    Raises:
        ValueError: if there are fewer than 256 training embeddings, or the size does not divide the width.
        ImportError: if faiss is missing, with the line to type.
    """

    name = "PQ"

    def __init__(self, train: np.ndarray, size: int, similarity: Similarity = "cosine", fit: str = "") -> None:
        dim = train.shape[1]
        if size < 1 or dim % size:
            raise ValueError(f"`size` ({size}) does not divide the {dim} dimensions. Take one of {divisors(dim)}.")
        if len(train) < _CENTROIDS:
            raise ValueError(
                f"{self.name} needs {_CENTROIDS} training embeddings; there are {len(train)}. Train on more, or leave "
                "out `pq` and `opq`."
            )
        super().__init__(size, similarity, fit)
        self._faiss, self._train = import_faiss(), train

    @cached_property
    def codec(self) -> Any:
        """Fitted when it is first used: an evaluation that goes on needs no fit for what it has measured."""
        codec = self._make_codec(self._faiss, self._train.shape[1])
        with threads_for(self._faiss, len(self._train)):
            codec.train(self._choose_rows(self._train))
        return codec

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Replace every part by its nearest centroid."""
        codes = self.codec.sa_encode(np.ascontiguousarray(rows, np.float32))
        return rows_for(self.codec.sa_decode(codes), self.similarity)

    def _choose_rows(self, train: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(train, np.float32)

    def _make_codec(self, faiss: Any, dim: int) -> Any:
        index = faiss.IndexPQ(dim, self.bytes_per_vector, _BITS)
        # faiss would write a warning to stderr for each part that has few rows for a centroid.
        index.pq.cp.min_points_per_centroid = 1
        return index


class OptimizedProductQuantization(ProductQuantization):
    """Product quantization after a rotation that faiss fits to it.

    Args, Raises: as `ProductQuantization`. The fit takes about ten times as long.
    """

    name = "OPQ"

    def _choose_rows(self, train: np.ndarray) -> np.ndarray:
        # faiss 1.15 ends the process where there are fewer rows than dimensions; the same rows again change no fit.
        times = -(-train.shape[1] // len(train))
        return super()._choose_rows(np.tile(train, (times, 1)))

    def _make_codec(self, faiss: Any, dim: int) -> Any:
        rotation = faiss.OPQMatrix(dim, self.bytes_per_vector)
        # Owned here, since faiss only borrows it.
        self._inner = faiss.ProductQuantizer(dim, self.bytes_per_vector, _BITS)
        self._inner.cp.min_points_per_centroid = 1
        rotation.pq = self._inner
        return faiss.IndexPreTransform(rotation, super()._make_codec(faiss, dim))


class RaBitQ(VectorMethod):
    """A few bits for each dimension of the randomly rotated difference from the mean, and factors for its estimates.

    faiss's estimate of an inner product is affine in the query, but its decoder reads one bit of several. So it is
    asked for the estimates of the axes, and a document is read back as the vector and the constant of that affine
    function: scores are then faiss's own, for float queries.

    Args:
        train: rows of `rows_for` that give the mean, shape (n, dim).
        bits: of a dimension, 1 to 4.
        similarity: what the embeddings are compared by. Distances are measured to the vector alone.
        fit: identifies `train`, for `settings`.

    Raises:
        ImportError: if faiss is missing, with the line to type.
    """

    name = "RaBitQ"

    def __init__(self, train: np.ndarray, bits: int, similarity: Similarity = "cosine", fit: str = "") -> None:
        faiss, dim = import_faiss(), train.shape[1]
        super().__init__(count_rabitq_bytes(dim, bits), similarity, fit)
        self.bits = bits
        self.codec = faiss.index_factory(dim, f"RR{dim},{_factory_name(bits)}", faiss.METRIC_INNER_PRODUCT)
        # Queries in float32: those of 4 bits, the default, are for speed.
        faiss.downcast_index(self.codec.index).qb = 0
        self.codec.train(np.ascontiguousarray(train, np.float32))
        # The origin and the axes.
        self._probes = np.concatenate([np.zeros((1, dim)), np.eye(dim)]).astype(np.float32)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Encode, and read the affine functions back, shape (n, dim + 1); shape (n, dim) where distances compare."""
        rows = np.ascontiguousarray(rows, np.float32)
        blocks = [self._read_functions(rows[at : at + _ROWS_AT_A_TIME]) for at in range(0, len(rows), _ROWS_AT_A_TIME)]
        functions = np.concatenate(blocks) if blocks else np.empty((0, rows.shape[1] + 1), np.float32)
        return functions if self._by_product else np.ascontiguousarray(functions[:, :-1])

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Append the 1 that the constant of a document is multiplied by."""
        return np.pad(rows, ((0, 0), (0, 1)), constant_values=1) if self._by_product else rows

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Store embeddings, of unit norm for cosine, and read back the vectors without the constants."""
        return self.store_documents(embeddings)[:, : embeddings.shape[1]]

    @property
    def settings(self) -> dict[str, Any]:
        """Besides name, bytes and fit the bits of a dimension."""
        return {**super().settings, "bits": self.bits}

    @property
    def _by_product(self) -> bool:
        return self.similarity in ("cosine", "dot")

    def _read_functions(self, rows: np.ndarray) -> np.ndarray:
        self.codec.reset()
        self.codec.add(rows)
        # All documents in order, and no heap: a range that nothing is out of.
        _, estimates, _ = self.codec.range_search(self._probes, _LOWEST)
        self.codec.reset()
        by_probe = estimates.reshape(len(self._probes), len(rows))
        constant = by_probe[0]
        return np.ascontiguousarray(np.vstack([by_probe[1:] - constant, constant]).T)


def count_rabitq_bytes(dim: int, bits: int) -> int:
    """Count the bytes of a document's RaBitQ code of some bits a dimension, factors included, as faiss stores it."""
    faiss = import_faiss()
    return faiss.index_factory(dim, _factory_name(bits), faiss.METRIC_INNER_PRODUCT).sa_code_size()


def divisors(dim: int) -> list[int]:
    """List the divisors of a width, ascending: the bytes that product quantization can have."""
    return [size for size in range(1, dim + 1) if dim % size == 0]


def _factory_name(bits: int) -> str:
    return "RaBitQ" if bits == 1 else f"RaBitQ{bits}"
