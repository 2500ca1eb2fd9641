"""Every objective against a reference written out with loops."""

import itertools

import numpy as np
import pytest
import torch

from csr_hf.training import objectives


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((6, 4))
    reconstructions = embeddings + 0.3 * rng.standard_normal((6, 4))
    latents = np.maximum(rng.standard_normal((6, 9)), 0)
    return embeddings, reconstructions, latents


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def log_softmax(row):
    return row - np.log(np.exp(row).sum())


def test_reconstruction(arrays):
    x, x_hat, _ = arrays
    expected = np.mean([sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) for rows in zip(x, x_hat, strict=True)])
    x, x_hat = tensors(x, x_hat)
    loss = objectives.reconstruction(x, x_hat.requires_grad_())
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    torch.testing.assert_close(x_hat.grad, 2 * (x_hat.detach() - x) / len(x))


def test_auxiliary(arrays):
    e, e_hat, _ = arrays
    spread = sum(np.sum((row - e.mean(0)) ** 2) for row in e)
    expected = sum(np.sum((a - b) ** 2) for a, b in zip(e, e_hat, strict=True)) / spread
    assert objectives.auxiliary(*tensors(e, e_hat)).item() == pytest.approx(expected)


def test_auxiliary_of_residuals_that_do_not_vary_is_nothing():
    explained = torch.zeros(3, 2, requires_grad=True)
    loss = objectives.auxiliary(torch.ones(3, 2), explained)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(explained.grad, torch.zeros(3, 2))


def test_rows_without_active_latents_give_finite_gradients(arrays):
    x, _, z = tensors(*arrays)
    z[2] = 0
    z.requires_grad_()
    (objectives.contrast(z, z) + objectives.similarity_distillation(x, z) + objectives.balance(z)).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_contrast(arrays, temperature):
    _, _, z = arrays
    positives = z[::-1].copy()
    rows = [[cosine(anchor, positive) / temperature for positive in positives] for anchor in z]
    expected = -np.mean([log_softmax(np.array(row))[i] for i, row in enumerate(rows)])
    assert objectives.contrast(*tensors(z, positives), temperature).item() == pytest.approx(expected)


def test_similarity_distillation(arrays):
    x, _, z = arrays
    total = 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        target = log_softmax(np.array([cosine(x[i], x[j]) / 0.1 for j in others]))
        found = log_softmax(np.array([cosine(z[i], z[j]) / 0.1 for j in others]))
        total += np.sum(np.exp(target) * (target - found))
    loss = objectives.similarity_distillation(*tensors(x, z), 0.1)
    assert loss.item() == pytest.approx(total / len(x))
    assert objectives.similarity_distillation(*tensors(x, x), 0.1).item() == pytest.approx(0, abs=1e-9)


def test_distillation_teaches_the_codes_and_not_the_backbone(arrays):
    x, _, z = tensors(*arrays)
    x.requires_grad_(), z.requires_grad_()
    objectives.similarity_distillation(x, z).backward()
    assert x.grad is None
    assert z.grad.abs().sum() > 0


def test_balance(arrays):
    _, _, z = arrays
    shares = [np.mean([row[j] / np.linalg.norm(row) for row in z]) for j in range(z.shape[1])]
    assert objectives.balance(torch.from_numpy(z)).item() == pytest.approx(sum(share**2 for share in shares))
    even, uneven = torch.eye(4), torch.eye(4)[[0, 0, 0, 0]]
    assert objectives.balance(even) < objectives.balance(uneven)


def test_explained_variance(arrays):
    x, x_hat, _ = arrays
    expected = 1 - np.sum((x - x_hat) ** 2) / np.sum((x - x.mean(0)) ** 2)
    assert objectives.explained_variance(*tensors(x, x_hat)).item() == pytest.approx(expected)
    mean = torch.from_numpy(np.repeat(x.mean(0)[None], 6, 0))
    assert objectives.explained_variance(torch.from_numpy(x), mean).item() == pytest.approx(0)


def test_annealed_k_falls_to_k_and_stays():
    ks = [objectives.annealed_k(step, 100, 8, 64) for step in range(100)]
    assert ks[0] == 64
    assert ks[35] == 36
    assert ks[70:] == [8] * 30
    assert all(after <= before for before, after in itertools.pairwise(ks))
    assert objectives.annealed_k(0, 100, 8, 0) == 8
