"""Initial weights taken from the training embeddings instead of at random."""

from __future__ import annotations

import numpy as np
import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.training.rows import TrainingRows


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
    sample = np.random.default_rng([seed, 0xDA7A]).permutation(len(rows))
    mean = rows.rows(np.sort(sample[:65_536])).mean(0)
    directions = rows.rows(sample[: model.config.hidden_dim]) - mean
    model.pre_bias.copy_(torch.from_numpy(mean))
    weight = model.encoder.weight[: len(directions)]
    weight.copy_(
        torch.nn.functional.normalize(torch.from_numpy(directions), dim=-1) * weight.norm(dim=-1, keepdim=True)
    )
    if not model.config.tied_decoder:
        model.decoder.weight.copy_(model.encoder.weight.t())
    return model
