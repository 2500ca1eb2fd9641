"""The loss of a training step: all objectives from one encoding of the batch."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import gather_from_processes, rank_and_world, sum_over_processes
from csr_hf.training import objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.batches import Batch
from csr_hf.training.sparse_ops import Codes, compute_inner_products, encode_and_decode

Terms: TypeAlias = dict[str, tuple[float, torch.Tensor]]
"""Name -> weight, and value with a gradient, of a term of the loss."""


class LossOutput(NamedTuple):
    """Loss, its parts, and what the dead-latent clocks need."""

    loss: torch.Tensor
    """A scalar with a gradient."""
    parts: dict[str, torch.Tensor]
    """Detached scalars: each term before weighting, `explained_variance` and `active_latents` at k."""
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
        variance: mean ||x - mean(x)||^2 of the training embeddings: what `explained_variance` is relative to, and
            errors too with `error: variance`.
    """

    def __init__(self, model: CSRModel, args: CSRTrainingArguments, variance: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.args = args
        self.variance = variance
        self.divisor = variance if args.error == "variance" else float(model.config.input_dim)

    def forward(self, batch: Batch, k: int) -> LossOutput:
        """Compute the loss of a batch at `k` active latents."""
        embeddings, weights = batch.embeddings, self._level_weights(k)
        levels = sorted(weights)
        codes, decoded = self._encode(embeddings, levels)
        at_k = decoded[levels.index(k)].detach()
        codes = Codes(codes.values[:, :k], codes.indices[:, :k])

        terms: Terms = {
            f"reconstruction_{level}": (weights[level], objectives.reconstruction(embeddings, part, self.divisor))
            for level, part in zip(levels, decoded, strict=True)
            if weights[level]
        }
        terms |= self._auxiliary_terms(batch, at_k)
        terms |= self._code_terms(batch, codes.normalized())
        parts = {name: value.detach() for name, (_, value) in terms.items()}
        parts["explained_variance"] = 1 - objectives.reconstruction(embeddings, at_k, self.variance)
        parts["active_latents"] = (codes.values > 0).float().sum(-1).mean()
        loss = torch.stack([(weight * value).float() for weight, value in terms.values()]).sum()
        return LossOutput(loss, parts, self._find_fired(codes, batch.modalities))

    def _find_fired(self, codes: Codes, modalities: torch.Tensor | None) -> torch.Tensor:
        """Find which latents fired, for each modality; bool, shape (modalities, hidden_dim)."""
        config = self.model.config
        fired = torch.zeros(
            len(config.modalities or [""]), config.hidden_dim, dtype=torch.bool, device=codes.values.device
        )
        row, place = torch.nonzero(codes.values > 0, as_tuple=True)
        modality = torch.zeros_like(row) if modalities is None else modalities[row]
        fired[modality, codes.indices[row, place].long()] = True
        return fired

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

    def _auxiliary_terms(self, batch: Batch, decoded: torch.Tensor) -> Terms:
        model, terms = self.model, {}
        if batch.modalities is None:
            error = self._auxiliary(batch.embeddings, decoded, model.stats_last_nonzero)
            return {} if error is None else {"auxiliary": (self.args.beta, error)}
        for number, name in enumerate(model.config.modalities or ()):
            chosen, clock = batch.modalities == number, model.modality_last_nonzero[number]
            error = self._auxiliary(batch.embeddings[chosen], decoded[chosen], clock)
            if error is not None:
                terms[f"auxiliary_{name}"] = self.args.beta, error
        return terms

    def _auxiliary(self, embeddings: torch.Tensor, decoded: torch.Tensor, clock: torch.Tensor) -> torch.Tensor | None:
        """Compute the share of the error that dead latents leave unexplained; None if no latent is dead."""
        model = self.model
        dead = torch.nonzero(clock > model.config.dead_threshold).squeeze(-1)
        count = min(model.config.k_aux or 0, len(dead))
        if count == 0 or self.args.beta == 0:
            return None
        residuals = embeddings - decoded
        # A matrix product with the dead latents alone: they are few after the first steps.
        pre = F.linear(embeddings - model.pre_bias, model.encoder.weight[dead], model.latent_bias[dead]).float()
        pre = F.leaky_relu(pre, self.args.auxiliary_slope)
        if count < len(dead):
            values, places = torch.topk(pre, count, dim=-1)
            pre = torch.zeros_like(pre).scatter(-1, places, values)
        explained = pre @ model.dictionary[dead].float()
        # The mean is that of all processes; the loss of each takes its part of the sum of squares.
        n = sum_over_processes(residuals.new_tensor(float(len(residuals))))
        mean = sum_over_processes(residuals.sum(0)) / n.clamp_min(1)
        spread = sum_over_processes((residuals - mean).pow(2).sum()) / rank_and_world()[1]
        return objectives.auxiliary(residuals, explained, spread)

    def _code_terms(self, batch: Batch, codes: Codes) -> Terms:
        args = self.args
        if not (args.gamma or args.distillation or args.balance):
            return {}
        everyone, terms = Codes(gather_from_processes(codes.values), gather_from_processes(codes.indices)), {}
        if args.gamma:
            terms["contrast"] = args.gamma, self._contrast(batch, codes, everyone)
        if args.distillation:
            terms["distillation"] = args.distillation, self._distillation(batch, codes, everyone)
        if args.balance:
            terms["balance"] = args.balance, self._balance(batch, everyone)
        return terms

    def _balance(self, batch: Batch, everyone: Codes) -> torch.Tensor:
        """Average the balance of the modalities: each is searched in an index of its own."""
        hidden_dim = self.model.config.hidden_dim
        if batch.modalities is None:
            return objectives.balance(*everyone, hidden_dim)
        modalities = gather_from_processes(batch.modalities)
        parts = [Codes(*(part[modalities == number] for part in everyone)) for number in modalities.unique()]
        return torch.stack([objectives.balance(*part, hidden_dim) for part in parts]).mean()

    def _contrast(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, world), n, temperature = rank_and_world(), batch.n, self.args.temperature
        hidden_dim = self.model.config.hidden_dim
        columns = rank * n + torch.arange(n, device=codes.values.device)
        anchors, parts = codes, [everyone]
        if len(codes.values) > n or world > 1:
            # Each process contributed its rows, then their positives, then their negatives.
            count = len(codes.values) // n
            split = [tensor.unflatten(0, (world, count, n)) for tensor in everyone]
            parts = [Codes(*(tensor[:, part].flatten(0, 1) for tensor in split)) for part in range(count)]
            anchors = codes.rows(0, n)
        if self.args.contrast == "labels" and batch.labels is not None:
            return self._contrast_of_classes(batch.labels, anchors, parts[0], columns)
        candidates = parts[1:] or parts[:1]
        joined = candidates[0]
        if len(candidates) > 1:
            joined = Codes(*(torch.cat(tensors) for tensors in zip(*candidates, strict=True)))
        return objectives.contrast(compute_inner_products(anchors, joined, hidden_dim), columns, temperature)

    def _contrast_of_classes(
        self, anchor_labels: torch.Tensor, anchors: Codes, everyone: Codes, columns: torch.Tensor
    ) -> torch.Tensor:
        """Compute the contrast of `anchors` with the rows of all processes, among which they stand at `columns`."""
        labels, n = gather_from_processes(anchor_labels), len(columns)
        others = torch.ones(n, len(labels), dtype=torch.bool, device=columns.device)
        others[torch.arange(n, device=columns.device), columns] = False
        positives = (anchor_labels[:, None] == labels) & (anchor_labels[:, None] >= 0) & others
        # Processes may hold different numbers of rows with a positive.
        with_positive = sum_over_processes(positives.any(-1).sum()) / rank_and_world()[1]
        similarities = compute_inner_products(anchors, everyone, self.model.config.hidden_dim)
        return objectives.supervised_contrast(similarities, positives, others, self.args.temperature, with_positive)

    def _distillation(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, _), n, hidden_dim = rank_and_world(), len(codes.values), self.model.config.hidden_dim
        embeddings = gather_from_processes(batch.embeddings)
        others = torch.ones(n, len(embeddings), dtype=torch.bool, device=embeddings.device)
        others[torch.arange(n), rank * n + torch.arange(n)] = False
        unit = F.normalize(embeddings.float(), dim=-1)
        teacher = F.normalize(batch.embeddings.float(), dim=-1) @ unit.t()
        student = compute_inner_products(codes, everyone, hidden_dim)
        return objectives.similarity_distillation(teacher, student, others, self.args.distillation_temperature)
