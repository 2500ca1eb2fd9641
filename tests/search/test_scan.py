"""Candidates by the signs of documents in the visited blocks."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from csr_hf.search import finding
from csr_hf.search.copies import store_float16, store_float16_plainly
from csr_hf.search.index import InvertedIndex
from csr_hf.search.lookup import HIGHEST, ROOM, SHUFFLE, add_entries, add_plainly
from csr_hf.search.params import SearchParams
from csr_hf.search.queries import prepare_queries
from csr_hf.search.rounding import sign_tables
from csr_hf.search.routing import visits_of
from tests.search.test_index import random_codes

N, DIM = 2500, 44


@pytest.fixture(scope="module")
def documents():
    return random_codes(N, 8, 150, 30)


@pytest.fixture(scope="module")
def dense():
    """Documents and queries; signs alone tell little of them."""
    rng = np.random.default_rng(5)
    rows, asked = rng.standard_normal((N, DIM)), rng.standard_normal((40, DIM))
    return rows.astype(np.float32), (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return random_codes(40, 12, 150, 31)


@pytest.fixture(scope="module")
def index(documents, dense):
    return InvertedIndex.build(documents, embeddings=dense[0], copies=["binary", "int8"])


def entries(codes, tables):
    """What tables have for codes, shape (n, places), one after the other."""
    tables = tables.reshape(-1, 2, 16).astype(int)
    places = np.arange(codes.shape[1])
    return (tables[places, 0, codes & 15] + tables[places, 1, codes >> 4]).sum(axis=1)


def sums_of(rows, query):
    """Of every document what the tables of a query say of its signs."""
    return entries(np.packbits(rows > 0, axis=1), sign_tables(query[None])[0])


def rounded(rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    step = np.abs(units).max(axis=1, keepdims=True) / 127
    return np.rint(units / step) * step


@pytest.mark.parametrize(("length", "places"), [(1, 1), (7, 5), (64, 48), (65, 3), (152, 48), (256, 512)])
@pytest.mark.parametrize("add", [add_entries, add_plainly])
def test_sums_are_those_of_the_entries(add, length, places):
    rng = np.random.default_rng(length)
    codes = rng.integers(0, 256, (length, places)).astype(np.uint8)
    tables = rng.integers(0, min(HIGHEST, 65_535 // (2 * places)) + 1, 32 * places).astype(np.uint8)
    before = np.full(5, 77, np.uint8)
    planes = np.concatenate([before, codes.T.ravel(), np.full(ROOM, 99, np.uint8)])
    sums = np.zeros(9 + length + ROOM, np.uint16)
    wanted, both = entries(codes, tables), np.stack([tables // 2, tables])
    assert add(planes, 5, length, both, 1, sums, 9, np.uint16(wanted.max()))
    np.testing.assert_array_equal(sums[9 : 9 + length], wanted)
    assert not sums[:9].any()
    assert not add(planes, 5, length, both, 1, sums, 9, np.uint16(65_535))


def test_floats_are_rounded_to_float16_either_way():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((50, 33)) * 10.0 ** rng.integers(-9, 1, (50, 1))).astype(np.float32)
    norms, places = np.linalg.norm(rows, axis=1).astype(np.float32), rng.permutation(50).astype(np.int32)
    rows[3] = 0
    wanted = np.empty((50, 33), np.uint16)
    wanted[places] = (rows / norms[:, None]).astype(np.float16).view(np.uint16)
    for store in (store_float16, store_float16_plainly):
        copy = np.zeros((50, 33), np.uint16)
        store(rows, norms, places, copy)
        np.testing.assert_array_equal(copy, wanted)


@pytest.mark.skipif(SHUFFLE is None or "x86" not in SHUFFLE[0], reason="widths of x86 processors")
@pytest.mark.parametrize(("features", "width"), [("+ssse3", 16), ("+ssse3,+avx,+avx2", 32), ("", None)])
def test_every_width_of_the_processor_gives_the_same(tmp_path, features, width):
    if width and width > SHUFFLE[1]:
        pytest.skip(f"this processor has no shuffles of {width} bytes")
    program = """
import numpy as np
from csr_hf.search import lookup
assert (lookup.SHUFFLE and lookup.SHUFFLE[1]) == %s, lookup.SHUFFLE
rng = np.random.default_rng(0)
planes, tables = (rng.integers(0, 128, size).astype(np.uint8) for size in (150 * 6 + lookup.ROOM, (1, 6 * 32)))
for length in (3, 16, 17, 33, 65, 150):
    found, wanted = np.zeros((2, length + lookup.ROOM), np.uint16)
    lookup.add_entries(planes, 0, length, tables, 0, found, 0, np.uint16(9))
    lookup.add_plainly(planes, 0, length, tables, 0, wanted, 0, np.uint16(9))
    assert (found[:length] == wanted[:length]).all() and wanted.any()
"""
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program % width], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_tables_hold_the_sums_of_set_bits(dense):
    """sum(tables) = step * (sum of q over positive dimensions - the smallest such sum), up to rounding."""
    rows, asked = dense
    for query in asked[:3]:
        four = np.abs(np.pad(query, (0, -len(query) % 4))).reshape(-1, 4).sum(axis=1)
        step = HIGHEST / four.max()
        wanted = step * ((rows > 0) @ query - np.minimum(query, 0).sum())
        assert np.abs(sums_of(rows, query) - wanted).max() <= 0.5 * len(four)
        assert np.corrcoef(sums_of(rows, query), np.sign(rows) @ query)[0, 1] > 0.999
    assert not sign_tables(np.zeros((1, DIM), np.float32)).any()


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_signs_are_scored_anew(index, queries, dense, count, threads):
    rows, asked = dense
    scores = asked @ rounded(rows).T
    for candidates in (30, 700, N):
        result = index.search(
            queries[:count],
            10,
            params=SearchParams(rescore="int8", candidates=candidates, scan="binary", threads=threads),
            embeddings=asked[:count],
        )
        for i in range(count):
            # Of equal sums the earlier documents.
            chosen = np.lexsort((np.arange(N), -sums_of(rows, asked[i])))[:candidates]
            expected = chosen[np.argsort(-scores[i, chosen], kind="stable")][:10]
            np.testing.assert_allclose(result.scores[i], scores[i, expected], atol=1e-5)
            assert set(result.positions[i]) == set(expected)


@pytest.mark.parametrize("kind", ["int8", "float16"])
@pytest.mark.parametrize("nprobe", [None, 4])
def test_both_stages_in_one_pass_find_what_they_find_apart(documents, queries, dense, monkeypatch, kind, nprobe):
    index = InvertedIndex.build(documents, embeddings=dense[0], copies=["binary", kind])
    params = SearchParams(rescore=kind, candidates=60, scan="binary", nprobe=nprobe, threads=2)
    together = [index.search(queries[i], 10, params, embeddings=dense[1][i : i + 1]) for i in range(5)]
    # Two threads that share a query cannot rank before both have found their candidates.
    monkeypatch.setattr(finding, "_SCAN_SHARE", 1)
    for i, one in enumerate(together):
        apart = index.search(queries[i], 10, params, embeddings=dense[1][i : i + 1])
        np.testing.assert_array_equal(apart.positions, one.positions)
        np.testing.assert_allclose(apart.scores, one.scores, rtol=1e-6)
    batch = index.search(queries, 10, params, embeddings=dense[1])
    np.testing.assert_array_equal(batch.positions[:5], np.concatenate([one.positions for one in together]))


@pytest.mark.parametrize("count", [1, 40])
def test_of_documents_alike_the_first_are_candidates(queries, dense, count):
    rows = np.repeat(dense[0][:2], N // 2, axis=0)
    index = InvertedIndex.build(random_codes(N, 8, 150, 30), embeddings=rows, copies=["binary", "int8"])
    asked = np.tile(dense[0][1], (count, 1))
    found = index.search(
        queries[:count], 20, params=SearchParams(rescore="int8", candidates=20, scan="binary"), embeddings=asked
    )
    assert (found.positions == N // 2 + np.arange(20)).all()


def test_only_visited_blocks_are_scanned(index, queries, dense):
    order, begins = (index._parts[0].segment.arrays[name] for name in ("order", "rows"))
    block_of = np.empty(N, int)
    block_of[order] = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    everywhere = SearchParams(rescore="int8", candidates=300, scan="binary")
    for nprobe in (1, 3):
        params = replace(everywhere, nprobe=nprobe)
        found = index.search(queries, 300, params, embeddings=dense[1]).positions
        for row in found:
            assert 1 <= len(set(block_of[row[row >= 0]])) <= nprobe
        alone = [index.search(queries[i], 300, params, embeddings=dense[1][i : i + 1]).positions[0] for i in range(3)]
        for i, one in enumerate(alone):
            assert set(one) == set(found[i])
    found = [
        index.search(queries, 300, params, embeddings=dense[1]).positions
        for params in (everywhere, replace(everywhere, nprobe=len(begins)))
    ]
    np.testing.assert_array_equal(*found)


def test_the_sub_blocks_of_the_best_centres_are_scanned(index, queries, dense):
    asked, nprobe = dense[1], 4
    arrays = index._parts[0].segment.arrays
    begins, rows, firsts = arrays["rows"], arrays["binary_rows"], arrays["binary_firsts"]
    prepared = prepare_queries(queries, None, False)
    visited, counts, _ = visits_of(arrays["summary"], prepared.latents, prepared.coarse, len(begins) - 1, nprobe)
    params = SearchParams(rescore="int8", candidates=N, scan="binary", nprobe=nprobe)
    found = index.search(queries, N, params, embeddings=asked).positions
    sub_block_of = np.empty(N, int)
    sub_block_of[arrays["order"]] = np.repeat(np.arange(len(rows) - 1), np.diff(rows))
    for i, query in enumerate(asked):
        scanned = set(sub_block_of[found[i][found[i] >= 0]])
        assert len(scanned) == nprobe
        sums = {}
        for block in visited[i, : counts[i]]:
            first, count = firsts[block], firsts[block + 1] - firsts[block]
            centers = arrays["binary_centers"][6 * first : 6 * (first + count)].reshape(6, count).T
            sums |= dict(enumerate(entries(centers, sign_tables(query[None])[0]).tolist(), first))
        others = [sums[number] for number in sums.keys() - scanned]
        # Sums are compared in about a thousand steps.
        assert min(sums[number] for number in scanned) > max(others) - 2
        # All documents of these, and no others.
        assert (found[i] >= 0).sum() == sum(rows[number + 1] - rows[number] for number in scanned)


def test_segments_filters_and_compacting_change_no_answer(documents, queries, dense, index, tmp_path):
    rows, asked = dense
    parts = InvertedIndex.build(documents[:900], embeddings=rows[:900], copies=["binary", "int8"])
    parts.add(documents[900:1000], embeddings=rows[900:1000])
    parts.add(documents[1000:], embeddings=rows[1000:])
    arguments = {"params": SearchParams(rescore="int8", candidates=50, scan="binary"), "embeddings": asked}
    whole = index.search(queries, 10, **arguments)
    np.testing.assert_array_equal(parts.search(queries, 10, **arguments).ids, whole.ids)
    allowed = np.arange(N) % 3 == 0
    some = parts.search(queries, 10, allowed=allowed, **arguments)
    assert (some.ids % 3 == 0).all()
    kept = InvertedIndex.build(
        documents[allowed], np.flatnonzero(allowed), embeddings=rows[allowed], copies=["binary", "int8"]
    )
    np.testing.assert_array_equal(some.ids, kept.search(queries, 10, **arguments).ids)
    parts.delete(np.flatnonzero(~allowed))
    np.testing.assert_array_equal(parts.search(queries, 10, **arguments).ids, some.ids)
    parts.compact()
    np.testing.assert_array_equal(parts.search(queries, 10, **arguments).ids, some.ids)
    parts.save(tmp_path / "index")
    loaded = InvertedIndex.load(tmp_path / "index", verify=True)
    np.testing.assert_array_equal(loaded.search(queries, 10, **arguments).ids, some.ids)
    signs = loaded.search(queries, 10, params=SearchParams(rescore="binary", candidates=50), embeddings=asked)
    np.testing.assert_array_equal(
        signs.ids, kept.search(queries, 10, params=SearchParams(rescore="binary", candidates=50), embeddings=asked).ids
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scan": "int8", "rescore": "int8"}, '`scan` .*int8.* is unknown. Choose "binary"'),
        ({"scan": "binary"}, '`scan="binary"` finds candidates for a second stage. Pass `rescore`'),
        ({"scan": "binary", "rescore": "int8", "embeddings": None}, "Pass `embeddings`"),
    ],
)
def test_what_a_scan_needs(index, queries, dense, arguments, message):
    given = {"embeddings": dense[1], **arguments}
    embeddings = given.pop("embeddings")
    with pytest.raises(ValueError, match=message):
        index.search(queries, 5, SearchParams(**given), embeddings=embeddings)


def test_signs_must_be_there(documents, queries, dense):
    index = InvertedIndex.build(documents, embeddings=dense[0], copies=["int8"])
    with pytest.raises(ValueError, match=r'index has int8. Build it with .*copies=\["binary", "int8"\]'):
        index.search(queries, 5, params=SearchParams(rescore="int8", scan="binary"), embeddings=dense[1])
