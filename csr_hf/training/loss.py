"""One training step's forward pass: all objectives from one encoding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from csr_hf.modeling_csr import CSRModel
from csr_hf.training import objectives
from csr_hf.training.arguments import TrainingArguments


class LossOutput(NamedTuple):
    """Loss, its unweighted parts, and what the dead-latent clock needs."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    """Detached scalars, by name, before weighting."""
    fired: torch.Tensor
    """Which latents fired in this batch at k; bool, shape (hidden_dim,)."""


class CSRLoss(nn.Module):
    """The weighted sum of the objectives that the arguments switch on.

    A module, so that one forward call a step goes through the distributed wrapper, whatever the number of terms.

    Args:
        model: the head being trained.
        arguments: weights and temperatures.
    """

    def __init__(self, model: CSRModel, arguments: TrainingArguments) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments

    def forward(self, embeddings: torch.Tensor, k: int) -> LossOutput:
        """Loss of a batch of embeddings, shape (n, input_dim), at `k` active latents."""
        hidden_dim = self.model.config.hidden_dim
        levels: dict[int, float] = {}
        for multiple, weight in self.arguments.reconstruction.items():
            level = min(hidden_dim, max(1, round(float(multiple) * k)))
            # At the ends several multiples meet in one level.
            levels[level] = levels.get(level, 0.0) + weight
        pre_activations = self.model.pre_activations(embeddings)
        values, indices = torch.topk(pre_activations, max(k, *levels), dim=-1)
        values = torch.relu(values)

        parts, terms = {}, []
        at_k = None
        for level, weight in levels.items():
            decoded = self.model.decode(values[:, :level], indices[:, :level])
            error = objectives.reconstruction(embeddings, decoded)
            parts[f"reconstruction_{level}"] = error
            terms.append(weight * error)
            at_k = decoded if level == k else at_k
        if at_k is None:
            at_k = self.model.decode(values[:, :k], indices[:, :k])
        parts["explained_variance"] = objectives.explained_variance(embeddings, at_k.detach())
        parts["active_latents"] = (values[:, :k] > 0).float().sum(-1).mean()

        terms += self._auxiliary(embeddings - at_k.detach(), pre_activations, parts)
        terms += self._on_latents(embeddings, values[:, :k], indices[:, :k], parts)
        fired = torch.zeros(hidden_dim, dtype=torch.bool, device=embeddings.device)
        fired[indices[:, :k][values[:, :k] > 0]] = True
        loss = torch.stack([term.float() for term in terms]).sum()
        return LossOutput(loss, {name: part.detach() for name, part in parts.items()}, fired)

    def _auxiliary(
        self, residuals: torch.Tensor, pre_activations: torch.Tensor, parts: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        config = self.model.config
        dead = self.model.stats_last_nonzero > config.dead_threshold
        count = min(config.k_aux, int(dead.sum()))
        if count == 0 or self.arguments.beta == 0:
            return []
        values, indices = torch.topk(pre_activations.masked_fill(~dead, -torch.inf), count, dim=-1)
        explained = self.model.decode(torch.relu(values), indices) - self.model.pre_bias
        parts["auxiliary"] = objectives.auxiliary(residuals, explained)
        return [self.arguments.beta * parts["auxiliary"]]

    def _on_latents(
        self, embeddings: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, parts: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        arguments = self.arguments
        if not (arguments.gamma or arguments.distillation or arguments.balance):
            return []
        empty = values.new_zeros(len(values), self.model.config.hidden_dim)
        latents = empty.scatter(-1, indices, values)
        terms = []
        if arguments.gamma:
            parts["contrast"] = objectives.contrast(latents, latents, arguments.temperature)
            terms.append(arguments.gamma * parts["contrast"])
        if arguments.distillation:
            parts["distillation"] = objectives.similarity_distillation(
                embeddings, latents, arguments.distillation_temperature
            )
            terms.append(arguments.distillation * parts["distillation"])
        if arguments.balance:
            parts["balance"] = objectives.balance(latents)
            terms.append(arguments.balance * parts["balance"])
        return terms
