import numpy as np
import pytest
import torch

from csr_hf import TrainingArguments
from csr_hf.training import objectives
from csr_hf.training.loss import CSRLoss
from tests.conftest import make_head


@pytest.fixture
def batch(embeddings):
    return torch.from_numpy(embeddings[:64])


def compute(head, batch, k=5, **arguments):
    return CSRLoss(head, TrainingArguments(**arguments))(batch, k)


def test_levels_are_multiples_of_k(head, batch):
    output = compute(head, batch, reconstruction={"0.4": 0.5, "1": 1.0, "4": 0.25}, beta=0)
    expected = 0.0
    for k, weight in ((2, 0.5), (5, 1.0), (20, 0.25)):
        error = objectives.reconstruction(batch, head.decode(*head.encode(batch, k)))
        torch.testing.assert_close(output.parts[f"reconstruction_{k}"], error.detach())
        expected = expected + weight * error
    torch.testing.assert_close(output.loss, expected)


def test_levels_stop_at_hidden_dim(head, batch):
    output = compute(head, batch, reconstruction={"1": 1.0, "100": 1.0})
    assert "reconstruction_40" in output.parts


def test_multiples_that_meet_in_one_level_add_their_weights(head, batch):
    output = compute(head, batch, reconstruction={"8": 0.5, "100": 1.0, "1e9": 2.0}, beta=0)
    torch.testing.assert_close(output.loss.detach(), 3.5 * output.parts["reconstruction_40"])


def test_every_term_is_weighted(head, batch):
    weights = {"gamma": 0.3, "distillation": 0.7, "balance": 0.2}
    plain = compute(head, batch, beta=0)
    output = compute(head, batch, beta=0, **weights)
    parts = output.parts
    values, indices = head.encode(batch)
    latents = torch.zeros(64, 40).scatter(1, indices, values)
    torch.testing.assert_close(parts["contrast"], objectives.contrast(latents, latents, 0.2).detach())
    torch.testing.assert_close(parts["distillation"], objectives.similarity_distillation(batch, latents).detach())
    torch.testing.assert_close(parts["balance"], objectives.balance(latents).detach())
    expected = plain.loss + 0.3 * parts["contrast"] + 0.7 * parts["distillation"] + 0.2 * parts["balance"]
    torch.testing.assert_close(output.loss, expected)


def test_auxiliary_term_uses_dead_latents_alone(head, batch):
    assert "auxiliary" not in compute(head, batch).parts
    head.stats_last_nonzero[:10] = head.config.dead_threshold + 1
    output = compute(head, batch, reconstruction={"1": 1.0}, beta=0.5)
    latents = head.pre_activations(batch)[:, :10].relu()
    residuals = (batch - head.decode(*head.encode(batch))).detach()
    expected = objectives.auxiliary(residuals, latents @ head.dictionary[:10])
    torch.testing.assert_close(output.parts["auxiliary"], expected.detach())
    torch.testing.assert_close(output.loss, output.parts["reconstruction_5"] + 0.5 * expected)


def test_dead_latents_get_a_gradient_only_through_the_auxiliary_term(batch):
    for beta in (0.0, 0.5):
        head = make_head()
        with torch.no_grad():
            head.latent_bias[:3] = -0.05  # Never among the best, yet sometimes positive.
            head.latent_bias[3:] += 1
        head.stats_last_nonzero[:3] = head.config.dead_threshold + 1
        compute(head, batch, reconstruction={"1": 1.0}, beta=beta).loss.backward()
        assert bool(head.encoder.weight.grad[:3].abs().sum() > 0) is (beta > 0)


def test_fired_latents_are_those_with_a_positive_value(head, batch):
    with torch.no_grad():
        head.latent_bias[7] = -100
    values, indices = head.encode(batch)
    expected = np.zeros(40, bool)
    expected[indices[values > 0].numpy()] = True
    output = compute(head, batch)
    assert np.array_equal(output.fired.numpy(), expected)
    assert not output.fired[7]
    assert output.parts["active_latents"].item() == pytest.approx(float((values > 0).sum(-1).float().mean()))
