"""Differentiable operations on active latents: one matrix product forward, gradients only where a latent is active.

On a CPU they run compiled loops (`kernels`) and keep nothing of the size n x hidden_dim; on other devices they are
plain torch, where dense matrix products are the faster way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.plumbing.threads import run

_TASKS_PER_THREAD = 4


class Codes(NamedTuple):
    """Sparse codes of a batch; unlike those of `CSRModel.encode`, a row's values are in no order within a level."""

    values: torch.Tensor
    """Not negative, shape (n, k); zeros, if any, at the end of a row."""
    indices: torch.Tensor
    """The latents, int32 or int64, shape (n, k)."""

    def normalized(self) -> Codes:
        """With values of unit norm."""
        return Codes(F.normalize(self.values, dim=-1), self.indices)

    def rows(self, start: int, stop: int) -> Codes:
        """Some rows."""
        return Codes(self.values[start:stop], self.indices[start:stop])

    def latents(self, hidden_dim: int) -> torch.Tensor:
        """Dense, shape (n, hidden_dim)."""
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
    """Codes at the largest level, and reconstructions from the best `level` latents for every level.

    Args:
        embeddings: shape (n, input_dim); no gradient reaches them.
        weight: of the encoder, shape (hidden_dim, input_dim).
        latent_bias: shape (hidden_dim,).
        pre_bias: shape (input_dim,).
        decoder: atoms of an untied decoder, shape (hidden_dim, input_dim); None: the encoder's.
        levels: numbers of latents, ascending.
        rows: of pre-activations that exist at a time (on a CPU); None: all.

    Returns:
        Codes, shape (n, levels[-1]), the best `level` first for each level; reconstructions, shape
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


def inner_products(first: Codes, second: Codes, hidden_dim: int) -> torch.Tensor:
    """Inner products of all codes of `first` with all of `second`, shape (n, m)."""
    if first.values.device.type == "cpu":
        products: torch.Tensor = _InnerProducts.apply(
            first.values, _int32(first.indices), second.values, _int32(second.indices), hidden_dim
        )
        return products
    return first.latents(hidden_dim) @ second.latents(hidden_dim).t()


def _int32(indices: torch.Tensor) -> torch.Tensor:
    return indices if indices.dtype == torch.int32 else indices.int()


class _EncodeAndDecode(torch.autograd.Function):
    """Saves codes and embeddings, and no pre-activation."""

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
        n, ends = len(embeddings), np.array(levels, np.int64)
        centered = embeddings - pre_bias
        values = np.empty((n, levels[-1]), np.float32)
        indices = np.empty((n, levels[-1]), np.int32)
        for start in range(0, n, rows):
            pre = F.linear(centered[start : start + rows], weight, latent_bias).float().numpy()
            part = slice(start, start + rows)
            _share(_kernels().select, len(pre), pre, ends, values[part], indices[part])
        atoms = (weight if decoder is None else decoder).contiguous()
        decoded = torch.empty(len(levels), n, embeddings.shape[1])
        _share(_kernels().decode, n, values, indices, atoms.numpy(), pre_bias.numpy(), ends, decoded.numpy())
        ctx.save_for_backward(centered, weight, decoder)
        ctx.codes, ctx.levels = (values, indices), levels
        found = torch.from_numpy(values), torch.from_numpy(indices)
        ctx.mark_non_differentiable(found[1])
        return *found, decoded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from_values, _, from_decoded = gradients
        centered, weight, decoder = ctx.saved_tensors
        (values, indices), levels = ctx.codes, ctx.levels
        ends = np.array(levels, np.int64)
        atoms = (weight if decoder is None else decoder).contiguous()
        # An atom of rank r is part of the reconstructions of every level above r.
        arriving = from_decoded.flip(0).cumsum(0).flip(0).contiguous()
        of_values = from_values.clone(memory_format=torch.contiguous_format).numpy()
        _share(
            _kernels().gradient_of_values,
            len(values),
            values,
            indices,
            atoms.numpy(),
            ends,
            arriving.numpy(),
            of_values,
        )
        hidden_dim = len(weight)
        level_of = np.searchsorted(ends, np.arange(levels[-1]), side="right")
        lists = _kernels().by_latent(values, indices, hidden_dim)

        def of_atoms(decoding: np.ndarray, encoding: np.ndarray) -> torch.Tensor:
            sums = torch.zeros_like(weight)
            arrays = decoding, level_of, arriving.numpy(), encoding, centered.numpy(), sums.numpy()
            _share(_kernels().gradient_of_atoms, hidden_dim, *lists, *arrays)
            return sums

        of_decoder = None if decoder is None else of_atoms(values, np.zeros_like(values))
        of_weight = of_atoms(values if decoder is None else np.zeros_like(values), of_values)
        of_latent_bias = torch.from_numpy(
            np.bincount(indices.ravel(), of_values.ravel(), hidden_dim).astype(np.float32)
        )
        of_pre_bias = arriving[0].sum(0) - of_latent_bias @ weight
        return None, of_weight, of_latent_bias, of_pre_bias, of_decoder, None, None


class _InnerProducts(torch.autograd.Function):
    """Through lists of the second codes by latent; the gradient likewise."""

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
        ctx.lists = _postings(second, hidden_dim)
        _share(_kernels().inner_products, len(products), *first, *ctx.lists, products.numpy())
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arriving, (first, second) = gradients[0].contiguous(), ctx.codes
        of_first = of_second = None
        kernel = _kernels().gradient_of_products
        if ctx.same:
            # Both sides are one: a single pass with what arrives at either.
            of_first = torch.empty(first[0].shape)
            both = (arriving + arriving.t()).numpy()
            _share(kernel, len(first[0]), *first, *ctx.lists, both, of_first.numpy())
            return of_first, None, None, None, None
        if ctx.needs_input_grad[0]:
            of_first = torch.empty(first[0].shape)
            _share(kernel, len(first[0]), *first, *ctx.lists, arriving.numpy(), of_first.numpy())
        if ctx.needs_input_grad[2]:
            lists = _postings(first, ctx.hidden_dim)
            of_second = torch.empty(second[0].shape)
            transposed = arriving.t().contiguous().numpy()
            _share(kernel, len(second[0]), *second, *lists, transposed, of_second.numpy())
        return of_first, None, of_second, None, None


def _postings(codes: tuple[np.ndarray, np.ndarray], hidden_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (values, indices) as lists by latent: bounds, rows and values."""
    bounds, rows, ranks = _kernels().by_latent(*codes, hidden_dim)
    return bounds, rows, codes[0][rows, ranks]


def _kernels() -> Any:
    # numba takes a second to import, and only training on a CPU needs it.
    from csr_hf.training import cpu_kernels as kernels

    return kernels


def _share(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a kernel over `count` rows on as many threads as torch uses."""
    threads = torch.get_num_threads()
    edges = np.linspace(0, count, min(count, threads * _TASKS_PER_THREAD) + 1).astype(int)
    run(lambda start, stop: kernel(*arguments, start, stop), itertools.pairwise(edges), threads)
