"""The loss of a training step: all objectives from one encoding of the batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import gather_from_processes, rank_and_world, sum_over_processes
from csr_hf.training import objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.sparse_ops import Codes, encode_and_decode, compute_inner_products


class Batch(NamedTuple):
    """What one process takes in one step."""

    embeddings: torch.Tensor
    """Rows, then their positives, then their negatives, as far as there are any; shape (parts * n, input_dim)."""
    n: int
    """Number of rows."""
    labels: torch.Tensor | None = None
    """Classes of the rows, int64, shape (n,); rows below 0 have none."""
    modalities: torch.Tensor | None = None
    """Each embedding's modality, as its place in the head's list, int64, shape (parts * n,); None: there is one."""


class Term(NamedTuple):
    """One objective of a batch."""

    weight: float
    """Its weight in the loss."""
    value: torch.Tensor
    """A scalar with a gradient, not weighted."""


class LossOutput(NamedTuple):
    """Loss, its parts, and what the dead-latent clocks need."""

    loss: torch.Tensor
    """A scalar with a gradient."""
    parts: dict[str, torch.Tensor]
    """Detached scalars: each objective before weighting, `explained_variance` and `active_latents` at k."""
    fired: torch.Tensor
    """Which latents fired in this batch at k for each modality; bool, shape (modalities, hidden_dim)."""


class CSRLoss(nn.Module):
    """Computes the weighted sum of the objectives that the arguments switch on.

    Terms, with x the embeddings, x_hat_k what the best k latents decode to, and z codes of unit norm:

    1. `reconstruction_K`: ||x - x_hat_K||^2 for each K of `reconstruction`, relative to the variance or per element
       (arXiv 2503.01776, equation 3, for K = k and 4k).
    2. `auxiliary`: how much of e = x - x_hat_k the dead latents explain (arXiv 2406.04093, A.2; 2503.01776,
       equation 4), for each modality by itself; weight `beta`.
    3. `contrast`: cross-entropy of cosines of codes (arXiv 2503.01776, equation 6, and InfoNCE over pairs), or of
       classes (arXiv 2602.05735); weight `gamma`.
    4. `distillation`: KL divergence of the codes' similarities from the embeddings'; weight `distillation`.
    5. `balance`: sum_j (mean_i z_ij)^2, which evens out the inverted lists (FLOPS, arXiv 2004.05665); weight
       `balance`.

    It is a module so that the forward pass goes through the distributed wrapper, once a step. Codes are gathered from
    all processes with gradients for every term that compares examples: the mean of the gradients over the processes is
    the gradient of one process with all their batches.

    Example:
        >>> model = CSRModel(CSRConfig(input_dim=12, hidden_dim=40, k=5))
        >>> loss = CSRLoss(model, CSRTrainingArguments(gamma=0.1))
        >>> output = loss(Batch(torch.randn(64, 12), n=64), k=5)
        >>> output.loss.backward()
        >>> sorted(output.parts)
        ['active_latents', 'contrast', 'explained_variance', 'reconstruction_20', 'reconstruction_5']

    Args:
        model: the head being trained.
        args: weights and temperatures.
        variance: mean ||x - mean(x)||^2 of the training embeddings, which errors are divided by.
    """

    def __init__(self, model: CSRModel, args: CSRTrainingArguments, variance: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.args = args
        self.variance = variance
        self.divisor = variance if args.error == "variance" else float(model.config.input_dim)

    def forward(self, batch: Batch, k: int) -> LossOutput:
        """Compute the loss of a batch at `k` active latents."""
        weights = self._level_weights(k)
        levels = sorted(weights)
        codes, decoded = self._encode(batch.embeddings, levels)
        at_k = decoded[levels.index(k)].detach()
        codes = Codes(codes.values[:, :k], codes.indices[:, :k])
        terms = {
            **self._reconstruction_terms(batch.embeddings, dict(zip(levels, decoded, strict=True)), weights),
            **self._auxiliary_terms(batch, at_k),
            **self._code_terms(batch, codes.normalized()),
        }
        loss = torch.stack([(term.weight * term.value).float() for term in terms.values()]).sum()
        parts = {name: term.value.detach() for name, term in terms.items()}
        parts["explained_variance"] = 1 - objectives.reconstruction(batch.embeddings, at_k, self.variance)
        parts["active_latents"] = (codes.values > 0).float().sum(-1).mean()
        return LossOutput(loss, parts, self._find_fired(batch, codes))

    def _level_weights(self, k: int) -> dict[int, float]:
        weights = {k: 0.0}
        for multiple, weight in self.args.reconstruction.items():
            level = min(self.model.config.hidden_dim, max(1, round(float(multiple) * k)))
            # Near 1 and hidden_dim several multiples give the same level.
            weights[level] = weights.get(level, 0.0) + weight
        return weights

    def _encode(self, embeddings: torch.Tensor, levels: list[int]) -> tuple[Codes, torch.Tensor]:
        model = self.model
        decoder = None if model.config.tied_decoder else model.dictionary
        rows = -(-len(embeddings) // self.args.gradient_accumulation_steps)
        return encode_and_decode(
            embeddings, model.encoder.weight, model.latent_bias, model.pre_bias, decoder, levels, rows
        )

    def _find_fired(self, batch: Batch, codes: Codes) -> torch.Tensor:
        config = self.model.config
        count = len(config.modalities or [""])
        fired = torch.zeros(count, config.hidden_dim, dtype=torch.bool, device=codes.values.device)
        row, rank = torch.nonzero(codes.values > 0, as_tuple=True)
        modality = torch.zeros_like(row) if batch.modalities is None else batch.modalities[row]
        fired[modality, codes.indices[row, rank].long()] = True
        return fired

    def _reconstruction_terms(
        self, embeddings: torch.Tensor, decoded: dict[int, torch.Tensor], weights: dict[int, float]
    ) -> dict[str, Term]:
        return {
            f"reconstruction_{level}": Term(weight, objectives.reconstruction(embeddings, decoded[level], self.divisor))
            for level, weight in sorted(weights.items())
            if weight
        }

    def _auxiliary_terms(self, batch: Batch, decoded: torch.Tensor) -> dict[str, Term]:
        """Compute the auxiliary error of each modality that has dead latents."""
        model, beta = self.model, self.args.beta
        if not beta:
            return {}
        if batch.modalities is None:
            error = self._auxiliary_error(batch.embeddings, decoded, model.stats_last_nonzero)
            return {} if error is None else {"auxiliary": Term(beta, error)}
        terms = {}
        for number, name in enumerate(model.config.modalities or ()):
            chosen = batch.modalities == number
            clock = model.modality_last_nonzero[number]
            error = self._auxiliary_error(batch.embeddings[chosen], decoded[chosen], clock)
            if error is not None:
                terms[f"auxiliary_{name}"] = Term(beta, error)
        return terms

    def _auxiliary_error(
        self, embeddings: torch.Tensor, decoded: torch.Tensor, clock: torch.Tensor
    ) -> torch.Tensor | None:
        """Compute the share of the residuals that dead latents leave unexplained; None if no latent is dead."""
        model = self.model
        dead = torch.nonzero(clock > model.config.dead_threshold).squeeze(-1)
        count = min(model.config.k_aux, len(dead))
        if count == 0:
            return None
        residuals = embeddings - decoded
        # A matrix product with the dead latents alone: they are few after the first steps.
        pre = F.linear(embeddings - model.pre_bias, model.encoder.weight[dead], model.latent_bias[dead]).float()
        if count < len(dead):
            values, places = torch.topk(pre, count, dim=-1)
            pre = torch.full_like(pre, -torch.inf).scatter(-1, places, values)
        explained = torch.relu(pre) @ model.dictionary[dead].float()
        # The mean over all processes; each takes its part of the sum of squares.
        n = sum_over_processes(residuals.new_tensor(float(len(residuals))))
        mean = sum_over_processes(residuals.sum(0)) / n.clamp_min(1)
        spread = sum_over_processes((residuals - mean).pow(2).sum()) / rank_and_world()[1]
        return objectives.auxiliary(residuals, explained, spread)

    def _code_terms(self, batch: Batch, codes: Codes) -> dict[str, Term]:
        """Compute the terms that compare codes with those of all processes."""
        args = self.args
        if not (args.gamma or args.distillation or args.balance):
            return {}
        everyone = Codes(gather_from_processes(codes.values), gather_from_processes(codes.indices))
        terms = {}
        if args.gamma:
            terms["contrast"] = Term(args.gamma, self._contrast(batch, codes, everyone))
        if args.distillation:
            terms["distillation"] = Term(args.distillation, self._distillation(batch, codes, everyone))
        if args.balance:
            terms["balance"] = Term(args.balance, self._balance(batch, everyone))
        return terms

    def _contrast(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, world), n = rank_and_world(), batch.n
        hidden_dim, temperature = self.model.config.hidden_dim, self.args.temperature
        columns = rank * n + torch.arange(n, device=codes.values.device)
        anchors, parts = codes, [everyone]
        if len(codes.values) > n or world > 1:
            # Each process contributed its rows, then their positives, then their negatives.
            count = len(codes.values) // n
            split = [tensor.unflatten(0, (world, count, n)) for tensor in everyone]
            parts = [Codes(*(tensor[:, part].flatten(0, 1) for tensor in split)) for part in range(count)]
            anchors = codes.rows(0, n)
        if self.args.contrast == "labels" and batch.labels is not None:
            labels = gather_from_processes(batch.labels)
            others = torch.ones(n, len(labels), dtype=torch.bool, device=columns.device)
            others[torch.arange(n, device=columns.device), columns] = False
            positives = (batch.labels[:, None] == labels) & (batch.labels[:, None] >= 0) & others
            # Processes may hold different numbers of rows with a positive.
            with_positive = sum_over_processes(positives.any(-1).sum()) / world
            similarities = compute_inner_products(anchors, parts[0], hidden_dim)
            return objectives.supervised_contrast(similarities, positives, others, temperature, with_positive)
        candidates = parts[1:] or parts[:1]
        joined = candidates[0]
        if len(candidates) > 1:
            joined = Codes(*(torch.cat(tensors) for tensors in zip(*candidates, strict=True)))
        return objectives.contrast(compute_inner_products(anchors, joined, hidden_dim), columns, temperature)

    def _distillation(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, _), n = rank_and_world(), len(codes.values)
        embeddings = gather_from_processes(batch.embeddings)
        others = torch.ones(n, len(embeddings), dtype=torch.bool, device=embeddings.device)
        others[torch.arange(n), rank * n + torch.arange(n)] = False
        unit = F.normalize(embeddings.float(), dim=-1)
        teacher = F.normalize(batch.embeddings.float(), dim=-1) @ unit.t()
        student = compute_inner_products(codes, everyone, self.model.config.hidden_dim)
        return objectives.similarity_distillation(teacher, student, others, self.args.distillation_temperature)

    def _balance(self, batch: Batch, everyone: Codes) -> torch.Tensor:
        """Compute the mean of the modalities' balances: an index holds codes of one modality."""
        hidden_dim = self.model.config.hidden_dim
        if batch.modalities is None:
            return objectives.balance(*everyone, hidden_dim)
        modalities = gather_from_processes(batch.modalities)
        parts = [Codes(*(part[modalities == number] for part in everyone)) for number in modalities.unique()]
        return torch.stack([objectives.balance(*part, hidden_dim) for part in parts]).mean()
