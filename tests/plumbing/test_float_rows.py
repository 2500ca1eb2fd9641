"""Embeddings in whatever array, tensor or list holds them."""

from collections import deque

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from csr_hf.codes import encode_embeddings, project_queries
from csr_hf.data.vectors import as_vectors
from csr_hf.plumbing.float_rows import as_float_rows

ROWS = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)


def layouts(rows):
    """The same rows in every layout and type that holds float32 without loss."""
    read_only, wide, spaced = rows.copy(), np.zeros((len(rows), 24), np.float32), np.zeros((2 * len(rows), 12))
    read_only.flags.writeable = False
    wide[:, ::2], spaced[::2] = rows, rows
    return {
        "reversed": rows[::-1].copy()[::-1],
        "columns reversed": rows[:, ::-1].copy()[:, ::-1],
        "transposed": rows.T.copy().T,
        "strided columns": wide[:, ::2],
        "strided rows": spaced[::2],
        "read-only": read_only,
        "float64": rows.astype(np.float64),
        "big-endian": rows.astype(">f4"),
        "big-endian float64": rows.astype(">f8"),
        "matrix": rows.view(np.matrix),
        "not masked": np.ma.array(rows),
        "tensor": torch.tensor(rows),
        "tensor with gradient": torch.tensor(rows, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.tensor(rows, dtype=torch.float64)),
        "transposed tensor": torch.tensor(rows.T.copy()).T,
        "conjugate": torch.tensor(-rows).neg(),
        "list of arrays": list(rows),
        "tuple of tensors": tuple(torch.tensor(rows)),
        "list of lists": rows.tolist(),
        "generator": (row for row in rows),
        "deque": deque(rows),
        "array of arrays": pd.Series(list(rows)).to_numpy(),
        "series": pd.Series(list(rows), index=range(len(rows), 0, -1)),
        "polars": pl.Series(rows.tolist()),
        "arrow": pa.array(rows.tolist()),
    }


@pytest.mark.parametrize("kind", layouts(ROWS))
def test_layout_and_type_change_nothing(head, kind):
    expected = encode_embeddings(head, ROWS)
    found = encode_embeddings(head, layouts(ROWS)[kind])
    assert np.array_equal(found.indices, expected.indices) and np.array_equal(found.values, expected.values)
    projections = project_queries(head, layouts(ROWS)[kind])
    assert np.array_equal(projections.latents, project_queries(head, ROWS).latents)
    vectors = as_vectors(layouts(ROWS)[kind], "mine")
    for rows in (slice(3, 9), np.array([7, 0, 7]), np.arange(20) % 3 == 0):
        assert np.array_equal(vectors[rows], ROWS[rows]) and vectors[rows].dtype == np.float32


def test_halves_are_read_as_they_round(head):
    halves = torch.tensor(ROWS).bfloat16()
    expected = encode_embeddings(head, halves.float().numpy())
    found = [halves, list(halves), halves.requires_grad_()]
    try:
        import ml_dtypes
    except ImportError:
        pass
    else:
        found += [ROWS.astype(ml_dtypes.bfloat16), list(ROWS.astype(ml_dtypes.bfloat16))]
    for same in found:
        assert np.array_equal(encode_embeddings(head, same).values, expected.values)
        assert np.array_equal(as_vectors(same, "mine")[:], halves.detach().float().numpy())
    expected = encode_embeddings(head, ROWS.astype(np.float16).astype(np.float32))
    for same in (ROWS.astype(np.float16), ROWS.astype(">f2"), torch.tensor(ROWS).half()):
        assert np.array_equal(encode_embeddings(head, same).values, expected.values)
        assert as_vectors(same, "mine").dtype == np.float16


@settings(max_examples=20, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f2"]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=16),
    )
)
def test_stacked_rows_are_the_array(array):
    for same in (array, list(array), array.tolist(), torch.tensor(array.astype(np.float32))):
        rows = as_float_rows(same, "mine")
        assert np.array_equal(np.asarray(rows), array) and rows.shape == array.shape


def test_memory_maps_stay_where_they_are(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert np.shares_memory(as_float_rows(mapped, "mine"), mapped)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ROWS.astype(np.int64), "does not hold embeddings but int64. Give floats"),
        (ROWS.astype(np.longdouble), r"but float\d+. Give floats"),
        (torch.zeros(2, 3, dtype=torch.int8), "but torch.int8"),
        (torch.zeros(2, 3, device="meta"), "on meta"),
        (ROWS[0], r"has the shape \(12,\).* one is vector\[None\]"),
        (ROWS[0].tolist(), r"is one vector of numbers. Give a list of vectors: \[vector\]"),
        (torch.tensor(ROWS[0]), r"has the shape \(12,\).* one is vector\[None\]"),
        (ROWS[None], r"has the shape \(1, 20, 12\)"),
        (np.zeros((3, 0), np.float32), r"has the shape \(3, 0\)"),
        ([ROWS[0], ROWS[1, :5]], r"vectors of one width: row 1 has the shape \(5,\), row 0 \(12,\)"),
        ([[0.5, 1.0], [0.5]], r"vectors of one width: row 1 has the shape \(1,\), row 0 \(2,\)"),
        ([[0.5, 1.0], None], "but nothing in row 1"),
        ([[1, 2], [3, 4]], "but int64 in row 0"),
        (["a", "b"], r"but a list of texts \('a', ...\)"),
        ([], "is empty: there are no embeddings in it"),
        ({"a": 1}, "but a dict"),
        ({1.0, 2.0}, "but a set"),
        (b"abc", "but a bytes"),
        (None, "but a NoneType"),
        (pd.DataFrame(ROWS), r"is a DataFrame, no embeddings. Give its numbers, df.to_numpy\(\)"),
        (pl.DataFrame(ROWS), "is a DataFrame, no embeddings"),
        (np.ma.array(ROWS, mask=ROWS > 1), r"has masked values. Fill them, array.filled\(0\)"),
    ],
)
def test_what_is_no_embedding_is_refused(head, given, message):
    for take in (lambda: as_vectors(given, "`embeddings`"), lambda: encode_embeddings(head, given)):
        with pytest.raises(ValueError, match="`embeddings` .*" + message) as caught:
            take()
        assert "\n" not in str(caught.value)


def test_values_that_are_no_numbers_are_named_by_row(head):
    for bad in (np.nan, np.inf, 1e300):
        rows = ROWS.astype(np.float64)
        rows[7, 3] = bad
        for same in (rows, torch.tensor(rows), list(rows)):
            with np.errstate(all="raise"), pytest.raises(ValueError, match=r"embeddings\[7\] holds NaN or infinity"):
                encode_embeddings(head, same)
