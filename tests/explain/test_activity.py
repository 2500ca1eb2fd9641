"""What fires together, and which texts are shown, against plain computations."""

import numpy as np
import pytest
import scipy.sparse as sp

from csr_hf.explain.activity import choose_examples, find_companions


def test_companions_are_the_largest_correlations():
    rng = np.random.default_rng(0)
    fires = rng.random((200, 7)) < 0.3
    fires[:, 3] = fires[:, 1] ^ (rng.random(200) < 0.05)
    numbers, strengths = find_companions(sp.csc_matrix(fires * rng.uniform(0.1, 1, (200, 7))), count=2)
    related = np.corrcoef(fires.T.astype(float))
    np.fill_diagonal(related, -np.inf)
    for latent in range(7):
        # Of equal correlations either may come first.
        assert strengths[latent] == pytest.approx(np.sort(related[latent])[::-1][:2], abs=1e-5)
        assert strengths[latent] == pytest.approx(related[latent, numbers[latent]], abs=1e-5)
    assert numbers[1][0] == 3


def test_companions_of_silent_latents_and_of_one_latent():
    numbers, strengths = find_companions(sp.csc_matrix(np.zeros((5, 3))))
    assert numbers.shape == (3, 2)
    assert np.isfinite(strengths).all()
    assert find_companions(sp.csc_matrix(np.ones((5, 1))))[0].shape == (1, 0)


def test_examples_span_the_range_of_a_latent():
    values = np.arange(1, 101) / 100
    chosen = choose_examples(sp.csc_matrix(values[:, None]), 0)
    assert [row for row, _ in chosen] == [99, 98, 97, 96, 95, 74, 49, 24]
    assert all(value == pytest.approx(values[row]) for row, value in chosen)
    assert choose_examples(sp.csc_matrix(np.zeros((4, 1))), 0) == []
    assert [row for row, _ in choose_examples(sp.csc_matrix([[0.2], [0.4]]), 0)] == [1, 0]
