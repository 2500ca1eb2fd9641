"""Nearest neighbors in the backbone's space: positives where the data has no pairs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.training.rows import TrainingRows

_POOL = 16_384
_BLOCK = 4096


def nearest_rows(rows: TrainingRows, seed: int, device: torch.device | str = "cpu") -> np.ndarray:
    """For each row the most similar other one (by cosine) of a random pool of at most 16,384 rows.

    The pool bounds the work to n x 16,384 inner products. Equal embeddings do not count as others.

    Args:
        rows: the training data.
        seed: of the pool.
        device: where the inner products are computed.

    Returns:
        Numbers of rows, int64, shape (n,); its own number for a row that has no other.
    """
    pool = np.sort(np.random.default_rng([seed, 0x9001]).permutation(len(rows))[:_POOL])
    candidates = F.normalize(torch.from_numpy(rows.rows(pool)).to(device), dim=-1)
    nearest = np.arange(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(rows)))
        similarities = F.normalize(torch.from_numpy(rows.rows(block)).to(device), dim=-1) @ candidates.t()
        similarities[similarities > 1 - 1e-5] = -torch.inf
        best = similarities.max(-1)
        found = (best.values > -torch.inf).cpu().numpy()
        nearest[block[found]] = pool[best.indices.cpu().numpy()[found]]
    return nearest
