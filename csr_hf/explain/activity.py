"""When latents fire: how often, with what, and in which texts most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from csr_hf.sparse_codes import SparseCodes

_BLOCK_LATENTS = 1024
_STRONGEST, _SPREAD = 5, (0.75, 0.5, 0.25)


def tabulate_activity(codes: SparseCodes) -> sp.csc_matrix:
    """Turn codes into the value of each latent in each text, shape (n, hidden_dim), without explicit zeros."""
    return codes.to_scipy().tocsc()


def find_companions(activity: sp.csc_matrix, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Find the latents that fire together with each latent, by the correlation of firing and not.

    Args:
        activity: of `tabulate_activity`, shape (n, hidden_dim).
        count: companions of a latent.

    Returns:
        Their numbers, int64, and correlations, float32, both of shape (hidden_dim, count), the strongest first.
    """
    n, dim = activity.shape
    count = min(count, max(dim - 1, 0))
    fires = activity.astype(bool).astype(np.float32)
    rates = fires.getnnz(axis=0) / max(n, 1)
    spread = np.sqrt(np.maximum(rates * (1 - rates), 1e-12))
    numbers, strengths = np.empty((dim, count), np.int64), np.empty((dim, count), np.float32)
    whole = fires.tocsr()
    for start in range(0, dim, _BLOCK_LATENTS):
        block = slice(start, min(start + _BLOCK_LATENTS, dim))
        both = (fires[:, block].T.tocsr() @ whole).toarray() / max(n, 1)
        related = (both - rates[block, None] * rates) / (spread[block, None] * spread)
        related[np.arange(block.stop - start), np.arange(start, block.stop)] = -np.inf
        best = np.argsort(-related, axis=1, kind="stable")[:, :count]
        numbers[block], strengths[block] = best, np.take_along_axis(related, best, axis=1)
    return numbers, strengths


def choose_examples(activity: sp.csc_matrix, latent: int) -> list[tuple[int, float]]:
    """Choose texts of a latent over its range: the five strongest, and those at three quarters, half and a quarter.

    Args:
        activity: of `tabulate_activity`.
        latent: its number.

    Returns:
        Pairs of row and value, the strongest first.
    """
    part = slice(activity.indptr[latent], activity.indptr[latent + 1])
    order = np.argsort(-activity.data[part], kind="stable")
    places = [*range(min(_STRONGEST, len(order))), *(int(len(order) * (1 - level)) for level in _SPREAD)]
    chosen = order[sorted({place for place in places if place < len(order)})]
    rows, values = activity.indices[part][chosen], activity.data[part][chosen]
    return [(int(row), float(value)) for row, value in zip(rows, values, strict=True)]
