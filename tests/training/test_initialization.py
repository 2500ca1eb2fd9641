"""Heads that start from the training embeddings."""

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel, RunRecipe, Source
from csr_hf.training.initialization import INITIALIZE, initialize_centered, initialize_whitened
from csr_hf.training.rows import TrainingRows

DIM, HIDDEN, K = 24, 96, 4


def make_rows(scale=1.0):
    """Embeddings with a mean of three times their spread, which vary in few directions."""
    rng = np.random.default_rng(0)
    spectrum = 0.6 ** np.arange(DIM)
    rows = rng.standard_normal((2000, DIM)) * spectrum
    mean = rng.standard_normal(DIM)
    rows += 3 * mean / np.linalg.norm(mean) * np.linalg.norm(spectrum)
    return TrainingRows([Source.from_arrays({"embedding": (scale * rows).astype(np.float32)})])


def make_head(*, tied=False):
    torch.manual_seed(0)
    return CSRModel(CSRConfig(input_dim=DIM, hidden_dim=HIDDEN, k=K, tied_decoder=tied))


def count_fired(head, rows):
    values, indices = head.encode(torch.from_numpy(rows.rows(np.arange(len(rows)))))
    return len(torch.unique(indices[values > 0]))


def test_more_latents_fire_from_the_start():
    rows = make_rows()
    fired = {name: count_fired(initialize(make_head(), rows, 0), rows) for name, initialize in INITIALIZE.items()}
    assert count_fired(make_head(), rows) < 0.3 * HIDDEN
    assert 0.5 * HIDDEN < fired["centered"] < 0.95 * HIDDEN < fired["whitened"]


def test_a_centered_head_is_the_random_one_for_embeddings_without_their_mean():
    rows, random = make_rows(), make_head(tied=True)
    head = initialize_centered(make_head(tied=True), rows, 0)
    embeddings = rows.rows(np.arange(len(rows)))
    found = head.pre_activations(torch.from_numpy(embeddings))
    assert torch.allclose(found, random.pre_activations(torch.from_numpy(embeddings - embeddings.mean(0))), atol=1e-5)


def test_a_whitened_head_is_the_random_one_for_whitened_embeddings():
    rows, random = make_rows(), make_head()
    head = initialize_whitened(make_head(), rows, 0)
    embeddings = rows.rows(np.arange(len(rows))).astype(np.float64)
    mean, covariance = embeddings.mean(0), np.cov(embeddings.T, bias=True)
    variance = np.trace(covariance) / DIM
    variances, directions = np.linalg.eigh(0.9 * covariance + 0.1 * variance * np.eye(DIM))
    whitening = np.sqrt(variance) * (directions / np.sqrt(variances)) @ directions.T
    whitened = (embeddings - mean) @ whitening
    assert np.allclose(head.pre_bias.detach(), mean, atol=1e-6)
    expected = random.encoder.weight.detach().double().numpy() @ whitened.T
    found = head.pre_activations(torch.from_numpy(embeddings)).detach().numpy()
    assert np.allclose(found.T, expected, atol=1e-5)
    # What the random head decodes is whitened too.
    values, indices = torch.rand(5, K), torch.arange(5 * K).reshape(5, K)
    decoded = (head.decode(values, indices) - head.pre_bias).detach().numpy() @ whitening
    assert np.allclose(decoded, random.decode(values, indices).detach(), atol=1e-5)


def test_scale_of_the_embeddings_changes_the_bias_alone():
    head, other = (initialize_whitened(make_head(), make_rows(scale), 0) for scale in (1.0, 1e4))
    assert torch.allclose(head.encoder.weight, other.encoder.weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(head.decoder.weight, other.decoder.weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(1e4 * head.pre_bias, other.pre_bias, rtol=1e-4)


def test_equal_embeddings_leave_finite_weights():
    rows = TrainingRows([Source.from_arrays({"embedding": np.full((50, DIM), 2, np.float32)})])
    head = initialize_whitened(make_head(), rows, 0)
    assert all(torch.isfinite(weight).all() for weight in head.parameters())


def test_a_tied_decoder_is_refused():
    with pytest.raises(ValueError, match=r"`tied_decoder` \(True\)"):
        initialize_whitened(make_head(tied=True), make_rows(), 0)
    with pytest.raises(ValueError, match=r"`model.init` \(whitened\) needs a decoder of its own"):
        RunRecipe.from_dict({"model": {"init": "whitened"}})
    assert RunRecipe.from_dict({"model": {"init": "whitened", "tied_decoder": False}}).model.init == "whitened"
