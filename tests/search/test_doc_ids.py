"""Names of documents: kept exactly, found again, or refused in one line."""

import pickle
import tracemalloc
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr_hf.search.doc_ids import DocIds, distinct_ids, list_ids, number_after

NUMBERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def stored(ids):
    """What comes back from the arrays of a file."""
    return DocIds.from_arrays(ids.to_arrays(), ids.n, ids.first)


def listed(ids, positions=None):
    return ids.at(np.arange(len(ids)) if positions is None else positions).tolist()


@given(st.one_of(st.lists(NUMBERS, unique=True), st.lists(TEXTS, unique=True)), st.data())
def test_every_id_is_found_where_it_was_given(given_ids, data):
    ids = DocIds.check(given_ids, len(given_ids))
    others = data.draw(st.lists(st.one_of(NUMBERS, TEXTS, st.none(), st.floats(), st.booleans()), max_size=5))
    for found in (ids, stored(ids), pickle.loads(pickle.dumps(ids))):
        assert listed(found) == given_ids
        expected = [
            next((at for at, own in enumerate(given_ids) if type(own) is type(one) and own == one), -1)
            for one in given_ids + others
        ]
        assert found.positions_of(given_ids + others).tolist() == expected


@given(st.lists(TEXTS, unique=True, min_size=1), st.lists(TEXTS, unique=True), st.data())
def test_texts_are_joined_by_position(first, second, data):
    parts = [DocIds.check(first, len(first)), DocIds.check(second, len(second))]
    rows = [
        data.draw(st.lists(st.integers(0, len(each) - 1), unique=True) if each else st.just([]))
        for each in (first, second)
    ]
    joined = DocIds.join(parts, [np.array(chosen, np.int64) for chosen in rows])
    assert listed(joined) == [first[at] for at in rows[0]] + [second[at] for at in rows[1]]


def test_numbered_documents_need_no_arrays():
    ids = DocIds.check(None, 5, first=7)
    assert ids.to_arrays() == {} and ids.nbytes == 0
    assert listed(ids) == [7, 8, 9, 10, 11]
    assert ids.positions_of([6, 7, 11, 12, "7", 7.0, 2**70]).tolist() == [-1, 0, 4, -1, -1, -1, -1]
    assert listed(DocIds.join([ids, DocIds.check([3], 1)], [np.array([4, 0]), np.array([0])])) == [11, 7, 3]
    assert number_after([ids, DocIds.check([-5], 1), DocIds.check(None, 0)]) == 12
    assert number_after([]) == 0
    with pytest.raises(ValueError, match="no number after 9223372036854775807"):
        DocIds.check(None, 1, first=2**63)
    with pytest.raises(ValueError, match="must be given: those of the index are strings"):
        number_after([DocIds.check(["a"], 1)])


def test_the_ends_of_texts_and_numbers_count():
    ids = DocIds.check(["a", "a\0", "", "\0"], 4)
    assert ids.positions_of(["a\0", "a", "a\0\0", "\0", ""]).tolist() == [1, 0, -1, 3, 2]
    ids = DocIds.check(np.array([-(2**63), 2**63 - 1]), 2)
    assert ids.positions_of([2**63 - 1, -(2**63), 2**63]).tolist() == [1, 0, -1]
    assert ids.positions_of(np.array([-(2**63)])).tolist() == [0]


def test_texts_of_equal_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr("builtins.hash", lambda one: 7)
    ids = DocIds.check(["a", "b", "c"], 3)
    assert ids.positions_of(["c", "d", "a"]).tolist() == [2, -1, 0]
    with pytest.raises(ValueError, match="unique; 'b' appears"):
        DocIds.check(["a", "b", "b"], 3)


@pytest.mark.parametrize("n", [1_000, 3_000])
def test_a_long_id_costs_its_own_length(n):
    short = [str(number) for number in range(n - 1)]

    def peak(first):
        tracemalloc.start()
        DocIds.check([first, *short], n)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak("x" * 1_000_000) - peak("x") < 8_000_000


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1], "unique; 1 appears"),
        (["a", "a"], "unique; 'a' appears"),
        ([None, None], "holds None"),
        ([1, None], "holds None"),
        ([1, "a"], "both integers and strings"),
        ([1.0, 2.0], "holds 1.0, a float"),
        ([True, False], "holds True, a bool"),
        ([1, True], "holds True, a bool"),
        ([float("nan"), 1], "a float"),
        ([2**63, 1], "does not fit into 64 bits"),
        ([-(2**63) - 1, 1], "does not fit into 64 bits"),
        (np.array([2**64 - 1, 1], np.uint64), "does not fit into 64 bits"),
        (np.array(["2020-01-01", "2020-01-02"], "M8[D]"), "a date"),
        (np.zeros(2, "i4,i4"), "a tuple"),
        (np.zeros((2, 1), int), "the shape \\(2, 1\\)"),
        (np.array(5), "the shape \\(\\)"),
        ([b"a", b"b"], "a bytes"),
        ([[1], [2]], "a list"),
        ([(1, 2), (3, 4)], "a tuple"),
        ([{}, {}], "a dict"),
        ([Decimal(1), 2], "a Decimal"),
        ([Path("a"), Path("b")], "a PosixPath"),
        (["\ud800", "b"], "half a character"),
        ({"a", "b"}, "a set"),
        ({"a": 1, "b": 2}, "a dict"),
        ("ab", "one text"),
        (5, "is 5"),
        ([1], "holds 1 ids, but there are 2 documents"),
        (["x" * 10**6] * 2, "unique; 'xxx"),
    ],
)
def test_what_is_no_id_is_refused_in_one_line(ids, message):
    with pytest.raises(ValueError, match=message) as error:
        DocIds.check(ids, 2)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "ids", [("a", "b"), (x for x in "ab"), pa.array(["a", "b"]), pa.chunked_array([["a"], ["b"]])]
)
def test_ids_come_in_any_order_of_entries(ids):
    assert listed(DocIds.check(ids, 2)) == ["a", "b"]
    assert listed(DocIds.check(pa.array([4, 3]), 2)) == [4, 3]


@pytest.mark.parametrize("wanted", [[None], ["1"], [1.0], [2**70], [True], [(1,)], [[1]], [b"1"], ["\ud800"]])
def test_what_is_no_id_is_not_there(wanted):
    for ids in (DocIds.check([1, 2], 2), DocIds.check(["a", "b"], 2), DocIds.check(None, 2)):
        assert ids.positions_of(list_ids(wanted, "ids")).tolist() == [-1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.zeros(3, np.int32)}, "ids is int32"),
        ({"ids": np.zeros(2, np.int64)}, r"\(2,\) instead of int64 \(3,\)"),
        ({"id_texts": np.zeros(3, np.uint8)}, "is missing"),
        ({"id_texts": np.zeros(3, np.int8), "id_indptr": np.array([0, 1, 2, 3])}, "id_texts is int8"),
        ({"id_texts": np.zeros(3, np.uint8), "id_indptr": np.array([0, 1, 3])}, "id_indptr is"),
        ({"id_texts": np.zeros(3, np.uint8), "id_indptr": np.array([0, 3, 1, 3])}, "does not divide"),
        ({"id_texts": np.zeros(3, np.uint8), "id_indptr": np.array([0, 1, 2, 2**62])}, "does not divide"),
        ({"id_texts": np.zeros(3, np.uint8), "id_indptr": np.array([1, 1, 2, 3])}, "does not divide"),
        ({"id_texts": np.full(3, 255, np.uint8), "id_indptr": np.array([0, 1, 2, 3])}, "no UTF-8"),
        ({"id_texts": np.frombuffer("éa".encode(), np.uint8), "id_indptr": np.array([0, 1, 2, 3])}, "divides"),
    ],
)
def test_damaged_ids_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        DocIds.from_arrays(arrays, 3)


@pytest.mark.parametrize("first", [2**63 - 2, -(2**63) - 1, 1.0, "0", None, True])
def test_a_damaged_first_number_is_refused(first):
    with pytest.raises(ValueError, match="its first id"):
        DocIds.from_arrays({}, 3, first)


def test_ids_to_delete_count_once_whatever_they_are():
    given = ["a", "a", 1, True, 1, [1], [1], None, 2**70, {}]
    assert distinct_ids(given, "ids") == ["a", 1, True, [1], [1], None, 2**70, {}]
    assert distinct_ids(np.array([3, 3, 2]), "ids") == [3, 2]
