"""Values at the ends of what numbers and texts can be: handled or refused in one line. No document spoils others."""

import os
import subprocess
import sys

import numpy as np
import pytest

from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from tests.helpers.scripts import ROOT
from tests.search.test_index import ALL, DIM, make_coder, make_rows

SOME = SearchParams(nprobe=4, candidates=100)


@pytest.fixture(scope="module")
def coder():
    return make_coder()


def spoil(rows, what):
    """Replace every tenth document by what is hostile; returns all rows and which of them are as they were."""
    rows, chosen = rows.astype(np.float64), np.arange(len(rows)) % 10 == 0
    rng = np.random.default_rng(7)
    rows[chosen] = {
        "long": lambda: rows[chosen] * 1e30,
        "short": lambda: rows[chosen] * 1e-30,
        "denormal": lambda: rows[chosen] * 1e-40,
        "zeros": lambda: 0,
        "equal": lambda: rows[0],
        "one axis": lambda: np.eye(1, DIM),
        "spread": lambda: rows[chosen] * 10.0 ** rng.uniform(-30, 30, (chosen.sum(), 1)),
    }[what]()
    return rows, ~chosen


KINDS = ["long", "short", "denormal", "zeros", "equal", "one axis", "spread"]


def recall(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


@pytest.mark.parametrize("what", KINDS)
def test_no_document_spoils_how_others_are_found(coder, what):
    rows, queries = make_rows(2000), make_rows(30, 1)
    spoiled, kept = spoil(rows, what)
    allowed, mean = np.flatnonzero(kept).tolist(), []
    for given in (rows, spoiled):
        index = InvertedIndex.build(given, coder, partitions=32)
        nearest = np.flatnonzero(kept)[np.argsort(-queries @ rows[kept].T, axis=1)[:, :10]]
        found = index.search(queries, 10, SOME, allowed=allowed)
        assert np.isfinite(found.scores).all()
        mean.append(recall(found.ids, nearest))
        hits = index.search(queries, 2000, ALL)
        assert np.isfinite(hits.scores).all() and np.abs(hits.scores).max() < 1.01
    assert mean[1] > mean[0] - 0.05


def test_one_document_spoils_nothing(coder):
    rows, queries = make_rows(2000), make_rows(30, 1)
    nearest, mean = np.argsort(-queries @ rows.T, axis=1)[:, :10], []
    for factor in (1, 1e30, 1e-38):
        given = rows.astype(np.float64)
        given[1234] *= factor
        mean.append(recall(InvertedIndex.build(given, coder, partitions=32).search(queries, 10, SOME).ids, nearest))
    assert min(mean) > mean[0] - 0.03


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e39])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_documents_beyond_float32_are_named(coder, value, similarity):
    rows = make_rows(50).astype(np.float64)
    rows[7, 3] = value
    index = InvertedIndex.build(make_rows(50), coder, similarity=similarity)
    for act in (lambda: InvertedIndex.build(rows, coder, similarity=similarity), lambda: index.add(rows, coder)):
        with pytest.raises(ValueError, match=r"`embeddings\[7\]`") as error:
            act()
        assert "\n" not in str(error.value)
    assert len(index) == 50


def test_lengths_that_inner_products_cannot_hold_are_refused(coder):
    rows = make_rows(50)
    rows[7] *= 1e30
    with pytest.raises(ValueError, match=r"`embeddings\[7\]` holds values above 1e\+12"):
        InvertedIndex.build(rows, coder, similarity="dot")


@pytest.mark.parametrize("top_k", [51, 2**31, 2**40, 10**18, 2**70])
def test_any_number_of_hits_may_be_asked_for(coder, top_k):
    index = InvertedIndex.build(make_rows(50), coder)
    for params in (SearchParams(), ALL, SearchParams(exact=True), SearchParams(rerank="none")):
        try:
            hits = index.search(make_rows(3, 1), top_k, params)
        except ValueError as error:
            assert "`top_k`" in str(error) and "\n" not in str(error)
        else:
            assert hits.ids.shape == (3, 50)


@pytest.mark.parametrize(
    "ids",
    [[-(2**63), 2**63 - 1, 0], ["a", "a\0", "a\0b"], ["", "x" * 2_000_000, "ä\n\x1b[31m"], ["\U0001f600", " ", "-1"]],
)
def test_unusual_ids_are_found_and_deleted_by_themselves_alone(coder, ids, tmp_path):
    rows = make_rows(3)
    index = InvertedIndex.build(rows, coder, ids)
    index.save(tmp_path / "index")
    index = InvertedIndex.load(tmp_path / "index", verify=True)
    assert index.search(rows, 1, ALL).ids[:, 0].tolist() == ids
    for one in ids:
        assert one in index
        assert index.search(rows, 3, ALL, allowed=[one]).rows()[0][0][0] == one
        assert index.delete([one]) == 1
        assert one not in index
    assert len(index) == 0


@pytest.mark.parametrize("ids", [[None, None], {"a", "b"}, ["\ud800", "b"], [float("nan"), 1.0], [1, "a"]])
def test_ids_that_are_none_are_refused(coder, ids):
    with pytest.raises(ValueError, match="`ids`") as error:
        InvertedIndex.build(make_rows(2), coder, ids)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["test_operations.py", "test_hostile_values.py", "test_repartitioning.py"])
def test_no_kernel_leaves_its_arrays(path, tmp_path):
    """With numba's bounds checks, everything gives what it gives without."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/search/{path}"]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:]
