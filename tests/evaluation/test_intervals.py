import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.evaluation.intervals import RESAMPLES, draw, resample_means


def test_means_of_resamples_are_those_of_the_drawn_queries():
    scores = np.random.default_rng(1).random((2, 30))
    found = resample_means(list(scores))
    drawn = np.concatenate(list(draw(30)))
    assert drawn.shape == (RESAMPLES, 30)
    for one, expected in zip(found, scores, strict=True):
        assert one.score == pytest.approx(expected.mean())
        assert one.count == 30
        assert one.resamples == pytest.approx(expected[drawn].mean(axis=1))
        assert one.interval() == pytest.approx(tuple(np.percentile(expected[drawn].mean(axis=1), (2.5, 97.5))))


def test_draws_in_small_blocks_are_of_the_same_shape(monkeypatch):
    monkeypatch.setattr("csr_hf.evaluation.intervals._NUMBERS_AT_A_TIME", 100)
    assert [block.shape for block in draw(7)][-2:] == [(14, 7), (6, 7)]
    assert sum(len(block) for block in draw(7)) == RESAMPLES


def test_an_interval_is_as_wide_as_theory_says():
    scores = (np.arange(2_500) < 1_000).astype(float)
    low, high = resample_means([scores])[0].interval()
    half = 1.96 * np.sqrt(0.4 * 0.6 / 2_500)
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.003)


def test_shares_are_paired():
    dense = np.random.default_rng(0).random(200)
    reference, same, noisy = resample_means([dense, dense / 2, np.random.default_rng(1).random(200)])
    # What keeps half of every query keeps half, however few queries there are.
    assert same.interval_of_share(reference) == pytest.approx((0.5, 0.5))
    low, high = noisy.interval_of_share(reference)
    assert low < noisy.score / reference.score < high
    assert high - low > 0.1


def test_a_share_of_nothing_has_no_interval():
    some, none, rare = resample_means([np.ones(9), np.zeros(9), np.eye(9)[0]])
    assert some.interval_of_share(none) is None
    # Some resamples lack the one query that scores.
    assert some.interval_of_share(rare) is None
    (fewer,) = resample_means([np.ones(8)])
    assert some.interval_of_share(fewer) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_an_interval_lies_between_the_extremes(scores):
    (found,) = resample_means([np.array(scores)])
    low, high = found.interval()
    assert min(scores) - 1e-12 <= low <= high <= max(scores) + 1e-12


def test_unequal_numbers_of_queries_are_refused():
    assert resample_means([]) == []
    with pytest.raises(ValueError, match=r"`scores` are of \[3, 4\] queries"):
        resample_means([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="same queries for all"):
        resample_means([np.ones(0)])
