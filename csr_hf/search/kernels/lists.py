"""Rank all documents by their sparse codes alone, through inverted lists."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.kernels.topk import key_score, make_key, offer, sort_heap


@jit()
def fill_lists(
    latents: np.ndarray, values: np.ndarray, begins: np.ndarray, documents: np.ndarray, weights: np.ndarray
) -> None:
    """List the documents of every latent.

    Args:
        latents: of documents, integers, shape (n, k).
        values: theirs, float32, shape (n, k); 0 where unused.
        begins: where the lists begin, int64, shape (dim + 1,); left moved by one list.
        documents: receives positions, int32.
        weights: receives values, float32.
    """
    for position in range(latents.shape[0]):
        for at in range(latents.shape[1]):
            if values[position, at] > 0:
                place = begins[latents[position, at]]
                documents[place], weights[place] = position, values[position, at]
                begins[latents[position, at]] += 1


@jit()
def search_lists(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    inverse: np.ndarray,
    latents: np.ndarray,
    values: np.ndarray,
    allowed: np.ndarray,
    start: int,
    keys: np.ndarray,
) -> None:
    """Add up the lists of a query's latents, and keep the best documents.

    Args:
        lists: begins, int64, shape (dim + 1,); documents, int32; weights, float32.
        inverse: what scores are multiplied by, float32, shape (n,).
        latents: of the query, integers, shape (k,).
        values: theirs, float32, shape (k,); those that are not positive count for nothing.
        allowed: 1 for positions that may be found, uint8; empty if all may.
        start: position at which the segment begins.
        keys: receives the best in order, zeros behind them, uint64, shape (top_k,).
    """
    begins, documents, weights = lists
    scores = np.zeros(inverse.shape[0], np.float32)
    for at in range(latents.shape[0]):
        value = values[at]
        if value > 0:
            for place in range(begins[latents[at]], begins[latents[at] + 1]):
                scores[documents[place]] += value * weights[place]
    size, bound = 0, np.float32(0)
    for position in range(scores.shape[0]):
        if scores[position] > 0 and (allowed.shape[0] == 0 or allowed[position] > 0):
            score = scores[position] * inverse[position]
            if score >= bound:
                size = offer(keys, size, make_key(score, start + position))
                if size == keys.shape[0]:
                    bound = max(bound, key_score(keys[0]))
    sort_heap(keys, size)


@jit()
def measure_norms(
    latents: np.ndarray, values: np.ndarray, gram: np.ndarray, bias: np.ndarray, norms: np.ndarray
) -> None:
    """Compute the norms of decoded codes from products of atoms.

    Args:
        latents: integers, shape (n, k).
        values: float32, shape (n, k); 0 behind the last.
        gram: products of atoms with each other, float32, shape (dim, dim).
        bias: products of atoms with the bias of the head, and last that of the bias with itself, shape (dim + 1,).
        norms: receives them, float32, shape (n,).
    """
    for i in range(latents.shape[0]):
        total = np.float64(bias[bias.shape[0] - 1])
        for at in range(latents.shape[1]):
            value = np.float64(values[i, at])
            if value > 0:
                latent = latents[i, at]
                total += value * (value * gram[latent, latent] + 2 * bias[latent])
                for other in range(at):
                    total += 2 * value * np.float64(values[i, other]) * gram[latent, latents[i, other]]
        norms[i] = np.sqrt(max(total, 0.0))
