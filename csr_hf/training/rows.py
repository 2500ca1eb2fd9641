"""Training data: arrays of embeddings seen as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class EmbeddingRows:
    """Several arrays of embeddings seen as one, row after row, without copying them.

    Raises:
        ValueError: if there are no rows, widths differ, or a value is NaN or infinite (the row is named).
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        if any(array.ndim != 2 for array in arrays):
            raise ValueError(f"embeddings must have the shape (n, input_dim): {[array.shape for array in arrays]}.")
        if not arrays or sum(len(array) for array in arrays) == 0:
            raise ValueError("no embeddings to train on: the data set is empty.")
        if len({array.shape[1] for array in arrays}) > 1:
            raise ValueError(f"embeddings differ in width: {[array.shape for array in arrays]}.")
        for part, array in enumerate(arrays):
            for start in range(0, len(array), 65_536):
                finite = np.isfinite(array[start : start + 65_536]).all(axis=1)
                if not finite.all():
                    row = start + int(np.argmin(finite))
                    raise ValueError(f"training embeddings hold NaN or infinity, first in array {part}, row {row}.")
        self.arrays = list(arrays)
        self.starts = np.cumsum([0, *(len(array) for array in arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.arrays[0].shape[1]

    @property
    def fingerprint(self) -> str:
        """Of the number of rows and an even sample of them."""
        sample = self.rows(np.linspace(0, len(self) - 1, min(len(self), 1024)).astype(np.int64))
        return hashlib.blake2b(f"{len(self)} {self.dim}".encode() + sample.tobytes(), digest_size=8).hexdigest()

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The given rows, float32, shape (len(indices), dim)."""
        batch = np.empty((len(indices), self.dim), np.float32)
        part = np.searchsorted(self.starts, indices, side="right") - 1
        for number, array in enumerate(self.arrays):
            chosen = part == number
            batch[chosen] = array[indices[chosen] - self.starts[number]]
        return batch
