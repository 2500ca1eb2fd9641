"""Parameters of a search refuse what is out of range, in one line."""

import pytest

from csr_hf.search.params import SearchParams, check_copies, check_settings


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"nprobe": 0}, "nprobe"),
        ({"nprobe": True}, "nprobe"),
        ({"nprobe": "all"}, "nprobe"),
        ({"candidates": -1}, "candidates"),
        ({"candidates": 1.5}, "candidates"),
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


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf"), 1e39, "0.1", None, True])
def test_margins_that_are_none_are_refused(margin):
    counts = dict.fromkeys(("dim", "input_dim", "k", "partitions", "row_bytes", "bits", "residual_bytes"), 8)
    settings = {**counts, "similarity": "cosine", "norm": "code", "head": "a-head", "copies": []}
    with pytest.raises(ValueError, match="its setting 'margin'"):
        check_settings({**settings, "margin": margin})
