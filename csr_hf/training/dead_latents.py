"""Clocks of the latents: how many training examples ago each of them fired; one that has not for long is dead."""

from __future__ import annotations

import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import rank_and_world, sum_over_processes
from csr_hf.training.batches import Batch


def advance_dead_clocks(model: CSRModel, fired: torch.Tensor, batch: Batch) -> None:
    """Advance the clocks by the examples of a step, over all processes, and set those of latents that fired to 0.

    Args:
        model: the head, whose clocks are counted in examples.
        fired: which latents fired in this process for each modality; bool, shape (modalities, hidden_dim).
        batch: of this process.
    """
    fired = sum_over_processes(fired.int()) > 0
    model.stats_last_nonzero += len(batch.embeddings) * rank_and_world()[1]
    model.stats_last_nonzero[fired.any(0)] = 0
    if batch.modalities is not None:
        counts = sum_over_processes(torch.bincount(batch.modalities, minlength=len(fired)))
        model.modality_last_nonzero += counts[:, None]
        model.modality_last_nonzero[fired] = 0


def compute_dead_fractions(model: CSRModel) -> dict[str, float]:
    """Compute the share of the latents that have not fired for more than `dead_threshold` training examples.

    Returns:
        `dead_fraction`; for a head of several modalities also `dead_fraction_image` and the like, which count the
        examples of that modality alone.
    """
    limit = model.config.dead_threshold
    fractions = {"dead_fraction": float((model.stats_last_nonzero > limit).float().mean())}
    for number, name in enumerate(model.config.modalities or ()):
        fractions[f"dead_fraction_{name}"] = float((model.modality_last_nonzero[number] > limit).float().mean())
    return fractions
