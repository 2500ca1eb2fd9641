"""Differentiable operations on active latents: one matrix product forward, gradients only where a latent is active.

On a CPU they run compiled loops (`cpu_kernels`) and keep no array of n x hidden_dim; on other devices they are plain
torch, because dense matrix products are faster there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.plumbing.threads import run

_TASKS_PER_THREAD = 4


class Codes(NamedTuple):
    """Sparse codes of a batch; unlike in `CSRModel.encode`, a row's values are in no order within a level."""

    values: torch.Tensor
    """0 or more, shape (n, k); zeros only at the end of a row."""
    indices: torch.Tensor
    """The latents, int32 or int64, shape (n, k)."""

    def normalized(self) -> Codes:
        """Return the codes with each row scaled to unit norm."""
        return Codes(F.normalize(self.values, dim=-1), self.indices)

    def rows(self, start: int, stop: int) -> Codes:
        """Return the rows from `start` to before `stop`."""
        return Codes(self.values[start:stop], self.indices[start:stop])

    def latents(self, hidden_dim: int) -> torch.Tensor:
        """Return the codes as a dense tensor, shape (n, hidden_dim)."""
        empty = self.values.new_zeros(len(self.values), hidden_dim)
        return empty.scatter_add(-1, self.indices.long(), self.values)


def encode_and_decode(
    embeddings: torch.Tensor,
    weight: torch.Tensor,
    latent_bias: torch.Tensor,
    pre_bias: torch.Tensor,
    decoder: torch.Tensor | None,
    levels: Sequence[int],
    rows: int | None = None,
) -> tuple[Codes, torch.Tensor]:
    """Encode embeddings at the largest level, and decode the best `level` latents for every level.

    Args:
        embeddings: shape (n, input_dim); no gradient reaches them.
        weight: of the encoder, shape (hidden_dim, input_dim).
        latent_bias: shape (hidden_dim,).
        pre_bias: shape (input_dim,).
        decoder: atoms of an untied decoder, shape (hidden_dim, input_dim); None: the encoder's.
        levels: numbers of latents, ascending.
        rows: embeddings whose pre-activations are in memory at a time (on a CPU); None: all.

    Returns:
        Codes, shape (n, levels[-1]), whose first `level` entries are the best for each level; reconstructions, shape
        (len(levels), n, input_dim).
    """
    if embeddings.device.type == "cpu":
        values, indices, decoded = _EncodeAndDecode.apply(
            embeddings, weight, latent_bias, pre_bias, decoder, tuple(levels), rows or len(embeddings)
        )
        return Codes(values, indices), decoded
    pre = F.linear(embeddings - pre_bias, weight, latent_bias).float()
    values, indices = torch.topk(pre, levels[-1], dim=-1)
    codes = Codes(torch.relu(values), indices)
    atoms = weight if decoder is None else decoder
    decoded = [
        Codes(codes.values[:, :level], indices[:, :level]).latents(len(weight)) @ atoms + pre_bias for level in levels
    ]
    return codes, torch.stack([part.float() for part in decoded])


def compute_inner_products(first: Codes, second: Codes, hidden_dim: int) -> torch.Tensor:
    """Compute the inner products of all codes of `first` with all of `second`, shape (n, m)."""
    if first.values.device.type == "cpu":
        products: torch.Tensor = _InnerProducts.apply(
            first.values, first.indices.int(), second.values, second.indices.int(), hidden_dim
        )
        return products
    return first.latents(hidden_dim) @ second.latents(hidden_dim).t()


class _EncodeAndDecode(torch.autograd.Function):
    """Saves codes and embeddings for the backward pass, and no pre-activations."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        weight: torch.Tensor,
        latent_bias: torch.Tensor,
        pre_bias: torch.Tensor,
        decoder: torch.Tensor | None,
        levels: tuple[int, ...],
        rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from csr_hf.training.cpu_top_k import select_largest

        kernels, n, ends = _cpu_kernels(), len(embeddings), np.array(levels, np.int64)
        centered = embeddings - pre_bias
        values = np.empty((n, levels[-1]), np.float32)
        latents = np.empty((n, levels[-1]), np.int32)
        for start in range(0, n, rows):
            pre = F.linear(centered[start : start + rows], weight, latent_bias).float().numpy()
            part = slice(start, start + rows)
            _run_shared(select_largest, len(pre), pre, ends, values[part], latents[part])
        atoms = (weight if decoder is None else decoder).contiguous()
        decoded = torch.empty(len(levels), n, embeddings.shape[1])
        _run_shared(kernels.decode, n, values, latents, atoms.numpy(), pre_bias.numpy(), ends, decoded.numpy())
        ctx.save_for_backward(centered, weight, decoder)
        ctx.codes, ctx.levels = (values, latents), levels
        codes = torch.from_numpy(values), torch.from_numpy(latents)
        ctx.mark_non_differentiable(codes[1])
        return *codes, decoded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from_values, _, from_decoded = gradients
        centered, weight, decoder = ctx.saved_tensors
        (values, latents), levels = ctx.codes, ctx.levels
        kernels, ends = _cpu_kernels(), np.array(levels, np.int64)
        atoms = (weight if decoder is None else decoder).contiguous()
        # An entry is part of the reconstruction of its own level and of all above.
        incoming = from_decoded.flip(0).cumsum(0).flip(0).contiguous()
        of_values = from_values.clone(memory_format=torch.contiguous_format).numpy()
        arrays = values, latents, atoms.numpy(), ends, incoming.numpy(), of_values
        _run_shared(kernels.add_value_gradients, len(values), *arrays)
        hidden_dim = len(weight)
        level_of_rank = np.searchsorted(ends, np.arange(levels[-1]), side="right")
        lists = kernels.group_by_latent(values, latents, hidden_dim)

        def compute_atom_gradients(decoding: np.ndarray, encoding: np.ndarray) -> torch.Tensor:
            sums = torch.zeros_like(weight)
            arrays = decoding, level_of_rank, incoming.numpy(), encoding, centered.numpy(), sums.numpy()
            _run_shared(kernels.add_atom_gradients, hidden_dim, *lists, *arrays)
            return sums

        zeros = np.zeros_like(values)
        of_decoder = None if decoder is None else compute_atom_gradients(values, zeros)
        of_weight = compute_atom_gradients(values if decoder is None else zeros, of_values)
        of_latent_bias = torch.from_numpy(
            np.bincount(latents.ravel(), of_values.ravel(), hidden_dim).astype(np.float32)
        )
        of_pre_bias = incoming[0].sum(0) - of_latent_bias @ weight
        return None, of_weight, of_latent_bias, of_pre_bias, of_decoder, None, None


class _InnerProducts(torch.autograd.Function):
    """Groups the entries of the second codes by latent; the backward pass does so for either side."""

    @staticmethod
    def forward(
        ctx: Any,
        first_values: torch.Tensor,
        first_indices: torch.Tensor,
        second_values: torch.Tensor,
        second_indices: torch.Tensor,
        hidden_dim: int,
    ) -> torch.Tensor:
        first = first_values.contiguous().numpy(), first_indices.contiguous().numpy()
        second = second_values.contiguous().numpy(), second_indices.contiguous().numpy()
        ctx.codes, ctx.hidden_dim = (first, second), hidden_dim
        ctx.same = first_values is second_values and first_indices is second_indices
        products = torch.empty(len(first[0]), len(second[0]))
        ctx.lists = _group_values(second, hidden_dim)
        kernel = _cpu_kernels().compute_inner_products
        _run_shared(kernel, len(products), *first, *ctx.lists, products.numpy())
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        incoming, (first, second) = gradients[0].contiguous(), ctx.codes

        def compute_gradients(side: tuple, lists: tuple, incoming: torch.Tensor) -> torch.Tensor:
            found = torch.empty(side[0].shape)
            kernel = _cpu_kernels().compute_product_gradients
            _run_shared(kernel, len(side[0]), *side, *lists, incoming.contiguous().numpy(), found.numpy())
            return found

        if ctx.same:
            # Both sides are one tensor: a single pass with the gradients of either.
            return compute_gradients(first, ctx.lists, incoming + incoming.t()), None, None, None, None
        of_first = of_second = None
        if ctx.needs_input_grad[0]:
            of_first = compute_gradients(first, ctx.lists, incoming)
        if ctx.needs_input_grad[2]:
            of_second = compute_gradients(second, _group_values(first, ctx.hidden_dim), incoming.t())
        return of_first, None, of_second, None, None


def _group_values(codes: tuple[np.ndarray, np.ndarray], hidden_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group codes (values, latents) by latent: indptr, and rows and values of the entries."""
    indptr, rows, ranks = _cpu_kernels().group_by_latent(*codes, hidden_dim)
    return indptr, rows, codes[0][rows, ranks]


def _cpu_kernels() -> ModuleType:
    # numba takes a second to import, and only training on a CPU needs it.
    from csr_hf.training import cpu_kernels

    return cpu_kernels


def _run_shared(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a kernel over `count` rows (or latents) on as many threads as torch uses."""
    threads = torch.get_num_threads()
    edges = np.linspace(0, count, min(count, threads * _TASKS_PER_THREAD) + 1).astype(int)
    run(lambda start, stop: kernel(*arguments, start, stop), itertools.pairwise(edges), threads)
