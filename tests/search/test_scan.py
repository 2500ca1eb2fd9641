"""What the scan estimates, against what signs and their numbers say written out."""

import numpy as np
import pytest

from csr_hf.coding.scalar_kernels import LEVELS
from csr_hf.plumbing.jit import jit
from csr_hf.search.build.partitions import assign, count_partitions, fit_partitions
from csr_hf.search.build.signs import gather_planes, halve, lay_planes, make_rotation, make_signs
from csr_hf.search.kernels.dots import dot_four, dot_four_plainly, dot_shared, dot_shared_plainly
from csr_hf.search.kernels.products import Factors, multiply, round_queries
from csr_hf.search.kernels.queries import fill_sign_tables
from csr_hf.search.kernels.scan import FRONT, PENDING, Asked, Signs, scan
from csr_hf.search.kernels.simd import BLOCK, ROOM, add_entries, add_plainly, estimate

DIM, N = 44, 500


@jit()
def find_reaching(sums, place, factors, shifts, row, query, bound, estimates):
    base, step, total = query
    return estimate(sums, place, factors, shifts, row, base, step, total, bound, estimates)


@jit()
def take_shared(rows, first, width, queries, begin, sums, plain):
    dot_shared(rows, first, width, queries, begin, sums)
    dot_shared_plainly(rows, first, width, queries, begin, plain)


@jit()
def take_dots(rows, first, width, queries, begin, sums, plain):
    dot_four(rows, first, width, queries, begin, sums)
    dot_four_plainly(rows, first, width, queries, begin, plain)


def in_order(width, rounded):
    order = np.full(rounded.shape[1], -1, np.int32)
    order[:width] = np.arange(width)
    return order


def make_rows(n=N, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def widen(upper):
    return (upper.astype(np.uint32) << 16).view(np.float32)


def make_asked(queries, centers, rotation, nprobe):
    tables = np.empty((len(queries), 32 * -(-DIM // 8)), np.uint8)
    steps, lengths = np.empty(len(queries), np.float32), np.empty(len(queries), np.float32)
    fill_sign_tables(queries @ rotation.T, tables, steps, lengths)
    products = queries @ centers.T
    chosen = np.argsort(-products, axis=1)[:, :nprobe].astype(np.int32)
    return Asked(tables, steps, lengths, products, chosen)


@pytest.mark.parametrize("allowed_share", [None, 0.3])
@pytest.mark.parametrize("nprobe", [1, 5, 12])
def test_estimates_are_those_of_signs_factors_and_shifts(nprobe, allowed_share):
    rows, queries = make_rows(), make_rows(9, 1)
    centers, rotation = fit_partitions(rows, 12, 0), make_rotation(DIM, 0)
    own = assign(rows, centers)
    codes = make_signs(rows, own, centers, rotation)
    order = np.argsort(own, kind="stable").astype(np.int32)
    begins = np.searchsorted(own[order], np.arange(13)).astype(np.int64)
    planes = np.zeros(codes.bits.size + ROOM, np.uint8)
    lay_planes(codes.bits, order, begins, planes)
    asked = make_asked(queries, centers, rotation, nprobe)
    bits = np.unpackbits(codes.bits, axis=1)[:, :DIM].astype(np.float32) * 2 - 1
    expected = asked.centers[:, own] + widen(codes.shifts) + widen(codes.factors) * (queries @ rotation.T @ bits.T)
    visited = (asked.chosen[:, :, None] == own).any(axis=1)
    allowed = np.empty(0, np.uint8)
    if allowed_share is not None:
        allowed = (np.random.default_rng(3).random(N) < allowed_share).astype(np.uint8)
        visited &= allowed == 1
    signs = Signs(begins, order, planes, codes.factors[order], codes.shifts[order])
    found, scores = np.empty((9, 2 * N + PENDING), np.int32), np.empty((9, 2 * N + PENDING), np.float32)
    counts = np.empty(9, np.int64)
    scan(signs, asked, (0, 1), allowed, N, found, scores, counts)
    for i in range(9):
        positions = order[found[i, : counts[i]]]
        assert sorted(positions.tolist()) == np.flatnonzero(visited[i]).tolist()
        np.testing.assert_allclose(scores[i, : counts[i]], expected[i, positions], atol=0.01)
    scan(signs, asked, (0, 1), allowed, 7, found, scores, counts)
    for i in range(9):
        kept = np.sort(np.where(visited[i], expected[i], -np.inf))[::-1][: counts[i]]
        assert counts[i] == min(7, visited[i].sum())
        np.testing.assert_allclose(np.sort(scores[i, : counts[i]])[::-1], kept, atol=0.01)


def test_estimates_are_near_inner_products_and_have_no_bias():
    rows, queries = make_rows(2000), make_rows(50, 1)
    centers, rotation = fit_partitions(rows, 20, 0), make_rotation(DIM, 0)
    own = assign(rows, centers)
    codes = make_signs(rows, own, centers, rotation)
    bits = np.unpackbits(codes.bits, axis=1)[:, :DIM].astype(np.float32) * 2 - 1
    estimates = (queries @ centers.T)[:, own] + widen(codes.shifts)
    estimates += widen(codes.factors) * (queries @ rotation.T @ bits.T)
    errors = estimates - queries @ rows.T
    assert abs(errors.mean()) < 2e-3 and errors.std() < 0.8 / DIM**0.5


def test_planes_are_read_as_they_were_laid():
    bits = np.random.default_rng(0).integers(0, 256, (140, 5), dtype=np.uint8)
    order, begins = np.random.default_rng(1).permutation(140).astype(np.int32), np.array([0, 3, 3, 140], np.int64)
    planes, back = np.zeros(700 + ROOM, np.uint8), np.empty((140, 5), np.uint8)
    lay_planes(bits, order, begins, planes)
    gather_planes(planes, begins, back)
    assert (back == bits[order]).all()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 64, 65, 200])
def test_shuffles_add_what_a_loop_adds(length):
    rng = np.random.default_rng(length)
    planes = rng.integers(0, 256, 7 * length + ROOM + 11, dtype=np.uint8)
    tables = rng.integers(0, 128, (3, 32 * 7), dtype=np.uint8)
    found, expected = np.zeros(length + ROOM, np.uint16), np.zeros(length + ROOM, np.uint16)
    add_entries(planes, 11, length, tables, 1, found, 0)
    add_plainly(planes, 11, length, tables, 1, expected, 0)
    assert (found[:length] == expected[:length]).all()
    # A byte of each document at every place, in blocks of 64.
    for at in range(length):
        first, width = 11 + 7 * (at - at % BLOCK), min(BLOCK, length - (at - at % BLOCK))
        codes = planes[first + at % BLOCK :][: 7 * width : width]
        entries = tables[1].reshape(7, 2, 16).astype(int)[np.arange(7)]
        assert expected[at] == sum(
            own[0, code & 15] + own[1, code >> 4] for own, code in zip(entries, codes, strict=True)
        )


def test_estimates_are_those_of_the_formula_and_bits_name_those_that_reach_a_bound():
    rng = np.random.default_rng(0)
    sums = rng.integers(0, 2**16, 3 * BLOCK).astype(np.uint16)
    factors, shifts = (halve(rng.normal(size=3 * BLOCK).astype(np.float32)) for _ in range(2))
    query, estimates = tuple(np.array([0.3, 1e-4, 2.5], np.float32)), np.empty(BLOCK, np.float32)
    base, step, total = query
    own, added = widen(factors)[7 : 7 + BLOCK], widen(shifts)[7 : 7 + BLOCK]
    expected = (base + added) + own * (step * sums[66 : 66 + BLOCK].astype(np.float32) - total)
    for bound in (-np.inf, 0.5, expected[12], 9e9):
        bits = int(find_reaching(sums, 66, factors, shifts, 7, query, np.float32(bound), estimates))
        np.testing.assert_array_equal(estimates, expected)
        assert [at for at in range(BLOCK) if bits >> at & 1] == np.flatnonzero(expected >= bound).tolist()


@pytest.mark.parametrize("width", [1, 16, 47])
@pytest.mark.parametrize("fine", [False, True])
def test_products_of_integers_are_near_those_of_floats(width, fine):
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, width)).astype(np.float32) for n in (23, 9))
    # A number far above all others, none, and sizes far apart.
    rows[3, 0], rows[4], rows[5], rows[6] = 1000, 0, 1e-20, rows[6] * 1e6
    queries[2], queries[3] = 0, queries[3] * 1e-6
    queries[4] = np.abs(queries[4]) * 1e6
    factors = Factors.of(rows, fine=fine)
    rounded, steps = np.empty((9, factors.rows.shape[1]), np.int16), np.empty(9, np.float32)
    round_queries(queries, in_order(width, rounded), rounded, steps)
    products = np.full((9, 23), np.nan, np.float32)
    multiply(factors, rounded, steps, products)
    sizes = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    assert (np.abs(products - queries @ rows.T) <= (2e-4 if fine else 6e-3) * sizes * width**0.5 + 1e-30).all()
    assert not products[2].any() and not products[:, 4].any()
    sums, plain = np.zeros(4, np.int32), np.zeros(4, np.int32)
    arguments = factors.rows.reshape(-1), factors.rows.shape[1], factors.rows.shape[1], rounded.reshape(-1), 0
    take_dots(*arguments, sums, plain)
    assert (sums == plain).all() and sums.any()


def test_the_largest_sums_do_not_overflow():
    for rows in (np.ones((1, 400), np.float32), np.eye(1, 400, dtype=np.float32)):
        factors = Factors.of(rows, fine=True)
        rounded, steps = np.empty((1, 400), np.int16), np.empty(1, np.float32)
        round_queries(rows, in_order(400, rounded), rounded, steps)
        products = np.empty((1, 1), np.float32)
        multiply(factors, rounded, steps, products)
        assert products[0, 0] == pytest.approx((rows**2).sum(), rel=1e-3)


@pytest.mark.parametrize("width", [16, 48])
def test_products_of_shared_bytes_are_those_of_their_levels(width):
    rng = np.random.default_rng(0)
    rows, queries = rng.integers(0, 256, 100).astype(np.uint8), rng.integers(-3000, 3000, 200).astype(np.int16)
    sums, plain = np.zeros(1, np.int32), np.zeros(1, np.int32)
    take_shared(rows, 5, width, queries, 7, sums, plain)
    codes = rows[5 : 5 + width].reshape(-1, 16)
    levels = np.stack([LEVELS[codes & 15], LEVELS[codes >> 4]], axis=1).ravel().astype(np.int64)
    assert sums[0] == plain[0] == (levels * queries[7 : 7 + 2 * width]).sum()


def test_halves_are_the_nearest():
    numbers = np.array([0, 1, -1, 1e-30, 3.14159, -2e20, np.float32(1 + 2**-8)], np.float32)
    assert np.allclose(widen(halve(numbers)), numbers, rtol=2**-8)
    assert widen(halve(numbers[:3])).tolist() == [0, 1, -1]


def test_no_long_embedding_draws_a_center_away():
    rows = make_rows(600)
    rows[17] *= 1e9
    centers = fit_partitions(rows, 10, 0, unit=False)
    assert np.linalg.norm(centers, axis=1).max() < 2 and FRONT > 0


def test_few_documents_need_few_partitions():
    assert [count_partitions(n) for n in (0, 1, 31, 64, 3200)] == [1, 1, 1, 2, 100]
    assert count_partitions(10**6) == 4000
    assert fit_partitions(np.zeros((5, 3), np.float32), 2, 0).shape == (2, 3)
