"""The training objectives as pure functions, each with its equation and source.

Shapes: embeddings x and reconstructions x_hat (n, input_dim); similarities (n, m), cosines of n codes or
embeddings with m others. Errors are divided by the variance of the data, so that one set of weights serves embeddings
of any scale and width, or as published by the number of elements.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def reconstruction(embeddings: torch.Tensor, reconstructions: torch.Tensor, divisor: float = 1.0) -> torch.Tensor:
    """Compute mean_i ||x_i - x_hat_i||^2 / divisor (arXiv 2503.01776, equation 3, but for the divisor).

    Args:
        embeddings: shape (n, input_dim).
        reconstructions: shape (n, input_dim).
        divisor: the variance of the whole data, mean ||x - mean(x)||^2, makes 1 the error of the best constant.
            input_dim makes it the published mean-squared error, which for unit-norm embeddings is 1/input_dim as
            large and leaves the training to the other terms.
    """
    return F.mse_loss(reconstructions, embeddings, reduction="sum") / (len(embeddings) * divisor)


def auxiliary(
    residuals: torch.Tensor, reconstructed_residuals: torch.Tensor, spread: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute sum_i ||e_i - e_hat_i||^2 / sum_i ||e_i - mean(e)||^2: what dead latents leave of the residuals.

    The residuals e = x - x_hat carry no gradient (arXiv 2406.04093, section A.2; 2503.01776, equation 4). 0 when they
    do not vary.

    Args:
        residuals: shape (n, input_dim).
        reconstructed_residuals: from dead latents, shape (n, input_dim).
        spread: the denominator, where it is taken over more than this batch.
    """
    error = (reconstructed_residuals - residuals).pow(2).sum()
    if spread is None:
        spread = (residuals - residuals.mean(0)).pow(2).sum()
    return torch.where(spread > 0, error / spread.clamp_min(torch.finfo(spread.dtype).tiny), torch.zeros_like(error))


def contrast(similarities: torch.Tensor, positives: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """Compute mean_i -log softmax_j(s_ij / temperature)[p_i] (arXiv 2503.01776, equation 6, with cosines).

    When the positive of a code is itself its logit is constant, and the term only spreads the codes apart.

    Args:
        similarities: of codes with candidates, shape (n, m).
        positives: column of each row's positive, shape (n,).
        temperature: of the softmax.
    """
    return F.cross_entropy(similarities / temperature, positives)


def supervised_contrast(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    others: torch.Tensor,
    temperature: float = 0.2,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute mean_i -log(sum_{j in P_i} e^{s_ij / t} / sum_{j in O_i} e^{s_ij / t}) (arXiv 2602.05735).

    The sum over the positives is inside of the logarithm. Rows without a positive are left out; 0 if no row has one.

    Args:
        similarities: of codes with candidates, shape (n, m).
        positives: P, bool, shape (n, m), for example codes of the same class.
        others: O, bool, shape (n, m): what the positives compete with, themselves included: all but the code itself.
        temperature: t.
        count: number of rows with a positive, where the mean is taken over more than this batch.
    """
    logits = similarities / temperature
    counted = positives.any(-1)
    if not counted.any():
        return similarities.sum() * 0
    logits, positives, others = logits[counted], positives[counted], others[counted]
    wanted = logits.masked_fill(~positives, -torch.inf).logsumexp(-1)
    total = (logits.masked_fill(~others, -torch.inf).logsumexp(-1) - wanted).sum()
    return total / (counted.sum() if count is None else count)


def similarity_distillation(
    teacher: torch.Tensor, student: torch.Tensor, others: torch.Tensor, temperature: float = 0.05
) -> torch.Tensor:
    """Compute mean_i KL(softmax_j(t_ij / temperature) || softmax_j(s_ij / temperature)), j in O_i.

    It makes the similarities of codes follow those of the embeddings.

    Args:
        teacher: cosines of embeddings, shape (n, m); no gradient reaches them.
        student: cosines of their codes, shape (n, m).
        others: O, bool, shape (n, m): all but the row itself.
        temperature: of both sides.
    """

    def log_softmax(similarities: torch.Tensor) -> torch.Tensor:
        return (similarities / temperature).masked_fill(~others, -torch.inf).log_softmax(-1)

    target = log_softmax(teacher.detach())
    divergence = target.exp() * (target - log_softmax(student)).masked_fill(~others, 0)
    return divergence.sum(-1).mean()


def balance(values: torch.Tensor, indices: torch.Tensor, hidden_dim: int) -> torch.Tensor:
    """Compute sum_j (mean_i z_ij)^2 of codes of unit norm: least when all inverted lists are equally long.

    The FLOPS regularizer (arXiv 2004.05665): the expected work of an inverted index.

    Args:
        values: of unit norm, shape (n, k).
        indices: shape (n, k).
        hidden_dim: number of latents.
    """
    total = values.new_zeros(hidden_dim).index_add(0, indices.flatten(), values.flatten())
    return (total / len(values)).pow(2).sum()


def annealed_k(step: int, total_steps: int, k: int, k_start: int, fraction: float = 0.7) -> int:
    """Compute k at a step: it falls linearly from `k_start` during the first `fraction` of them (arXiv 2602.05735)."""
    if k_start <= k or fraction <= 0:
        return k
    progress = min(1.0, step / max(1.0, fraction * total_steps))
    return round(k_start + (k - k_start) * progress)
