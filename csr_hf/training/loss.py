"""One training step's forward pass: all objectives from one encoding."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import gathered, rank_and_world, summed
from csr_hf.training import objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.batches import Batch
from csr_hf.training.sparse_ops import Codes, encode_and_decode, inner_products

Terms: TypeAlias = dict[str, tuple[float, torch.Tensor]]
"""Name -> weight and value of a term of the loss."""


class LossOutput(NamedTuple):
    """Loss, its unweighted parts, and what the dead-latent clock needs."""

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    """Detached scalars, by name, before weighting."""
    fired: torch.Tensor
    """Which latents fired in this batch at k for each modality; bool, shape (modalities, hidden_dim)."""


class CSRLoss(nn.Module):
    """The weighted sum of up to five terms; `objectives` has each as a function with its equation.

    1. `reconstruction_K`: ||x - x_hat||^2 with K active latents, at every multiple of k in `args.reconstruction`.
    2. `auxiliary` (beta): what dead latents explain of the error, so that they come alive.
    3. `contrast` (gamma): a code against itself, its pair, or codes of its class, and the rest of the batch.
    4. `distillation`: the similarities of codes against those of the embeddings.
    5. `balance`: how evenly the latents are used.

    A module, so that one forward call a step goes through the distributed wrapper, whatever the number of terms. The
    mean of its gradients over all processes is the gradient of one process with all their batches: codes are gathered
    with gradients for every term that compares examples.

    Args:
        model: the head being trained.
        args: weights and temperatures.
        variance: mean ||x - mean(x)||^2 of the training embeddings, which errors are divided by.

    Example:
        >>> loss = CSRLoss(head, CSRTrainingArguments.from_preset("csr_hf"))
        >>> loss(Batch(embeddings, n=len(embeddings)), k=32).loss.backward()
    """

    def __init__(self, model: CSRModel, args: CSRTrainingArguments, variance: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.args = args
        self.variance = variance
        self.divisor = variance if args.error == "variance" else float(model.config.input_dim)

    def forward(self, batch: Batch, k: int) -> LossOutput:
        """Compute the loss of a batch at `k` active latents."""
        embeddings, weights = batch.embeddings, self._weights_of_levels(k)
        levels = sorted(weights)
        codes, decoded = self._encode(embeddings, levels)
        at_k = decoded[levels.index(k)]
        codes = Codes(codes.values[:, :k], codes.indices[:, :k])

        terms: Terms = {
            f"reconstruction_{level}": (
                weights[level],
                objectives.reconstruction(embeddings, reconstructed, self.divisor),
            )
            for level, reconstructed in zip(levels, decoded, strict=True)
            if weights[level]
        }
        terms |= self._auxiliary_terms(batch, at_k.detach())
        terms |= self._code_terms(batch, codes.normalized())
        parts = {name: value.detach() for name, (_, value) in terms.items()}
        parts["explained_variance"] = 1 - objectives.reconstruction(embeddings, at_k, self.variance).detach()
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

    def _weights_of_levels(self, k: int) -> dict[int, float]:
        weights = {k: 0.0}
        for multiple, weight in self.args.reconstruction.items():
            level = min(self.model.config.hidden_dim, max(1, round(float(multiple) * k)))
            # At the ends several multiples meet in one level.
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
            own = batch.modalities == number
            error = self._auxiliary(batch.embeddings[own], decoded[own], model.modality_last_nonzero[number])
            if error is not None:
                terms[f"auxiliary_{name}"] = self.args.beta, error
        return terms

    def _auxiliary(self, embeddings: torch.Tensor, decoded: torch.Tensor, clock: torch.Tensor) -> torch.Tensor | None:
        """Compute the error that dead latents leave; None if there are none."""
        model = self.model
        dead = torch.nonzero(clock > model.config.dead_threshold).squeeze(-1)
        count = min(model.config.k_aux, len(dead))
        if count == 0 or self.args.beta == 0:
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

    def _code_terms(self, batch: Batch, codes: Codes) -> Terms:
        args = self.args
        if not (args.gamma or args.distillation or args.balance):
            return {}
        everyone, terms = Codes(gathered(codes.values), gathered(codes.indices)), {}
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
        modalities = gathered(batch.modalities)
        parts = [Codes(*(part[modalities == number] for part in everyone)) for number in modalities.unique()]
        return torch.stack([objectives.balance(*part, hidden_dim) for part in parts]).mean()

    def _contrast(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, world), n, temperature = rank_and_world(), batch.n, self.args.temperature
        hidden_dim = self.model.config.hidden_dim
        own = rank * n + torch.arange(n, device=codes.values.device)
        anchors, parts = codes, [everyone]
        if len(codes.values) > n or world > 1:
            # Each process contributed its rows, then their positives, then their negatives.
            count = len(codes.values) // n
            split = [tensor.unflatten(0, (world, count, n)) for tensor in everyone]
            parts = [Codes(*(tensor[:, part].flatten(0, 1) for tensor in split)) for part in range(count)]
            anchors = codes.rows(0, n)
        if self.args.contrast == "labels" and batch.labels is not None:
            return self._contrast_of_classes(batch.labels, anchors, parts[0], own)
        candidates = parts[1:] or parts[:1]
        joined = candidates[0]
        if len(candidates) > 1:
            joined = Codes(*(torch.cat(tensors) for tensors in zip(*candidates, strict=True)))
        return objectives.contrast(inner_products(anchors, joined, hidden_dim), own, temperature)

    def _contrast_of_classes(
        self, own_labels: torch.Tensor, anchors: Codes, everyone: Codes, own: torch.Tensor
    ) -> torch.Tensor:
        labels, n = gathered(own_labels), len(own)
        others = torch.ones(n, len(labels), dtype=torch.bool, device=own.device)
        others[torch.arange(n, device=own.device), own] = False
        positives = (own_labels[:, None] == labels) & (own_labels[:, None] >= 0) & others
        # Processes may hold different numbers of rows with a positive.
        with_positive = summed(positives.any(-1).sum()) / rank_and_world()[1]
        similarities = inner_products(anchors, everyone, self.model.config.hidden_dim)
        return objectives.supervised_contrast(similarities, positives, others, self.args.temperature, with_positive)

    def _distillation(self, batch: Batch, codes: Codes, everyone: Codes) -> torch.Tensor:
        (rank, _), n, hidden_dim = rank_and_world(), len(codes.values), self.model.config.hidden_dim
        embeddings = gathered(batch.embeddings)
        others = torch.ones(n, len(embeddings), dtype=torch.bool, device=embeddings.device)
        others[torch.arange(n), rank * n + torch.arange(n)] = False
        unit = F.normalize(embeddings.float(), dim=-1)
        teacher = F.normalize(batch.embeddings.float(), dim=-1) @ unit.t()
        student = inner_products(codes, everyone, hidden_dim)
        return objectives.similarity_distillation(teacher, student, others, self.args.distillation_temperature)
