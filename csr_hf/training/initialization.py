"""A head that starts from the data instead of from chance."""

from __future__ import annotations

import numpy as np
import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.training.rows import TrainingRows


@torch.no_grad()
def initialize_from_data(model: CSRModel, rows: TrainingRows, seed: int) -> CSRModel:
    """Set `pre_bias` to the mean of the embeddings and every atom to the direction of one of them from there.

    Atoms keep the length they have. With fewer embeddings than latents the rest stays as it is.

    Args:
        model: a fresh head; changed in place.
        rows: what it will be trained on.
        seed: of the choice.
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
