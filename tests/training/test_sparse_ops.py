"""Compiled loops and their gradients against plain torch on dense latents."""

import numpy as np
import pytest
import torch

from csr_hf.training.cpu_top_k import select_largest
from csr_hf.training.sparse_ops import Codes, compute_inner_products, encode_and_decode

HIDDEN, DIM, LEVELS = 40, 12, (2, 5, 17)


@pytest.fixture
def parameters():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return (0.5 * torch.randn(*shape, generator=generator)).requires_grad_()

    return normal(HIDDEN, DIM), normal(HIDDEN), normal(DIM), normal(HIDDEN, DIM)


def dense(embeddings, weight, latent_bias, pre_bias, decoder, levels):
    """The same from the definition, with dense latents."""
    pre = (embeddings - pre_bias) @ weight.t() + latent_bias
    values, indices = pre.topk(levels[-1], dim=-1)
    latents = [torch.zeros_like(pre).scatter(-1, indices[:, :level], values[:, :level].relu()) for level in levels]
    return latents, torch.stack([z @ (weight if decoder is None else decoder) + pre_bias for z in latents])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [None, 7])
def test_values_and_gradients_are_those_of_dense_latents(parameters, tied, rows):
    weight, latent_bias, pre_bias, decoder = parameters
    given = [weight, latent_bias, pre_bias] + ([] if tied else [decoder])
    decoder = None if tied else decoder
    embeddings = torch.randn(30, DIM, generator=torch.Generator().manual_seed(1))
    mix = torch.randn(len(LEVELS), 30, DIM, generator=torch.Generator().manual_seed(2))
    push = torch.randn(30, HIDDEN, generator=torch.Generator().manual_seed(3))

    latents, expected = dense(embeddings, weight, latent_bias, pre_bias, decoder, LEVELS)
    wanted = torch.autograd.grad((expected * mix).sum() + (latents[-1] * push).sum(), given)
    codes, found = encode_and_decode(embeddings, weight, latent_bias, pre_bias, decoder, LEVELS, rows)
    gradients = torch.autograd.grad((found * mix).sum() + (codes.latents(HIDDEN) * push).sum(), given)
    torch.testing.assert_close(found, expected)
    for level, z in zip(LEVELS, latents, strict=True):
        part = Codes(codes.values[:, :level], codes.indices[:, :level])
        torch.testing.assert_close(part.latents(HIDDEN), z)
    for gradient, expected_gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_inner_products_and_gradients_are_those_of_dense_latents():
    generator = torch.Generator().manual_seed(0)
    sides = []
    for n in (9, 14):
        values, indices = torch.randn(n, HIDDEN, generator=generator).topk(6, dim=-1)
        values[3:5, 2:] = 0  # Rows may have fewer active latents than k.
        sides.append(Codes(values.requires_grad_(), indices))
    mix = torch.randn(9, 14, generator=generator)
    values = [side.values for side in sides]
    expected = sides[0].latents(HIDDEN) @ sides[1].latents(HIDDEN).t()
    wanted = torch.autograd.grad((expected * mix).sum(), values)
    found = compute_inner_products(*sides, HIDDEN)
    gradients = torch.autograd.grad((found * mix).sum(), values)
    torch.testing.assert_close(found, expected)
    for gradient, expected_gradient, value in zip(gradients, wanted, values, strict=True):
        torch.testing.assert_close(gradient, expected_gradient * (value > 0))


@pytest.mark.parametrize("kind", ["normal", "ties", "few positive", "none positive", "one huge", "tiny"])
def test_selection_finds_the_largest_of_every_level(kind):
    pre = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    if kind == "ties":
        pre = np.round(pre)
    elif kind == "few positive":
        pre -= 2.5
    elif kind == "none positive":
        pre = -np.abs(pre)
    elif kind == "one huge":
        pre[:, 7] = 1e30
    elif kind == "tiny":
        pre *= np.float32(1e-39)
    levels = np.array([1, 8, 32])
    values, indices = np.empty((50, 32), np.float32), np.empty((50, 32), np.int32)
    select_largest(pre, levels, values, indices, 0, 50)
    for row in range(50):
        # Stable: the first of equal entries.
        order = np.argsort(-pre[row], kind="stable")
        for level in levels:
            positive = [latent for latent in order[:level] if pre[row, latent] > 0]
            assert sorted(indices[row, : len(positive)]) == sorted(positive)
            assert not values[row, len(positive) : level].any()
        active = values[row] > 0
        assert np.array_equal(values[row, active], pre[row, indices[row, active]])


def test_k_of_all_latents_selects_all(parameters):
    weight, latent_bias, pre_bias, _ = parameters
    embeddings = torch.randn(5, DIM)
    codes, _ = encode_and_decode(embeddings, weight, latent_bias, pre_bias, None, (HIDDEN,))
    expected = ((embeddings - pre_bias) @ weight.t() + latent_bias).relu()
    torch.testing.assert_close(codes.latents(HIDDEN), expected)
