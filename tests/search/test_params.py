import pytest

from csr_hf import SearchParams
from csr_hf.plumbing.threads import available_threads
from csr_hf.search.params import count_threads


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nprobe": 0}, r"`nprobe` \(0\) must be at least 1, or None for all blocks"),
        ({"threads": -1}, r"`threads` \(-1\) must be at least 1"),
        (
            {"rescore": "int4"},
            r"`rescore` \('int4'\) is unknown. Choose one of \('self', 'binary', 'int8', 'float16'\)",
        ),
        ({"scan": "int8", "rescore": "int8"}, r"`scan` \('int8'\) is unknown. Choose \"binary\""),
        ({"scan": "binary"}, "finds candidates for a second stage. Pass `rescore`"),
    ],
)
def test_values_that_no_index_takes_are_refused_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        SearchParams(**values)


def test_the_first_stage_finds_candidates_where_there_is_a_second():
    assert SearchParams().depth(7, ()) == 7
    assert SearchParams(rescore="self").depth(7, ()) == 100
    assert SearchParams(rescore="int8", scan="binary", candidates=300).depth(7, ("binary", "int8")) == 300


@pytest.mark.parametrize(
    ("params", "top_k", "message"),
    [
        (SearchParams(), 0, r"`top_k` \(0\) must be at least 1"),
        (SearchParams(rescore="self", candidates=9), 10, r"`candidates` \(9\) must be at least `top_k` \(10\)"),
        (SearchParams(rescore="float16"), 10, r"the index has int8. Build it with .*copies=\[\"float16\"\]"),
        (
            SearchParams(rescore="int8", scan="binary"),
            10,
            r"the index has int8. Build it with .*\[\"binary\", \"int8\"\]",
        ),
    ],
)
def test_what_an_index_cannot_do_is_refused(params, top_k, message):
    with pytest.raises(ValueError, match=message):
        params.depth(top_k, ("int8",))


def test_threads_are_as_many_as_cores_by_default():
    assert count_threads(None) == available_threads()
    assert count_threads(3) == 3
