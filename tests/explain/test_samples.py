"""Texts with and without a latent: which count, which are nearest, and what AUC says of scores."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.explain.samples import compute_auc, draw_samples, split_halves


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    having=st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    lacking=st.lists(st.integers(-3, 3), min_size=1, max_size=9),
)
def test_auc_counts_pairs(having, lacking):
    wins = [(a > b) + 0.5 * (a == b) for a in having for b in lacking]
    assert compute_auc(np.array(having), np.array(lacking)) == pytest.approx(np.mean(wins))
    both = compute_auc(np.array([having, having]).T, np.array([lacking, lacking]).T)
    assert both == pytest.approx([np.mean(wins)] * 2)


def test_halves_part_no_copies_and_are_about_equal():
    rows = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    halves = split_halves(np.concatenate([rows, rows]))
    assert (halves[:400] == halves[400:]).all()
    assert 150 < halves[:400].sum() < 250


def test_texts_without_the_latent_are_its_nearest_and_others():
    rng = np.random.default_rng(0)
    units = unit(rng.standard_normal((300, 6)))
    values = np.where(rng.random((300, 2)) < 0.3, rng.random((300, 2)), 0)
    rows = np.arange(100, 300)
    samples = draw_samples(sp.csc_matrix(values), units, rows, 0.25, rng)
    for latent, (having, lacking) in enumerate(samples):
        active = rows[values[rows, latent] > 0]
        strongest = active[np.argsort(-values[active, latent])][: int(np.ceil(0.25 * len(active)))]
        assert having.tolist() == strongest.tolist()
        silent = rows[values[rows, latent] == 0]
        nearest = {silent[np.argmax(units[silent] @ units[row])] for row in having}
        assert set(lacking[: len(nearest)]) == nearest
        assert len(lacking) == 2 * len(nearest) == len(set(lacking))
        assert set(lacking) <= set(silent)


def test_many_texts_are_spread_over_the_range():
    values = np.linspace(1, 2, 1000)[:, None]
    values[:500] = 0
    samples = draw_samples(
        sp.csc_matrix(values),
        unit(np.random.default_rng(0).standard_normal((1000, 4))),
        np.arange(1000),
        1,
        np.random.default_rng(1),
    )
    having = samples[0].having
    assert len(having) == 48
    assert (having.max(), having.min()) == (999, 500)


@pytest.mark.parametrize("fires", [0, 1, 30])
def test_latents_of_no_or_all_texts_have_no_sample(fires):
    values = np.zeros((30, 1))
    values[:fires] = 1
    units = unit(np.random.default_rng(0).standard_normal((30, 4)))
    assert draw_samples(sp.csc_matrix(values), units, np.arange(30), 0.5, np.random.default_rng(0)) == [None]
