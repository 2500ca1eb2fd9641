"""One training step's forward pass: all objectives from one encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import gathered, rank_and_world, summed
from csr_hf.training import objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.sparse_ops import Codes, encode_and_decode, inner_products

Parts = dict[str, torch.Tensor]
AddTerm = Callable[[str, float, torch.Tensor], None]


class Batch(NamedTuple):
    """What one process takes in one step."""

    embeddings: torch.Tensor
    """Rows, then their positives, then their negatives, as far as there are any; shape (parts * n, input_dim)."""
    n: int
    """Number of rows."""
    labels: torch.Tensor | None = None
    """Classes of the rows, shape (n,); those below 0 have none."""
    modalities: torch.Tensor | None = None
    """Places of all embeddings' modalities among the head's, int64, shape (parts * n,); None: there is one."""


class LossOutput(NamedTuple):
    """Loss, its unweighted parts, and what the dead-latent clock needs."""

    loss: torch.Tensor
    parts: Parts
    """Detached scalars, by name, before weighting."""
    fired: torch.Tensor
    """Which latents fired in this batch at k for each modality; bool, shape (modalities, hidden_dim)."""


class CSRLoss(nn.Module):
    """The weighted sum of the objectives that the arguments switch on.

    A module, so that one forward call a step goes through the distributed wrapper, whatever the number of terms. The
    mean of its gradients over all processes is the gradient of one process with all their batches: codes are gathered
    with gradients for every term that compares examples.

    Args:
        model: the head being trained.
        arguments: weights and temperatures.
        variance: mean ||x - mean(x)||^2 of the training embeddings, which errors are divided by.
    """

    def __init__(self, model: CSRModel, arguments: CSRTrainingArguments, variance: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.variance = variance
        self.divisor = variance if arguments.error == "variance" else float(model.config.input_dim)

    def forward(self, batch: Batch, k: int) -> LossOutput:
        """Loss of a batch at `k` active latents."""
        embeddings, weights = batch.embeddings, self._weights_of_levels(k)
        levels = sorted(weights)
        codes, decoded = self._encode(embeddings, levels)
        at_k = decoded[levels.index(k)]
        codes = Codes(codes.values[:, :k], codes.indices[:, :k])

        parts: Parts = {}
        terms: list[torch.Tensor] = []

        def add(name: str, weight: float, value: torch.Tensor) -> None:
            parts[name] = value
            terms.append(weight * value)

        for level, reconstructed in zip(levels, decoded, strict=True):
            if weights[level]:
                error = objectives.reconstruction(embeddings, reconstructed, self.divisor)
                add(f"reconstruction_{level}", weights[level], error)
        self._add_auxiliary(add, batch, at_k.detach())
        self._add_on_codes(add, batch, codes.normalized())
        parts["explained_variance"] = 1 - objectives.reconstruction(embeddings, at_k.detach(), self.variance)
        active = codes.values > 0
        parts["active_latents"] = active.float().sum(-1).mean()
        count = len(self.model.config.modalities or [""])
        fired = torch.zeros(count, self.model.config.hidden_dim, dtype=torch.bool, device=embeddings.device)
        row, place = torch.nonzero(active, as_tuple=True)
        modality = torch.zeros_like(row) if batch.modalities is None else batch.modalities[row]
        fired[modality, codes.indices[row, place].long()] = True
        loss = torch.stack([term.float() for term in terms]).sum()
        return LossOutput(loss, {name: part.detach() for name, part in parts.items()}, fired)

    def _weights_of_levels(self, k: int) -> dict[int, float]:
        weights = {k: 0.0}
        for multiple, weight in self.arguments.reconstruction.items():
            level = min(self.model.config.hidden_dim, max(1, round(float(multiple) * k)))
            # At the ends several multiples meet in one level.
            weights[level] = weights.get(level, 0.0) + weight
        return weights

    def _encode(self, embeddings: torch.Tensor, levels: list[int]) -> tuple[Codes, torch.Tensor]:
        model = self.model
        decoder = None if model.config.tied_decoder else model.dictionary
        rows = -(-len(embeddings) // self.arguments.gradient_accumulation_steps)
        return encode_and_decode(
            embeddings, model.encoder.weight, model.latent_bias, model.pre_bias, decoder, levels, rows
        )

    def _add_auxiliary(self, add: AddTerm, batch: Batch, decoded: torch.Tensor) -> None:
        model, beta = self.model, self.arguments.beta
        if batch.modalities is None:
            error = self._auxiliary(batch.embeddings, decoded, model.stats_last_nonzero)
            if error is not None:
                add("auxiliary", beta, error)
            return
        for number, name in enumerate(model.config.modalities or ()):
            own = batch.modalities == number
            error = self._auxiliary(batch.embeddings[own], decoded[own], model.modality_last_nonzero[number])
            if error is not None:
                add(f"auxiliary_{name}", beta, error)

    def _auxiliary(self, embeddings: torch.Tensor, decoded: torch.Tensor, clock: torch.Tensor) -> torch.Tensor | None:
        """The error that dead latents leave; None if there are none."""
        model = self.model
        dead = torch.nonzero(clock > model.config.dead_threshold).squeeze(-1)
        count = min(model.config.k_aux, len(dead))
        if count == 0 or self.arguments.beta == 0:
            return None
        residuals = embeddings - decoded
        # A matrix product with the dead latents alone: they are few, or soon will be.
        pre = F.linear(embeddings - model.pre_bias, model.encoder.weight[dead], model.latent_bias[dead]).float()
        if count < len(dead):
            values, places = torch.topk(pre, count, dim=-1)
            pre = torch.full_like(pre, -torch.inf).scatter(-1, places, values)
        explained = torch.relu(pre) @ model.dictionary[dead].float()
        # Over all processes: sums of squares are split between them, the mean is not.
        n = summed(residuals.new_tensor(float(len(residuals))))
        mean = summed(residuals.sum(0)) / n.clamp_min(1)
        spread = summed((residuals - mean).pow(2).sum()) / rank_and_world()[1]
        return objectives.auxiliary(residuals, explained, spread)

    def _add_on_codes(self, add: AddTerm, batch: Batch, codes: Codes) -> None:
        arguments = self.arguments
        if not (arguments.gamma or arguments.distillation or arguments.balance):
            return
        everyone = Codes(gathered(codes.values), gathered(codes.indices))
        if arguments.gamma:
            add("contrast", arguments.gamma, self._contrast(batch, codes, everyone))
        if arguments.distillation:
            add("distillation", arguments.distillation, self._distillation(batch, codes, everyone))
        if arguments.balance:
            add("balance", arguments.balance, self._balance(batch, everyone))

    def _balance(self, batch: Batch, everyone: Codes) -> torch.Tensor:
        """Of each modality by itself: an index holds one of them. Their mean."""
        hidden_dim = self.model.config.hidden_dim
        if batch.modalities is None:
            return objectives.balance(*everyone, hidden_dim)
        modalities = gathered(batch.modalities)
        parts = [Codes(*(part[modalities == number] for part in everyone)) for number in modalities.unique()]
        return torch.stack([objectives.balance(*part, hidden_dim) for part in parts]).mean()

    def _contrast(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, world), n, temperature = rank_and_world(), batch.n, self.arguments.temperature
        hidden_dim = self.model.config.hidden_dim
        own = rank * n + torch.arange(n, device=codes.values.device)
        anchors, parts = codes, [everyone]
        if len(codes.values) > n or world > 1:
            # Each process contributed its rows, then their positives, then their negatives.
            count = len(codes.values) // n
            split = [tensor.unflatten(0, (world, count, n)) for tensor in everyone]
            parts = [Codes(*(tensor[:, part].flatten(0, 1) for tensor in split)) for part in range(count)]
            anchors = codes.rows(0, n)
        if self.arguments.contrast == "labels" and batch.labels is not None:
            labels = gathered(batch.labels)
            others = torch.ones(n, len(labels), dtype=torch.bool, device=own.device)
            others[torch.arange(n, device=own.device), own] = False
            positives = (batch.labels[:, None] == labels) & (batch.labels[:, None] >= 0) & others
            # Processes may hold different numbers of rows with a positive.
            with_positive = summed(positives.any(-1).sum()) / world
            similarities = inner_products(anchors, parts[0], hidden_dim)
            return objectives.supervised_contrast(similarities, positives, others, temperature, with_positive)
        candidates = parts[1:] or parts[:1]
        joined = candidates[0]
        if len(candidates) > 1:
            joined = Codes(*(torch.cat(tensors) for tensors in zip(*candidates, strict=True)))
        return objectives.contrast(inner_products(anchors, joined, hidden_dim), own, temperature)

    def _distillation(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, _), n, hidden_dim = rank_and_world(), len(codes.values), self.model.config.hidden_dim
        embeddings = gathered(batch.embeddings)
        others = torch.ones(n, len(embeddings), dtype=torch.bool, device=embeddings.device)
        others[torch.arange(n), rank * n + torch.arange(n)] = False
        unit = F.normalize(embeddings.float(), dim=-1)
        teacher = F.normalize(batch.embeddings.float(), dim=-1) @ unit.t()
        student = inner_products(codes, everyone, hidden_dim)
        return objectives.similarity_distillation(teacher, student, others, self.arguments.distillation_temperature)
