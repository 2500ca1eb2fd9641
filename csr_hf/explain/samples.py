"""Texts with a latent and texts without it, which a name must tell apart: half of the latter are the nearest ones."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

_MOST = 48
_FEWEST = 8
_POOL = 12_288
_BLOCK_LATENTS = 16


class Sample(NamedTuple):
    """Rows of texts of one half."""

    having: np.ndarray
    """Where the latent is among its strongest, spread over their range."""
    lacking: np.ndarray
    """Where it is not active: for texts of `having` the nearest such text, and as many others by chance."""


def split_halves(embeddings: np.ndarray) -> np.ndarray:
    """Split texts into two halves by a hash of their embeddings, bool, shape (n,): equal texts stay together.

    Args:
        embeddings: shape (n, input_dim).
    """
    rows = np.ascontiguousarray(embeddings, np.float16)
    return np.array([hashlib.blake2b(row.tobytes(), digest_size=1).digest()[0] & 1 for row in rows], bool)


def draw_samples(
    activity: sp.csc_matrix,
    units: np.ndarray,
    rows: np.ndarray,
    share: float,
    rng: np.random.Generator,
    *,
    fewest: int = _FEWEST,
) -> list[Sample | None]:
    """Draw for every latent texts with and without it.

    Args:
        activity: value of each latent in each text, shape (n, hidden_dim), without explicit zeros.
        units: embeddings of the texts, of unit norm, shape (n, input_dim).
        rows: of the half to draw from.
        share: texts count as having a latent where it is in this share of its active texts, the strongest.
        rng: chooses the texts without it; the nearest ones are looked for among 12,288 texts.
        fewest: texts that count as having a latent, if it is active in as many.

    Returns:
        One sample for each latent; None where fewer than two texts have it, or all do.
    """
    pool = rng.choice(rows, min(_POOL, len(rows)), replace=False)
    half, pooled = activity[rows], activity[pool]
    own, around = units[rows], np.ascontiguousarray(units[pool].T)
    chosen, nearest = [], []
    for latent in range(activity.shape[1]):
        part = slice(half.indptr[latent], half.indptr[latent + 1])
        chosen.append(_choose_strong(half.indices[part], half.data[part], share, fewest))
    for start in range(0, len(chosen), _BLOCK_LATENTS):
        nearest += _find_nearest(chosen[start : start + _BLOCK_LATENTS], start, pooled, own, around)
    samples: list[Sample | None] = []
    for latent, (having, near) in enumerate(zip(chosen, nearest, strict=True)):
        active = pooled.indices[pooled.indptr[latent] : pooled.indptr[latent + 1]]
        if len(having) < 2 or len(active) == len(pool):
            samples.append(None)
            continue
        others = np.setdiff1d(np.arange(len(pool)), np.concatenate([active, near]), assume_unique=True)
        chance = rng.choice(others, min(len(near), len(others)), replace=False)
        samples.append(Sample(rows[having], pool[np.concatenate([near, chance])]))
    return samples


def _find_nearest(
    chosen: list[np.ndarray], start: int, pooled: sp.csc_matrix, units: np.ndarray, around: np.ndarray
) -> list[np.ndarray]:
    """Find for the texts of some latents the nearest ones of the pool without the latent.

    Args:
        chosen: rows of texts with each latent.
        start: the first of the latents.
        pooled: value of each latent in each text of the pool, shape (p, hidden_dim).
        units: embeddings that `chosen` are rows of.
        around: of the pool, shape (input_dim, p).
    """
    seeds = [_spread(having, _MOST // 2) for having in chosen]
    # One product for many latents: the pool is read from memory once for all of them.
    likeness = units[np.concatenate(seeds)] @ around
    found, end = [], 0
    for latent, own in enumerate(seeds, start):
        begin, end = end, end + len(own)
        likeness[begin:end, pooled.indices[pooled.indptr[latent] : pooled.indptr[latent + 1]]] = -np.inf
        found.append(np.unique(likeness[begin:end].argmax(axis=1)))
    return found


def _choose_strong(rows: np.ndarray, values: np.ndarray, share: float, fewest: int) -> np.ndarray:
    """Choose at most 48 rows evenly from the share with the largest values."""
    order = rows[np.argsort(-values, kind="stable")]
    strong = order[: max(int(np.ceil(share * len(order))), fewest)]
    return _spread(strong, _MOST)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Choose at most so many rows, evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))] if len(rows) else rows


def compute_auc(having: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Compute how often a text with the latent scores higher than one without it; ties count half.

    Args:
        having: scores, shape (p,) or (p, m) for m names.
        lacking: shape (q,) or (q, m).

    Returns:
        float64, shape () or (m,).
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([having, lacking]), axis=0)[: len(having)]
    p, q = len(having), len(lacking)
    return np.asarray((ranks.sum(axis=0) - p * (p + 1) / 2) / (p * q))
