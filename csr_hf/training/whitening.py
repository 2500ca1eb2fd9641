"""Train on embeddings without their mean, in which all directions vary nearly alike, and fold both into the head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from csr_hf.data.sources import Source
from csr_hf.data.vectors import AffineVectors
from csr_hf.modeling_csr import CSRModel
from csr_hf.training.rows import TrainingRows

_SAMPLE = 65_536


class Whitening(NamedTuple):
    """A map of embeddings x to (x - mean) @ matrix, and back.

    Latents of a head fire for what varies most, and where embeddings vary in few directions most latents are dead;
    that they vary around a large mean has the same effect (arXiv 2605.31518).
    """

    mean: np.ndarray
    """float32, shape (dim,)."""
    matrix: np.ndarray
    """Symmetric, float32, shape (dim, dim)."""
    inverse: np.ndarray
    """float32, shape (dim, dim)."""

    def apply(self, sources: Sequence[Source]) -> list[Source]:
        """Make sources of whitened embeddings, which are computed as they are read."""
        return [
            replace(
                source,
                vectors={
                    role: AffineVectors(vectors, self.mean, self.matrix) for role, vectors in source.vectors.items()
                },
            )
            for source in sources
        ]

    @torch.no_grad()
    def fold(self, head: CSRModel) -> CSRModel:
        """Make a head for embeddings as they are of one for whitened embeddings.

        Codes stay the same, and what they decode to is mapped back, so that the decoder is no longer the transposed
        encoder.

        Args:
            head: trained on whitened embeddings; not changed.

        Returns:
            A head with `tied_decoder=False`, on the same device.
        """
        config = copy.deepcopy(head.config)
        config.tied_decoder = False
        folded = CSRModel(config).to(head.pre_bias.device)  # type: ignore[arg-type]
        matrix, inverse = (torch.from_numpy(each).to(head.pre_bias) for each in (self.matrix, self.inverse))
        folded.pre_bias.copy_(head.pre_bias @ inverse + torch.from_numpy(self.mean).to(head.pre_bias))
        folded.latent_bias.copy_(head.latent_bias)
        folded.encoder.weight.copy_(head.encoder.weight @ matrix)
        folded.decoder.weight.copy_((head.dictionary @ inverse).t())
        folded.stats_last_nonzero.copy_(head.stats_last_nonzero)
        return folded.train(head.training)


def fit_whitening(rows: TrainingRows, strength: float, seed: int = 0) -> Whitening:
    """Fit a whitening that is shrunk towards none, which keeps noise small.

    With the covariance C and its mean variance v = tr(C) / dim, the matrix is (C_s / v)^(-1/2) for
    C_s = strength C + (1 - strength) v I: 0 centers alone, 1 makes all directions vary alike.

    Args:
        rows: embeddings to train on; 65,536 of them are looked at.
        strength: from 0 to 1.
        seed: decides which, if there are more.

    Raises:
        ValueError: if `strength` is out of range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` ({strength}) must be between 0 and 1: 0 centers alone, 1 whitens entirely.")
    chosen = np.random.default_rng([seed, 0x3417]).permutation(len(rows))[:_SAMPLE]
    embeddings = rows.rows(np.sort(chosen)).astype(np.float64)
    mean = embeddings.mean(0)
    covariance = (embeddings - mean).T @ (embeddings - mean) / len(embeddings)
    variance = max(float(np.trace(covariance)) / len(mean), 1e-300)
    shares, directions = np.linalg.eigh(strength * covariance / variance + (1 - strength) * np.eye(len(mean)))
    # Directions in which nothing varies are no reason to divide by nothing.
    scales = np.sqrt(np.maximum(shares, 1e-6))
    matrix, inverse = (directions / scales) @ directions.T, (directions * scales) @ directions.T
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32), inverse.astype(np.float32))
