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


def test_reconstruction_is_relative_to_the_variance(arrays):
    x, x_hat, _ = tensors(*arrays)
    plain = objectives.reconstruction(x, x_hat).item()
    assert objectives.reconstruction(10 * x, 10 * x_hat, 100.0).item() == pytest.approx(plain)
    mean = x.mean(0).expand_as(x)
    variance = float((x - mean).pow(2).sum(-1).mean())
    assert objectives.reconstruction(x, mean, variance).item() == pytest.approx(1)


def test_auxiliary(arrays):
    e, e_hat, _ = arrays
    spread = sum(np.sum((row - e.mean(0)) ** 2) for row in e)
    expected = sum(np.sum((a - b) ** 2) for a, b in zip(e, e_hat, strict=True)) / spread
    assert objectives.auxiliary(*tensors(e, e_hat)).item() == pytest.approx(expected)
    halves = [objectives.auxiliary(*tensors(e[p], e_hat[p]), torch.tensor(spread)) for p in (slice(2), slice(2, 6))]
    assert sum(halves).item() == pytest.approx(expected)


def test_auxiliary_of_residuals_that_do_not_vary_is_nothing():
    explained = torch.zeros(3, 2, requires_grad=True)
    loss = objectives.auxiliary(torch.ones(3, 2), explained)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(explained.grad, torch.zeros(3, 2))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_contrast(arrays, temperature):
    _, _, z = arrays
    positives = z[::-1].copy()
    rows = [[cosine(anchor, positive) / temperature for positive in positives] for anchor in z]
    wanted = [3, 1, 0, 5, 4, 2]
    expected = -np.mean([log_softmax(np.array(row))[i] for i, row in zip(wanted, rows, strict=True)])
    similarities = torch.tensor(rows) * temperature
    loss = objectives.contrast(similarities, torch.tensor(wanted), temperature)
    assert loss.item() == pytest.approx(expected)


def test_supervised_contrast(arrays):
    _, _, z = arrays
    labels = [0, 1, 0, 1, 0, 7]  # The last has no other of its class.
    total, t = [], 0.2
    for i in range(5):
        scores = {j: np.exp(cosine(z[i], z[j]) / t) for j in range(6) if j != i}
        positives = sum(score for j, score in scores.items() if labels[j] == labels[i])
        total.append(-np.log(positives / sum(scores.values())))
    similarities = torch.tensor([[cosine(a, b) for b in z] for a in z], requires_grad=True)
    classes, others = torch.tensor(labels), ~torch.eye(6, dtype=torch.bool)
    loss = objectives.supervised_contrast(similarities, (classes[:, None] == classes) & others, others, t)
    assert loss.item() == pytest.approx(np.mean(total))
    loss.backward()
    assert torch.isfinite(similarities.grad).all()
    assert not similarities.grad[5].any()


def test_supervised_contrast_without_any_positive_is_nothing():
    similarities = torch.rand(3, 3, requires_grad=True)
    loss = objectives.supervised_contrast(
        similarities, torch.zeros(3, 3, dtype=torch.bool), ~torch.eye(3, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert not similarities.grad.any()


def cosines(rows):
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return unit @ unit.t()


def test_similarity_distillation(arrays):
    x, _, z = arrays
    total = 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        target = log_softmax(np.array([cosine(x[i], x[j]) / 0.1 for j in others]))
        found = log_softmax(np.array([cosine(z[i], z[j]) / 0.1 for j in others]))
        total += np.sum(np.exp(target) * (target - found))
    x, z = tensors(x, z)
    x.requires_grad_(), z.requires_grad_()
    others = ~torch.eye(len(x), dtype=torch.bool)
    loss = objectives.similarity_distillation(cosines(x), cosines(z), others, 0.1)
    assert loss.item() == pytest.approx(total / len(x))
    same = objectives.similarity_distillation(cosines(x), cosines(x), others, 0.1)
    assert same.item() == pytest.approx(0, abs=1e-9)
    loss.backward()
    assert x.grad is None
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().sum() > 0


def test_balance(arrays):
    _, _, z = arrays
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    shares = [np.mean(z[:, j]) for j in range(z.shape[1])]
    values, indices = torch.from_numpy(z).topk(9, dim=-1)
    assert objectives.balance(values, indices, 9).item() == pytest.approx(sum(share**2 for share in shares))
    ones = torch.ones(4, 1)
    even = objectives.balance(ones, torch.arange(4)[:, None], 4)
    assert (even.item(), objectives.balance(ones, torch.zeros(4, 1, dtype=torch.long), 4).item()) == (0.25, 1.0)


def test_annealed_k_falls_to_k_and_stays():
    ks = [objectives.annealed_k(step, 100, 8, 64) for step in range(100)]
    assert ks[0] == 64
    assert ks[35] == 36
    assert ks[70:] == [8] * 30
    assert all(after <= before for before, after in itertools.pairwise(ks))
    assert objectives.annealed_k(0, 100, 8, 0) == 8
