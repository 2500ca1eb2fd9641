"""Words and phrases that may name a latent: by weighted log-odds of its texts, and by likeness to its atom."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from csr_hf.explain.phrases import Phrases

_BY_ODDS, _BY_COVER = 8, 5
# Texts that the prior of log-odds counts for.
_PRIOR = 50.0
_BLOCK_LATENTS = 256


def mark_strong(activity: sp.csc_matrix, share: float, fewest: int = 8) -> sp.csc_matrix:
    """Mark the texts in which each latent is strongest.

    Args:
        activity: value of each latent in each text, shape (n, hidden_dim), without explicit zeros.
        share: of the texts in which a latent is active.
        fewest: texts of a latent, if it has as many.

    Returns:
        1 for the strongest, float32, shape (n, hidden_dim).
    """
    rows, starts = [], [0]
    for latent in range(activity.shape[1]):
        part = slice(activity.indptr[latent], activity.indptr[latent + 1])
        count = max(int(np.ceil(share * (part.stop - part.start))), fewest)
        rows.append(activity.indices[part][np.argsort(-activity.data[part], kind="stable")[:count]])
        starts.append(starts[-1] + len(rows[-1]))
    found = np.concatenate(rows) if rows else np.empty(0, np.int32)
    return sp.csc_matrix((np.ones(len(found), np.float32), found, starts), shape=activity.shape)


def compute_log_odds(present: np.ndarray, having: int, totals: np.ndarray, texts: int) -> np.ndarray:
    """Compute weighted log-odds of phrases in the texts of a latent against all others, as z-scores.

    Monroe, Colaresi and Quinn, "Fightin' Words" (2008), with texts in place of words and the frequencies of all texts
    as prior.

    Args:
        present: texts with the latent that hold each phrase, shape (m,).
        having: texts with the latent.
        totals: texts that hold each phrase, with the latent or not, shape (m,).
        texts: all texts.
    """
    prior = _PRIOR * totals / texts + 1e-3
    rest = totals - present
    with_odds = np.log((present + prior) / (having + _PRIOR + 2e-3 - present - prior))
    rest_odds = np.log((rest + prior) / (texts - having + _PRIOR + 2e-3 - rest - prior))
    return (with_odds - rest_odds) / np.sqrt(1 / (present + prior) + 1 / (rest + prior))


def find_candidates(
    strong: sp.csc_matrix, phrases: Phrases, vectors: np.ndarray, directions: np.ndarray, *, by_atom: int = 5
) -> list[np.ndarray]:
    """Find phrases that may name each latent.

    Args:
        strong: of `mark_strong`, shape (n, hidden_dim).
        phrases: of the same n texts.
        vectors: of the phrases, of unit norm, shape (m, input_dim).
        directions: of the atoms of the head, of unit norm, shape (hidden_dim, input_dim).
        by_atom: the nearest to the atom that are taken.

    Returns:
        Numbers of phrases for each latent: the largest log-odds; the largest difference between the shares of texts
        with and without the latent that hold them; and the nearest to the atom.
    """
    present, texts = phrases.present, strong.shape[0]
    totals = present.getnnz(axis=0).astype(np.float64)
    held = (strong.T.tocsr() @ present).tocsr()
    found: list[np.ndarray] = []
    for start in range(0, len(directions), _BLOCK_LATENTS):
        likeness = directions[start : start + _BLOCK_LATENTS] @ vectors.T
        for latent, alike in enumerate(likeness, start):
            part = slice(held.indptr[latent], held.indptr[latent + 1])
            numbers, counts = held.indices[part], held.data[part].astype(np.float64)
            having = int(strong.indptr[latent + 1] - strong.indptr[latent])
            odds = compute_log_odds(counts, having, totals[numbers], texts)
            cover = counts / max(having, 1) - (totals[numbers] - counts) / max(texts - having, 1)
            chosen = [numbers[_largest(odds, _BY_ODDS)], numbers[_largest(cover, _BY_COVER)]]
            found.append(np.unique(np.concatenate([*chosen, _largest(alike, by_atom)])))
    return found


def embed_contexts(phrases: Phrases, units: np.ndarray) -> np.ndarray:
    """Average the embeddings of the texts with each phrase, less the mean of all, of unit norm, float32, (m, dim).

    Args:
        phrases: of n texts.
        units: their embeddings, of unit norm, shape (n, dim).
    """
    present, totals = phrases.present, phrases.present.getnnz(axis=0)
    means = (present.T.tocsr() @ units) / np.maximum(totals, 1)[:, None].astype(np.float32) - units.mean(axis=0)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    means[totals == 0] = 0
    return np.asarray(means / np.where(norms > 0, norms, 1), np.float32)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(-values, count)[:count]
