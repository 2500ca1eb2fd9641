"""Training objectives as pure functions, each with its equation and source.

Shapes throughout: embeddings x and reconstructions x_hat (n, input_dim); latents z (n, hidden_dim), dense.
Errors are summed over dimensions and averaged over the batch. The published recipe averages over dimensions as well;
for unit-norm embeddings that makes the error about 1/input_dim as large, and the other terms then rule the training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def reconstruction(embeddings: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """mean_i ||x_i - x_hat_i||^2 (arXiv 2503.01776, equation 3, summed per sample)."""
    return (reconstructions - embeddings).pow(2).sum(-1).mean()


def auxiliary(residuals: torch.Tensor, reconstructed_residuals: torch.Tensor) -> torch.Tensor:
    """sum_i ||e_i - e_hat_i||^2 / sum_i ||e_i - mean(e)||^2: how well dead latents explain what is left.

    `residuals` e = x - x_hat carry no gradient (arXiv 2406.04093, section A.2; 2503.01776, equation 4). 0 when the
    residuals do not vary.
    """
    error = (reconstructed_residuals - residuals).pow(2).sum()
    spread = (residuals - residuals.mean(0)).pow(2).sum()
    return torch.where(spread > 0, error / spread.clamp_min(torch.finfo(spread.dtype).tiny), torch.zeros_like(error))


def contrast(anchors: torch.Tensor, positives: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """mean_i -log softmax_j(cos(z_i, z+_j) / temperature)[i] (arXiv 2503.01776, equation 6, with cosine).

    With `positives` the same latents as `anchors` (self-contrast) the positive logit is constant, and the term only
    spreads the codes apart.
    """
    logits = F.normalize(anchors, dim=-1) @ F.normalize(positives, dim=-1).t() / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def similarity_distillation(
    embeddings: torch.Tensor, latents: torch.Tensor, temperature: float = 0.05
) -> torch.Tensor:
    """mean_i KL(softmax_j(cos(x_i, x_j) / t) || softmax_j(cos(z_i, z_j) / t)), j != i.

    The codes' similarities within the batch follow the backbone's.
    """
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)

    def log_neighbours(vectors: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(vectors.float(), dim=-1)
        logits = (unit @ unit.t() / temperature).masked_select(~itself).view(len(unit), -1)
        return F.log_softmax(logits, dim=-1)

    target = log_neighbours(embeddings.detach())
    return F.kl_div(log_neighbours(latents), target, log_target=True, reduction="batchmean")


def balance(latents: torch.Tensor) -> torch.Tensor:
    """sum_j (mean_i z_ij / ||z_i||)^2: even use of the latents, hence short posting lists.

    The FLOPS regulariser (arXiv 2004.05665) on normalised codes: the expected work of an inverted index.
    """
    return F.normalize(latents, dim=-1).mean(0).pow(2).sum()


def explained_variance(embeddings: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
    """1 - sum_i ||x_i - x_hat_i||^2 / sum_i ||x_i - mean(x)||^2; 1 is perfect, 0 no better than the mean."""
    spread = (embeddings - embeddings.mean(0)).pow(2).sum()
    return 1 - (reconstructions - embeddings).pow(2).sum() / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def annealed_k(step: int, total_steps: int, k: int, k_start: int, fraction: float = 0.7) -> int:
    """Annealed k: falls linearly from `k_start` to `k` over the first `fraction` of the steps (arXiv 2602.05735)."""
    if k_start <= k or fraction <= 0:
        return k
    progress = min(1.0, step / max(1.0, fraction * total_steps))
    return round(k_start + (k - k_start) * progress)
