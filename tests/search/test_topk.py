"""The best of a list: no document is lost that others do not beat."""

import numpy as np
import pytest

from csr_hf.search.kernels.probing import choose_partitions, list_visitors
from csr_hf.search.kernels.topk import keep_best

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
@pytest.mark.parametrize("wanted", [1, 3, 50, N])
def test_partitions_of_the_best_scores_are_visited_the_best_first(kind, wanted):
    _, scores, _ = made(kind)
    chosen = np.empty(wanted, np.int32)
    choose_partitions(scores, np.float32(np.inf), 4, chosen)
    assert len(set(chosen.tolist())) == wanted
    assert sorted(scores[chosen].tolist()) == sorted(scores.tolist())[-wanted:]
    assert scores[chosen[:4]].tolist() == sorted(scores.tolist())[::-1][:4][:wanted]


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("wanted", [2, 50, N])
def test_partitions_are_visited_that_lie_near_the_first(kind, margin, wanted):
    _, scores, _ = made(kind)
    chosen = np.empty(wanted, np.int32)
    choose_partitions(scores, np.float32(margin), 4, chosen)
    count = int((chosen >= 0).sum())
    ordered = np.sort(scores)[::-1][:wanted]
    near = ordered >= ordered[: min(4, wanted)][-1] - np.float32(margin)
    assert (chosen[count:] == -1).all() and len(set(chosen[:count].tolist())) == count
    assert np.sort(scores[chosen[:count]])[::-1].tolist() == ordered[near].tolist()


def test_visitors_are_listed_by_partition():
    chosen = np.array([[2, 0, 1], [2, 3, 1], [-1, -1, 4]], np.int32)
    visited, visitors, ends = list_visitors(chosen, (0, 2), (0, 1), 5)
    found = [visitors[ends[i] : ends[i + 1]].tolist() for i in range(5)]
    assert found == [[0], [], [0, 1], [1], []]
    assert visited.tolist() == [0, 2, 3]
