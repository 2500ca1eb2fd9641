"""The best of a list: no document is lost that others do not beat."""

import numpy as np
import pytest

from csr_hf.search.ranking import cut, keep_best

N = 700
SCORES = {
    "spread": lambda rng: rng.random(N, np.float32) * 900,
    "few levels": lambda rng: rng.integers(1, 6, N).astype(np.float32),
    "more levels than bins": lambda rng: rng.integers(0, 65_536, N).astype(np.float32),
    "all alike": lambda rng: np.full(N, 7, np.float32),
    "nothing": lambda rng: np.zeros(N, np.float32),
}


def made(kind):
    rng = np.random.default_rng(0)
    order = rng.permutation(N).astype(np.int32)
    return rng.permutation(N).astype(np.int32), SCORES[kind](rng).astype(np.float32), order


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("wanted", [1, 10, 300, N - 1, N, 2 * N])
def test_the_best_stay_and_of_equal_ones_the_first_positions(kind, wanted):
    rows, scores, order = made(kind)
    best = np.lexsort((order[rows], -scores))[:wanted]
    expected, smallest = set(rows[best].tolist()), scores[best].min()
    of_row = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    kept, bound = keep_best(rows, scores, N, order, wanted, np.float32(0))
    assert set(rows[:kept].tolist()) == expected
    assert [of_row[row] for row in rows[:kept].tolist()] == scores[:kept].tolist()
    assert bound == (smallest if wanted < N else 0)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("wanted", [1, 10, 300])
def test_a_cut_drops_only_what_enough_others_beat(kind, wanted):
    rows, scores, _ = made(kind)
    before = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    kept, bound = cut(rows, scores, N, wanted, np.float32(0))
    stay = set(rows[:kept].tolist())
    assert len(stay) == kept >= wanted
    assert scores[:kept].min() == bound
    assert all(before[row] < bound for row in before.keys() - stay)
