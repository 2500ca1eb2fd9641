"""Tasks of the real mteb with known answers."""

import mteb
import pytest
from mteb.mocks import MOCK_TASK_TEST_GRID

QUIET = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
TEXT_TASKS = [task for task in MOCK_TASK_TEST_GRID if task.metadata.modalities == ["text"]]


def often(tasks):
    """Parameters of a test: those of several languages, which take the same ways, are slow."""
    return [
        pytest.param(task, id=name, marks=[pytest.mark.slow] if "Multilingual" in name else [])
        for name, task in by_name(tasks).items()
    ]


def by_name(tasks):
    return {task.metadata.name: task for task in tasks}


def scores_of(model, task):
    found = mteb.evaluate(model, task, encode_kwargs={"batch_size": 32, "show_progress_bar": False}, **QUIET)
    return {
        (result.task_name, split, number, name): float(value)
        for result in found.task_results
        for split, subsets in result.scores.items()
        for number, subset in enumerate(subsets)
        for name, value in subset.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
