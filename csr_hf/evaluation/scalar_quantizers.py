"""Methods that round every dimension by itself: to eight bits, or to its sign."""

from __future__ import annotations

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import VectorMethod

_NORM_BYTES = 4


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
        super().__init__(count_sign_bytes(dim, similarity), similarity)

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Replace components by +1 and -1, or by such as give the row its norm."""
        signs = np.where(rows > 0, np.float32(1), np.float32(-1))
        if self.similarity == "cosine":
            return signs
        return signs * (np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(np.float32(rows.shape[1])))


class RotatedSigns(VectorMethod):
    """The signs of randomly rotated differences from the training mean, one bit a dimension.

    A rotation spreads the variance over all dimensions, so that each sign says as much. A document is read back as the
    mean plus its signs, rotated back and scaled: for cosine all by the training embeddings' mean scale, which needs no
    bytes, else each by its own in float32.

    Args:
        train: rows of `rows_for` that give mean and scale, shape (n, dim).
        similarity: what the embeddings are compared by.
        fit: identifies `train`, for `settings`.
        seed: of the rotation.
    """

    name = "rotated signs"

    def __init__(self, train: np.ndarray, similarity: Similarity = "cosine", fit: str = "", seed: int = 0) -> None:
        dim = train.shape[1]
        super().__init__(count_sign_bytes(dim, similarity), similarity, fit)
        self.mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
        triangular = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
        # Columns of one sign, or not every rotation is equally likely.
        self.rotation = (triangular.Q * np.sign(np.diag(triangular.R))).astype(np.float32)
        self.scale = np.abs(self._rotate(train)).mean()

    def store(self, rows: np.ndarray) -> np.ndarray:
        """Keep the signs of the rotated rows, and read them back."""
        rotated = self._rotate(rows)
        by_row = self.scale if self.similarity == "cosine" else np.abs(rotated).mean(axis=1, keepdims=True)
        signs = np.where(rotated > 0, np.float32(1), np.float32(-1))
        return rows_for(self.mean + (by_row * signs) @ self.rotation.T, self.similarity)

    def _rotate(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) @ self.rotation


def count_sign_bytes(dim: int, similarity: Similarity) -> int:
    """Count the bytes of the signs of `dim` dimensions, and of the norm that all similarities but cosine need."""
    return -(-dim // 8) + (0 if similarity == "cosine" else _NORM_BYTES)
