"""Products of bytes: as exact as they say, whatever the processor has for them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from csr_hf.plumbing.jit import processor_features
from csr_hf.search.byte_products import DOT, WIDTH, moved, multiply_bytes
from csr_hf.search.query_encoder import multiply_plainly


def made(dim, n=57, m=9):
    rng = np.random.default_rng(dim)
    rows = rng.integers(-127, 128, (n, dim)).astype(np.int8)
    rows[0], rows[1] = 127, -127
    queries = rng.standard_normal((m, dim)).astype(np.float32)
    queries[0], queries[1], queries[2] = 0, 1, -3
    return rows, queries


@pytest.mark.skipif(DOT is None, reason="this processor has no instruction for products of bytes")
@pytest.mark.parametrize("dim", [1, 40, 64, 384, 1025])
def test_products_are_off_by_what_rounding_says(dim):
    rows, queries = made(dim)
    products, rounding = np.empty((9, 57), np.float32), np.empty(9, np.float32)
    multiply_bytes(moved(rows), queries, products, rounding)
    exact = queries.astype(np.float64) @ rows.T.astype(np.float64)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    sums = 1e-6 * np.abs(queries).sum(axis=1)[:, None] * 127
    assert (np.abs(products - exact) <= rounding[:, None] * lengths + sums).all()
    # Fourteen bits of the largest component.
    assert (rounding <= np.abs(queries).max(axis=1) * np.sqrt(dim) / 15_000 + 1e-20).all()


@pytest.mark.parametrize("dim", [1, 40, 384])
def test_plain_products_are_exact(dim):
    rows, queries = made(dim)
    products, rounding = np.empty((9, 57), np.float32), np.full(9, 5, np.float32)
    multiply_plainly(rows, queries, products, rounding)
    np.testing.assert_allclose(products, queries @ rows.T.astype(np.float32), rtol=1e-4, atol=1e-2)
    assert not rounding.any()


def test_rows_are_padded_to_whole_registers():
    rows, _ = made(40)
    stored = moved(rows)
    assert stored.shape == (57, -(-40 // WIDTH) * WIDTH)
    np.testing.assert_array_equal(stored[:, :40].astype(int) - 128, rows)
    assert (stored[:, 40:] == 128).all()


@pytest.mark.parametrize("features", [set(), {"avxvnni"}])
def test_codes_are_the_same_with_other_instructions(features, tmp_path):
    if features and not {"avx512vl", "avx512vnni"} <= processor_features():
        pytest.skip("this processor has no such instructions of 256 bits")
    program = """
import csr_hf.plumbing.jit
csr_hf.plumbing.jit.processor_features = lambda: {features}
import numpy as np
from csr_hf.search import byte_products, query_encoder
assert byte_products.DOT == ({wanted})
rng = np.random.default_rng(3)
atoms, queries = (rng.standard_normal((n, 100)).astype(np.float32) for n in (300, 20))
found = query_encoder.QueryEncoder(atoms).codes(queries, 16)
scores = queries @ atoms.T
expected = np.argsort(-scores, axis=1)[:, :16]
assert (found.indices == expected).mean() > 0.99
np.testing.assert_allclose(found.values, np.take_along_axis(scores, expected, axis=1), rtol=1e-4)
"""
    done = subprocess.run(
        [sys.executable, "-c", program.format(features=repr(features), wanted='"256", 32' if features else "None")],
        # Compiled for other instructions than this process compiles for.
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
