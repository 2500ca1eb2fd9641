"""Numba kernels that turn the documents of a block into posting lists; each works on one block."""

from __future__ import annotations

import numpy as np

from csr_hf.jit import from_half, jit

LEVELS = 255
"""Steps of an eight-bit posting value; 1.0 is the largest there can be."""


@jit()
def norms(values: np.ndarray) -> np.ndarray:
    """Euclidean norm of every row, float32.

    Args:
        values: bits of float16 values, uint16, shape (n, k).
    """
    n, k = values.shape
    result = np.zeros(n, np.float32)
    for row in range(n):
        total = 0.0
        for j in range(k):
            value = np.float64(from_half(values[row, j]))
            total += value * value
        result[row] = np.float32(np.sqrt(total))
    return result


@jit()
def count_postings(indices: np.ndarray, values: np.ndarray, counts: np.ndarray) -> None:
    """Count the postings of one block by latent.

    Args:
        indices: latents of the block's documents, shape (length, k).
        values: bits of their float16 values, uint16, shape (length, k).
        counts: zeros, receives the counts, int64, shape (dim,).
    """
    length, k = indices.shape
    for row in range(length):
        for j in range(k):
            if values[row, j]:
                counts[indices[row, j]] += 1


@jit()
def fill_postings(
    indices: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    starts: np.ndarray,
    documents: np.ndarray,
    weights: np.ndarray,
) -> int:
    """Counting sort of one block into its lists; returns a row of it that names a latent twice, or -1.

    Args:
        indices: latents of the block's documents, shape (length, k).
        values: bits of their float16 values, uint16, shape (length, k).
        scale: what makes vectors of them, none longer than 1; float32, shape (length,).
        starts: first posting of every list of the block, and the end of the last; int64, shape (dim + 1,).
        documents: of the whole index; receives places within the block, uint16, shape (postings,).
        weights: of the whole index; receives scaled values in steps of 1/255, rounded up, uint8.
    """
    length, k = indices.shape
    cursor = starts[:-1].copy()
    repeated = -1
    for row in range(length):
        for j in range(k):
            if values[row, j]:
                latent = np.int64(indices[row, j])
                at = cursor[latent]
                if at > starts[latent] and documents[at - 1] == row:
                    repeated = row
                unit = np.ceil(from_half(values[row, j]) * scale[row] * np.float32(LEVELS))
                documents[at] = row
                weights[at] = np.uint8(min(max(unit, np.float32(1)), np.float32(LEVELS)))
                cursor[latent] = at + 1
    return repeated
