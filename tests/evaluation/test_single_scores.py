"""What scores of the real mteb stand on, by tasks with known answers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from csr_hf.evaluation.intervals import draw
from csr_hf.evaluation.scalar_quantizers import Binary
from csr_hf.evaluation.single_scores import resample_spearman
from csr_hf.evaluation.tasks import HeadMeta, evaluate_tasks
from csr_hf.evaluation.vector_method import DenseMethod
from tests.helpers.mteb_tasks import TEXT_TASKS, by_name

META = HeadMeta("user/x", "1")
UNITS = {"MockRetrievalTask": "queries", "MockSTSTask": "pairs", "MockClassificationTask": "draws"}


def test_correlations_of_resamples_are_those_of_scipy():
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 4, 40).astype(float)
    predicted = wanted + rng.standard_normal(40)
    found = resample_spearman(predicted, wanted)
    assert found.score == pytest.approx(spearmanr(predicted, wanted)[0])
    drawn = np.concatenate(list(draw(40)))[:20]
    expected = [spearmanr(predicted[rows], wanted[rows])[0] for rows in drawn]
    assert found.resamples[:20] == pytest.approx(expected)
    # Two pairs, drawn often as one: there is no correlation on those resamples.
    assert resample_spearman(predicted[:2], wanted[:2]).interval() is None


@pytest.mark.parametrize("name", UNITS)
def test_rows_say_what_they_stand_on_and_a_second_call_says_the_same(cached, tmp_path, name):
    tasks = {name: type(by_name(TEXT_TASKS)[name])()}
    methods = [DenseMethod(384), Binary(384)]
    first = evaluate_tasks(tasks, methods, cached, tmp_path, META).results.rows
    assert {row.unit for row in first} == {UNITS[name]}
    assert all(row.n_queries >= 2 for row in first)
    again = evaluate_tasks({name: type(tasks[name])()}, methods, cached, tmp_path, META).results.rows
    # What mteb reads of its own files is rounded.
    plain = [[replace(row, score=0, retention=0) for row in rows] for rows in (again, first)]
    assert plain[0] == plain[1]
    if name == "MockRetrievalTask":
        low, high = first[0].interval
        assert low - 1e-4 <= first[0].score <= high + 1e-4
        assert len(list((tmp_path / "queries" / name).glob("*.json"))) == 2
