"""Parameters of a search refuse what is out of range, in one line."""

import pytest

from csr_hf.search.params import SearchParams, check_copies, check_settings, find_measured


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"nprobe": 0}, "nprobe"),
        ({"nprobe": True}, "nprobe"),
        ({"nprobe": "all"}, "nprobe"),
        ({"candidates": -1}, "candidates"),
        ({"candidates": 1.5}, "candidates"),
        ({"recall": 1}, "recall"),
        ({"recall": "0.9"}, "recall"),
        ({"recall": float("nan")}, "recall"),
        ({"rerank": "int8"}, "rerank"),
        ({"exact": 1}, "exact"),
        ({"threads": 0}, "threads"),
    ],
)
def test_values_out_of_range_are_named(given, name):
    with pytest.raises(ValueError, match=f"`{name}`") as caught:
        SearchParams(**given)
    assert "\n" not in str(caught.value)


def test_copies_are_known():
    assert check_copies("float16") == ("float16",) and check_copies(()) == ()
    with pytest.raises(ValueError, match="int8"):
        check_copies(["int8"])


GOOD = [0.95, 0.951, 40, 0.1, 100]


@pytest.mark.parametrize(
    "row",
    [
        *([*GOOD[:3], margin, 100] for margin in (-0.1, float("nan"), float("inf"), 1e39, "0.1", None, True)),
        [1.5, *GOOD[1:]],
        [0.95, float("nan"), *GOOD[2:]],
        [*GOOD[:2], 0, *GOOD[3:]],
        [*GOOD[:4], 2**60],
        [*GOOD[:4], 1.0],
        GOOD[:4],
        "row",
        {"goal": 0.95},
    ],
)
def test_measurements_that_are_none_are_refused(row):
    counts = dict.fromkeys(("dim", "input_dim", "k", "partitions", "row_bytes", "bits", "residual_bytes"), 8)
    settings = {**counts, "similarity": "cosine", "norm": "code", "head": "a-head", "copies": []}
    check_settings({**settings, "measured": [GOOD]})
    for wrong in ([GOOD, row], row, {"a": row}):
        with pytest.raises(ValueError, match="its setting 'measured'"):
            check_settings({**settings, "measured": wrong})


def test_the_next_recall_that_was_measured_counts():
    rows = [[goal, goal + 0.01, nprobe, 0.1, 100] for goal, nprobe in ((0.8, 5), (0.9, 9), (0.95, 30))]
    for recall, nprobe in ((0.1, 5), (0.8, 5), (0.81, 9), (0.9, 9), (0.95, 30), (0.99, 30)):
        assert find_measured({"measured": rows}, recall).nprobe == nprobe
    assert find_measured({"measured": []}, 0.9) is None and find_measured({}, 0.9) is None
