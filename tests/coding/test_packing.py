"""Packed codes: what the format says bit by bit, small, and the same again after every way through them."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf import PackedCodes, SparseCodes
from csr_hf.coding.bit_reading import Layout, decode_rows, score_rows


def random_levels(n=40, k=6, dim=50, bits=4, seed=0):
    """Rows with up to k latents, in no order."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, dim)), axis=1)[:, :k]
    levels = rng.integers(1, min(2**bits, 255) + 1, (n, k)).astype(np.uint8)
    levels[rng.random((n, k)) < 0.2] = 0
    if n > 1:
        levels[n // 2] = 0
    return indices, levels, rng.integers(0, 256, n).astype(np.uint8)


def packed_codes(n=40, k=6, dim=50, bits=4, base=2.0, seed=0):
    return PackedCodes.from_levels(*random_levels(n, k, dim, bits, seed), dim, bits, base, "a-head")


def dense(indices, values, dim):
    matrix = np.zeros((len(indices), dim), np.float32)
    for row in range(len(indices)):
        for latent, value in zip(indices[row], values[row], strict=True):
            matrix[row, latent] += value
    return matrix


def unpacked(codes):
    found = codes.unpack()
    return dense(found.indices, found.values, found.dim)


def written_out(indices, levels, scales, dim, bits, base):
    steps = np.float32(base) * (2.0 ** (-scales.astype(float) / 8)).astype(np.float32)
    return dense(indices, levels * steps[:, None], dim)


def bits_of(row):
    return "".join(str(byte >> bit & 1) for byte in row for bit in range(8))


def read_by_hand(row, layout):
    """The format, said once more without any cleverness: latents and levels of a row, None where it means nothing."""
    stream, at, before, found = bits_of(row)[8:], 0, -1, []

    def number(text):
        return int(text[::-1], 2) if text else 0

    while "1" in stream[at:]:
        quotient = stream.index("1", at) - at
        at += quotient + 1
        if at + layout.shift + layout.bits > len(stream):
            return None
        before += (quotient << layout.shift) + number(stream[at : at + layout.shift]) + 1
        at += layout.shift
        found.append((before, number(stream[at : at + layout.bits]) + 1))
        at += layout.bits
    if len(found) > layout.k or any(latent >= layout.dim for latent, _ in found):
        return None
    return found


def same(first, second):
    return (
        np.array_equal(first.rows, second.rows)
        and (first.layout, first.base, first.head_fingerprint) == (second.layout, second.base, second.head_fingerprint)
        and (first.residual is None) == (second.residual is None)
        and (first.residual is None or np.array_equal(first.residual, second.residual))
    )


def test_a_row_bit_by_bit():
    codes = PackedCodes.from_levels(np.array([[9, 2]]), np.array([[3, 16]]), np.array([5], np.uint8), 12, 4, 1.0)
    # Gaps 2 and 6, of which two bits are low ones; levels 16 and 3 less one.
    assert (codes.shift, codes.row_bytes) == (2, 3)
    assert bits_of(codes.rows[0]) == "10100000" + "1" + "01" + "1111" + "01" + "01" + "0100" + "0"
    assert read_by_hand(codes.rows[0], codes.layout) == [(2, 16), (9, 3)]
    found = codes.unpack()
    assert found.indices.tolist() == [[2, 9]]
    np.testing.assert_array_equal(found.values[0], np.float32([16, 3]) * np.float32(2 ** (-5 / 8)))
    assert (found.dim, found.k, found.values.dtype, found.head_fingerprint) == (12, 2, np.float32, None)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_levels_come_back_to_the_bit(data):
    dim = data.draw(st.sampled_from([1, 2, 7, 63, 64, 65, 1000, 1536, 65_536, 65_537, 2**31 - 1]))
    bits = data.draw(st.integers(1, 8))
    k, n = data.draw(st.integers(0, min(dim, 12))), data.draw(st.integers(0, 4))
    latents = st.lists(st.integers(0, dim - 1) | st.just(dim - 1), min_size=k, max_size=k, unique=True)
    indices = np.array([data.draw(latents) for _ in range(n)], np.int64).reshape(n, k)
    row = st.lists(st.integers(0, 2**bits), min_size=k, max_size=k)
    levels = np.array([data.draw(row) for _ in range(n)], np.int64).reshape(n, k)
    scales = np.array([data.draw(st.integers(0, 255)) for _ in range(n)], np.uint8)
    codes = PackedCodes.from_levels(indices, levels, scales, dim, bits, 0.7)
    for at in range(n):
        expected = sorted((i, v) for i, v in zip(indices[at].tolist(), levels[at].tolist(), strict=True) if v)
        assert read_by_hand(codes.rows[at], codes.layout) == expected
        assert codes.rows[at, 0] == (scales[at] if expected else 0)
    PackedCodes(codes.rows, codes.layout, codes.base)
    read = codes.to_levels()
    again = PackedCodes.from_levels(*read, dim, bits, 0.7)
    assert np.array_equal(again.rows, codes.rows)
    found = codes.unpack()
    SparseCodes(found.indices, found.values, dim)
    order = np.lexsort((read.indices, -read.levels.astype(int)))
    assert np.array_equal(found.indices, np.take_along_axis(read.indices, order, 1))
    repacked = PackedCodes.pack(found, bits, base=codes.base) if bits < 8 else codes
    np.testing.assert_array_equal(repacked.unpack().values[:, : found.k], found.values[:, : repacked.k])


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=1, max_size=40), st.integers(1, 300), st.integers(1, 8), st.integers(0, 31), st.data())
def test_random_bytes_are_read_as_the_format_says_or_refused(content, dim, bits, shift, data):
    most = (len(content) - 1) * 8 // (1 + shift + bits)
    layout = Layout(dim, data.draw(st.integers(0, min(most, dim))), bits, shift)
    rows = np.frombuffer(content, np.uint8)[None]
    expected = read_by_hand(rows[0], layout)
    if expected is None:
        with pytest.raises(ValueError, match="row 0 holds bits that mean no code"):
            PackedCodes(rows, layout, 1.0)
        with pytest.raises(ValueError, match="row 0 holds bits that mean no code"):
            PackedCodes(rows, layout, 1.0, check=False).unpack()
    else:
        read = PackedCodes(rows, layout, 1.0).to_levels()
        found = zip(read.indices[0].tolist(), read.levels[0].tolist(), strict=True)
        assert [pair for pair in found if pair[1]] == expected
    # What is not checked gives some code, and stays within its arrays.
    positions, counts = np.zeros(1, np.int64), np.full(1, -1)
    latents, values = np.full((3, layout.k), 7777), np.full((3, layout.k), 7777, np.float32)
    steps = np.ones(256, np.float32)
    decode_rows(rows, positions, layout, steps, latents[1:2], values[1:2], counts)
    assert 0 <= counts[0] <= layout.k
    assert ((latents[1, : counts[0]] >= 0) & (latents[1, : counts[0]] < dim)).all()
    assert (latents[[0, 2]] == 7777).all()
    assert (values[[0, 2]] == 7777).all()
    scores = np.zeros(1, np.float32)
    score_rows(rows, positions, layout, steps, np.ones(dim, np.float32), scores)
    assert scores[0] == values[1, : counts[0]].sum()


@pytest.mark.parametrize(("k", "dim", "bits"), [(6, 50, 4), (32, 1536, 4), (128, 1536, 3), (40, 70_001, 5), (3, 5, 8)])
def test_chosen_rows_are_decoded_and_scored(k, dim, bits):
    codes = packed_codes(300, k, dim, bits)
    positions = np.array([299, 0, 5, 5, 150])
    latents, values = np.zeros((5, codes.k), np.int32), np.zeros((5, codes.k), np.float32)
    counts, scores = np.zeros(5, np.int64), np.zeros(5, np.float32)
    decode_rows(codes.rows, positions, codes.layout, codes.steps, latents, values, counts)
    expected = unpacked(codes)[positions]
    assert np.array_equal(dense(latents, values, dim), expected)
    assert np.array_equal(counts, np.count_nonzero(expected, axis=1))
    assert counts[4] == 0
    query = np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    score_rows(codes.rows, positions, codes.layout, codes.steps, query, scores)
    np.testing.assert_allclose(scores, expected @ query, rtol=1e-3, atol=1e-4 * codes.base)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("k", [4, 8, 12, 16, 24, 32, 48, 64, 96, 128])
def test_random_supports_take_what_they_hold(k, bits):
    rng = np.random.default_rng(k)
    indices = np.argsort(rng.random((2_000, 1536), np.float32), axis=1)[:, :k]
    levels = rng.integers(1, 2**bits + 1, indices.shape)
    codes = PackedCodes.from_levels(indices, levels, np.zeros(2_000, np.uint8), 1536, bits, 1.0)
    assert codes.row_bytes * 8 <= 1.05 * (math.log2(math.comb(1536, k)) + k * bits + 16)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("bits", "k"), [(1, 30), (3, 8), (4, 30)])
def test_packing_takes_the_scale_with_the_least_error(dtype, bits, k):
    rng = np.random.default_rng(0)
    values = -np.sort(-rng.gamma(1.0, 1.0, (60, k)), axis=1).astype(dtype)
    values[3], values[4, 2:], values[5, 0], values[6, 0] = 0, 0, 60, 12
    indices = np.argsort(rng.random((60, 90)), axis=1)[:, :k]
    codes = SparseCodes(indices, values, 90, "a-head").pack(bits)
    exact = dense(indices, values.astype(np.float32), 90)
    error = ((unpacked(codes) - exact) ** 2).sum(axis=1)
    least = np.full(60, np.inf)
    for scale in range(256):
        step = np.float32(codes.base * 2 ** (-scale / 8))
        rounded = np.minimum(np.floor(exact / step + 0.5), 2**bits) * step
        least = np.minimum(least, ((rounded - exact) ** 2).sum(axis=1))
    np.testing.assert_allclose(error, least, rtol=1e-4, atol=1e-7)
    assert (codes.bits, codes.dim, codes.head_fingerprint) == (bits, 90, "a-head")


def test_small_values_are_dropped_and_equal_ones_stay_in_order():
    codes = SparseCodes(np.array([[4, 3, 1, 2]]), np.array([[8.0, 4.0, 4.0, 0.01]]), 8).pack()
    found = codes.unpack()
    assert found.indices.tolist() == [[4, 1, 3, 0]]
    assert found.values.tolist() == [[8, 4, 4, 0]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.integers(-80, 80))
def test_unpacked_codes_pack_to_the_same_values(bits, seed, exponent):
    rng = np.random.default_rng(seed)
    values = -np.sort(-rng.random((5, 6)) * 10.0 ** rng.integers(-3, 3, (5, 1)), axis=1) * 2.0**exponent
    codes = SparseCodes(np.argsort(rng.random((5, 20)), axis=1)[:, :6], values, 20).pack(bits)
    found = codes.unpack()
    again = found.pack(bits)
    assert np.array_equal(unpacked(again), unpacked(codes))
    assert np.array_equal(unpacked(PackedCodes.pack(found, bits, base=codes.base)), unpacked(codes))


def test_what_cannot_be_packed_is_named():
    codes = SparseCodes(np.array([[1, 2]]), np.array([[2.0, 1.0]]), 9)
    for bits in (0, 9, 2.5, "4"):
        with pytest.raises(ValueError, match=rf"`bits` \({bits!r}\) must be an integer from 1 to 8"):
            codes.pack(bits)
    for base in (0, -1.0, math.nan, math.inf, 1e-40, 1e38):
        with pytest.raises(ValueError, match=r"`base` .* must be from 2"):
            PackedCodes.pack(codes, base=base)
    for values in ([np.nan, 1.0], [np.inf, 1.0], [1e37, 1.0], [1.0, -1.0]):
        wrong = SparseCodes(np.array([[1, 2]]), np.array([values], np.float32), 9, check=False)
        with pytest.raises(ValueError, match=r"`codes` hold values from .*must lie in"):
            wrong.pack()
    for indices, message in (
        ([[3, 3]], "row 0 of the codes names a latent twice"),
        ([[3, 9]], r"outside of \[0, 9\)"),
    ):
        with pytest.raises(ValueError, match=message):
            SparseCodes(np.array(indices), np.ones((1, 2)), 9, check=False).pack()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.zeros((2, 3))}, r"`indices` \(float64\) and `levels`"),
        ({"indices": np.zeros((2, 4), int)}, r"`indices` \(2, 4\) and `levels` \(2, 3\) must have the shape"),
        ({"indices": np.array([[0, 1, 2], [0, 1, -1]])}, r"row 1 of the codes names a latent outside of \[0, 9\)"),
        ({"indices": np.array([[0, 1, 2], [0, 1, 2**40]])}, r"row 1 of the codes names a latent outside of \[0, 9\)"),
        ({"indices": np.array([[0, 1, 2], [4, 2, 4]])}, "row 1 of the codes names a latent twice"),
        ({"levels": np.full((2, 3), 17)}, "row 0 of the codes has a level that is not from 0 to 16"),
        ({"levels": np.full((2, 3), -1)}, "row 0 of the codes has a level that is not from 0 to 16"),
        ({"levels": np.full((2, 3), 2**16 + 1)}, "row 0 of the codes has a level that is not from 0 to 16"),
        ({"levels": np.ones((2, 3))}, r"`levels` \(float64\) must be integers"),
        ({"scales": np.zeros(2)}, r"`scales` \(float64\) uint8"),
        ({"scales": np.zeros(3, np.uint8)}, r"`scales` \(3,\) \(n,\)"),
        ({"dim": 0}, r"`dim` \(0\) must be an integer from 1 to 2147483647"),
        ({"dim": 2**31}, r"`dim` \(2147483648\) must be"),
        ({"bits": 9}, r"`bits` \(9\)"),
        ({"base": 0.0}, r"`base` \(0.0\)"),
    ],
)
def test_levels_that_cannot_be_packed_are_named(change, message):
    right = {
        "indices": np.array([[0, 1, 2], [5, 3, 4]]),
        "levels": np.ones((2, 3), np.uint8),
        "scales": np.zeros(2, np.uint8),
        "dim": 9,
        "bits": 4,
        "base": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        PackedCodes.from_levels(**right | change)


def test_many_rows_of_many_chunks():
    codes = packed_codes(20_000, 5, 300)
    expected = written_out(*random_levels(20_000, 5, 300), 300, 4, 2.0)
    assert np.array_equal(unpacked(codes), expected)
    rows = codes.rows.copy()
    rows[17_000, 1:] = 255
    with pytest.raises(ValueError, match="row 17000 holds bits that mean no code"):
        PackedCodes(rows, codes.layout, codes.base)


@pytest.mark.parametrize("rows", [slice(3, 9, 2), [4, 1], np.arange(40) % 3 == 0, np.array([-1, 0]), slice(0, 0)])
def test_rows_can_be_sliced_with_their_residuals(rows):
    residual = np.arange(80, dtype=np.uint8).reshape(40, 2)
    codes = packed_codes().with_residual(residual)
    assert np.array_equal(unpacked(codes[rows]), unpacked(codes)[rows])
    assert np.array_equal(codes[rows].residual, residual[rows])
    assert codes[rows].layout == codes.layout


def test_single_rows_sizes_and_names():
    codes = packed_codes()
    assert np.array_equal(unpacked(codes[5])[0], unpacked(codes)[5])
    assert np.array_equal(unpacked(codes[-1])[0], unpacked(codes)[-1])
    for row in (40, -41):
        with pytest.raises(IndexError, match="of 40 codes"):
            codes[row]
    assert codes.nbytes == codes.rows.nbytes == 40 * codes.bytes_per_row
    both = codes.with_residual(np.zeros((40, 48), np.uint8))
    assert (both.bytes_per_row, both.nbytes) == (codes.row_bytes + 48, codes.nbytes + 40 * 48)
    assert repr(codes) == f"PackedCodes(n=40, k=6, dim=50, 4 bits a value, {codes.row_bytes} bytes a row)"
    assert repr(both).endswith(f"{codes.row_bytes + 48} bytes a row, 48 of them residual)")
    assert both.with_residual(None).residual is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.zeros((4, 5))}, r"`rows` \(float64, \(4, 5\)\) must be uint8"),
        ({"rows": np.zeros(5, np.uint8)}, "`rows` .* must be uint8 with the shape"),
        ({"rows": np.zeros((4, 0), np.uint8)}, r"`rows` \(4, 0\) must have from 1 to"),
        ({"residual": np.zeros((4, 2))}, "`residual` .* must be uint8"),
        ({"residual": np.zeros((3, 2), np.uint8)}, "`residual` has 3 rows for 4 of `rows`"),
        ({"layout": Layout(9, 8, 4, 0)}, r"`layout.k` \(8\) exceeds the 6 latents that 5 bytes can hold"),
        ({"layout": Layout(9, 10, 4, 0)}, r"`k` \(10\) must be an integer from 0 to 9"),
        ({"layout": Layout(9, 2, 4, 32)}, r"`shift` \(32\) must be an integer from 0 to 31"),
        ({"layout": Layout(9, 2, 4, -1)}, r"`shift` \(-1\)"),
        ({"layout": Layout(9, -1, 4, 0)}, r"`k` \(-1\)"),
    ],
)
def test_what_does_not_agree_is_refused(change, message):
    right = {"rows": np.zeros((4, 5), np.uint8), "layout": Layout(9, 2, 4, 1), "base": 1.0}
    PackedCodes(**right)
    with pytest.raises(ValueError, match=message):
        PackedCodes(**right | change)


def test_concatenation_changes_no_value():
    parts = [packed_codes(), packed_codes(k=3, seed=1), packed_codes(n=0), packed_codes(k=20, seed=2)]
    assert len({part.shift for part in parts}) > 1
    for some in (parts, parts[:1], parts[:2]):
        joined = PackedCodes.concatenate(some)
        assert np.array_equal(unpacked(joined), np.concatenate([unpacked(part) for part in some]))
        assert joined.k == max(part.k for part in some)
        PackedCodes(joined.rows, joined.layout, joined.base)
    codes = packed_codes(200, 6).with_residual(np.arange(400, dtype=np.uint8).reshape(200, 2))
    assert same(PackedCodes.concatenate([codes[:50], codes[50:]]), codes)


@pytest.mark.parametrize("larger", [4.0, 64.0])
def test_bases_are_made_one_where_nothing_is_lost(larger):
    indices, levels, scales = random_levels()
    small = PackedCodes.from_levels(indices, levels, scales // 2, 50, 4, 2.0, "a-head")
    large = PackedCodes.from_levels(indices, levels, scales, 50, 4, larger, "a-head")
    joined = PackedCodes.concatenate([small, large])
    assert np.array_equal(unpacked(joined), np.concatenate([unpacked(small), unpacked(large)]))
    assert joined.base == larger


def test_what_differs_is_not_concatenated():
    codes = packed_codes()
    with pytest.raises(ValueError, match="`parts` is empty"):
        PackedCodes.concatenate([])
    for other in (
        packed_codes(dim=60),
        packed_codes(bits=3),
        codes.with_residual(np.zeros((40, 1), np.uint8)),
        PackedCodes(codes.rows, codes.layout, codes.base, "another"),
    ):
        with pytest.raises(ValueError, match=r"codes differ in \(dim, bits, head, bytes of residual\)"):
            PackedCodes.concatenate([codes, other])
    for base in (3.0, 2.0**40):
        with pytest.raises(ValueError, match=r"the bases .* cannot be made one without changing values"):
            PackedCodes.concatenate([codes, packed_codes(base=base)])


BOUNDS = """
import numpy as np
from csr_hf.coding import bit_reading
from csr_hf.coding.bit_reading import Layout

rng = np.random.default_rng(0)
for _ in range(400):
    size, bits, shift = int(rng.integers(1, 70)), int(rng.integers(1, 9)), int(rng.integers(0, 32))
    dim = int(rng.choice([1, 5, 300, 2**31 - 1]))
    rows = rng.integers(0, 256, (20, size)).astype(np.uint8)
    rows[rng.random(rows.shape) < rng.random()] = 0
    layout = Layout(dim, int(rng.integers(0, 40)), bits, shift)
    latents, values = np.zeros((20, layout.k), np.int32), np.zeros((20, layout.k), np.float32)
    steps, counts, order = np.ones(256, np.float32), np.zeros(20, np.int64), rng.permutation(20)
    bit_reading.decode_rows(rows, order, layout, steps, latents, values, counts)
    bit_reading.read_levels(rows, order, layout, latents, values)
    if dim < 2**20:
        bit_reading.score_rows(rows, order, layout, steps, np.ones(dim, np.float32), np.zeros(20, np.float32))
print("done")
"""


def test_kernels_stay_within_their_arrays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BOUNDS],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.stdout == "done\n", done.stderr


def test_packing_needs_no_torch():
    script = "import sys; from csr_hf.coding.packing import PackedCodes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
