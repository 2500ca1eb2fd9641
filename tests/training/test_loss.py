import numpy as np
import pytest
import torch

from csr_hf import CSRTrainingArguments
from csr_hf.training import objectives
from csr_hf.training.loss import Batch, CSRLoss
from tests.conftest import make_head


@pytest.fixture
def batch(embeddings):
    return torch.from_numpy(embeddings[:64])


def compute(head, batch, k=5, variance=1.0, **arguments):
    batch = batch if isinstance(batch, Batch) else Batch(batch, len(batch))
    return CSRLoss(head, CSRTrainingArguments(**arguments), variance)(batch, k)


def codes(head, rows, k=5):
    """Unit-norm dense latents."""
    values, indices = head.encode(rows, k)
    return torch.nn.functional.normalize(torch.zeros(len(rows), 40).scatter(1, indices, values), dim=-1)


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
    plain = compute(head, batch, beta=0)
    output = compute(head, batch, beta=0, gamma=0.3, distillation=0.7, balance=0.2)
    parts, z, others = output.parts, codes(head, batch), ~torch.eye(64, dtype=torch.bool)
    unit = torch.nn.functional.normalize(batch, dim=-1)
    expected = {
        "contrast": objectives.contrast(z @ z.t(), torch.arange(64), 0.2),
        "distillation": objectives.similarity_distillation(unit @ unit.t(), z @ z.t(), others, 0.05),
        "balance": z.mean(0).pow(2).sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach())
    weighted = 0.3 * parts["contrast"] + 0.7 * parts["distillation"] + 0.2 * parts["balance"]
    torch.testing.assert_close(output.loss, plain.loss + weighted)


def test_contrast_of_pairs_and_triplets(head, batch):
    anchors, positives, negatives = batch[:20], batch[20:40], batch[40:60]
    z = [codes(head, rows) for rows in (anchors, positives, negatives)]
    for parts, candidates in (((anchors, positives), z[1:2]), ((anchors, positives, negatives), z[1:])):
        output = compute(head, Batch(torch.cat(parts), 20), gamma=1.0, contrast="pairs", temperature=0.1)
        similarities = z[0] @ torch.cat(candidates).t()
        expected = objectives.contrast(similarities, torch.arange(20), 0.1)
        torch.testing.assert_close(output.parts["contrast"], expected.detach())


def test_contrast_of_classes(head, batch):
    labels = torch.arange(64) % 7
    labels[:5] = -1
    output = compute(head, Batch(batch, 64, labels), gamma=1.0, contrast="labels")
    z, others = codes(head, batch), ~torch.eye(64, dtype=torch.bool)
    positives = (labels[:, None] == labels) & (labels[:, None] >= 0) & others
    expected = objectives.supervised_contrast(z @ z.t(), positives, others)
    torch.testing.assert_close(output.parts["contrast"], expected.detach())


def test_error_is_divided_by_the_variance_or_the_number_of_elements(head, batch):
    plain = compute(head, batch, beta=0).parts["reconstruction_5"]
    torch.testing.assert_close(compute(head, batch, beta=0, variance=4.0).parts["reconstruction_5"], plain / 4)
    element = compute(head, batch, beta=0, variance=4.0, error="element").parts["reconstruction_5"]
    torch.testing.assert_close(element, plain / 12)
    expected = torch.nn.functional.mse_loss(head.decode(*head.encode(batch)), batch)
    torch.testing.assert_close(element, expected.detach())


def test_accumulation_changes_neither_loss_nor_gradient(head, batch):
    everything = {"gamma": 0.3, "distillation": 0.7, "balance": 0.2}
    gradients = []
    for parts in (1, 3):
        head.zero_grad()
        compute(head, batch, gradient_accumulation_steps=parts, **everything).loss.backward()
        gradients.append(head.encoder.weight.grad.clone())
    torch.testing.assert_close(*gradients)


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


def test_dead_latents_that_are_negative_for_all_rows_learn_by_a_slope(batch):
    for slope in (0.0, 0.2):
        head = make_head()
        with torch.no_grad():
            head.latent_bias[:3] = -10
        head.stats_last_nonzero[:3] = head.config.dead_threshold + 1
        output = compute(head, batch, reconstruction={"1": 1.0}, beta=0.5, auxiliary_slope=slope)
        explained = slope * head.pre_activations(batch)[:, :3] @ head.dictionary[:3]
        residuals = (batch - head.decode(*head.encode(batch))).detach()
        torch.testing.assert_close(output.parts["auxiliary"], objectives.auxiliary(residuals, explained).detach())
        output.loss.backward()
        assert bool(head.latent_bias.grad[:3].abs().sum() > 0) is (slope > 0)


def test_fired_latents_are_those_with_a_positive_value(head, batch):
    with torch.no_grad():
        head.latent_bias[7] = -100
    values, indices = head.encode(batch)
    expected = np.zeros(40, bool)
    expected[indices[values > 0].numpy()] = True
    output = compute(head, batch)
    assert np.array_equal(output.fired.numpy(), expected[None])
    assert not output.fired[0, 7]
    assert output.parts["active_latents"].item() == pytest.approx(float((values > 0).sum(-1).float().mean()))


@pytest.fixture
def two():
    """A head of two modalities: half of its latents are dead in the first, others in the second."""
    head = make_head(modalities=["image", "text"], dead_threshold=10)
    head.modality_last_nonzero[0, :20] = head.modality_last_nonzero[1, 15:] = 11
    return head, torch.arange(64) % 3 // 2


def test_each_modality_revives_its_own_dead_latents(two, batch):
    head, towers = two
    output = compute(head, Batch(batch, 64, modalities=towers), beta=1.0)
    assert "auxiliary" not in output.parts
    for number, name in enumerate(("image", "text")):
        rows = batch[towers == number]
        dead = head.modality_last_nonzero[number] > 10
        residuals = (rows - head.decode(*head.encode(rows))).detach()
        pre = head.pre_activations(rows).masked_fill(~dead, -torch.inf)
        values, indices = torch.topk(pre, head.config.k_aux)
        decoded = head.decode(torch.relu(values), indices) - head.pre_bias
        expected = objectives.auxiliary(residuals, decoded)
        torch.testing.assert_close(output.parts[f"auxiliary_{name}"], expected.detach())


def test_balance_is_of_each_modality_by_itself(two, batch):
    head, towers = two
    output = compute(head, Batch(batch, 64, modalities=towers), balance=1.0)
    z = codes(head, batch)
    expected = sum(z[towers == number].mean(0).pow(2).sum() for number in (0, 1)) / 2
    torch.testing.assert_close(output.parts["balance"], expected.detach())
    assert not torch.isclose(expected, z.mean(0).pow(2).sum())


def test_fired_latents_are_told_by_modality(two, batch):
    head, towers = two
    fired = compute(head, Batch(batch, 64, modalities=towers)).fired
    for number in (0, 1):
        values, indices = head.encode(batch[towers == number])
        assert set(torch.nonzero(fired[number]).flatten().tolist()) == set(indices[values > 0].tolist())
