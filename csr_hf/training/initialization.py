"""Initial weights taken from the training embeddings instead of at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.training.rows import TrainingRows

_SAMPLE = 65_536
# Share of the covariance in what is whitened by; the rest is that of embeddings which vary alike in all directions.
_OWN_SHARE = 0.9


@torch.no_grad()
def initialize_centered(model: CSRModel, rows: TrainingRows, seed: int) -> CSRModel:
    """Set `pre_bias` to the mean of the embeddings; the weights stay random.

    Random latents that point away from the mean never fire, the more of them the larger the mean is beside the spread
    of the embeddings, and training revives few of them (arXiv 2605.31518).

    Args:
        model: a fresh head; changed in place.
        rows: what it will be trained on.
        seed: decides which 65,536 of them are averaged, if there are more.

    Returns:
        The head.
    """
    model.pre_bias.copy_(torch.from_numpy(_sample(rows, seed).mean(0)))
    return model


@torch.no_grad()
def initialize_from_data(model: CSRModel, rows: TrainingRows, seed: int) -> CSRModel:
    """Set `pre_bias` to the mean of the embeddings, and each atom to the direction from it to a random embedding.

    Atoms keep their length. With fewer embeddings than latents, the remaining atoms stay random.

    Args:
        model: a fresh head; changed in place.
        rows: what it will be trained on.
        seed: decides which embeddings become atoms.

    Returns:
        The head.
    """
    mean = _sample(rows, seed).mean(0)
    directions = rows.rows(_order(rows, seed)[: model.config.hidden_dim]) - mean
    model.pre_bias.copy_(torch.from_numpy(mean))
    weight = model.encoder.weight[: len(directions)]
    weight.copy_(
        torch.nn.functional.normalize(torch.from_numpy(directions), dim=-1) * weight.norm(dim=-1, keepdim=True)
    )
    if not model.config.tied_decoder:
        model.decoder.weight.copy_(model.encoder.weight.t())
    return model


@torch.no_grad()
def initialize_whitened(model: CSRModel, rows: TrainingRows, seed: int) -> CSRModel:
    r"""Make a random head that sees embeddings without their mean, and in which all directions vary nearly alike.

    Beyond what `initialize_centered` does, it helps where embeddings vary in few directions, which decide there which
    latents fire. With random weights W, the mean m, the covariance C and C_s = 0.9 C + 0.1 tr(C) / input_dim I, which
    keeps noise small:

    .. code-block:: text

        encoder = s W C_s^(-1/2),   decoder = (W C_s^(1/2) / s)^T,   pre_bias = m,   s^2 = tr(C) / input_dim

    Args:
        model: a fresh head whose decoder is not tied; changed in place.
        rows: what it will be trained on.
        seed: decides which 65,536 of them are looked at, if there are more.

    Returns:
        The head.

    Raises:
        ValueError: if the decoder is the transposed encoder.
    """
    if model.config.tied_decoder:
        raise ValueError("`tied_decoder` (True): a whitened head needs a decoder of its own. Set it to False.")
    embeddings = torch.from_numpy(_sample(rows, seed)).double()
    mean = embeddings.mean(0)
    covariance = (embeddings - mean).t() @ (embeddings - mean) / len(embeddings)
    variance = covariance.trace() / len(mean)
    shrunk = _OWN_SHARE * covariance + (1 - _OWN_SHARE) * variance * torch.eye(len(mean), dtype=torch.float64)
    variances, directions = torch.linalg.eigh(shrunk)
    scales = (variances.clamp_min(torch.finfo(torch.float64).tiny) / variance.clamp_min(1e-300)).sqrt()
    weight = model.encoder.weight.double()
    model.pre_bias.copy_(mean)
    model.encoder.weight.copy_(weight @ (directions / scales) @ directions.t())
    model.decoder.weight.copy_((weight @ (directions * scales) @ directions.t()).t())
    return model


INITIALIZE: dict[str, Callable[[CSRModel, TrainingRows, int], CSRModel]] = {
    "centered": initialize_centered,
    "whitened": initialize_whitened,
    "data": initialize_from_data,
}
"""Values of `model.init` that start a fresh head from the training embeddings."""


def _order(rows: TrainingRows, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 0xDA7A]).permutation(len(rows))


def _sample(rows: TrainingRows, seed: int) -> np.ndarray:
    return rows.rows(np.sort(_order(rows, seed)[:_SAMPLE]))
