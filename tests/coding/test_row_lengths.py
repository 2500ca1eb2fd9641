"""Rows of different lengths in a file: round trips, the smaller form, and lengths of strangers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.row_lengths import RaggedRows, cut_rows, pad_rows, row_lengths, stored_bytes
from tests.coding.test_packing import packed_codes


def make_rows(lengths, width):
    rows = np.zeros((len(lengths), width), np.uint8)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = np.arange(1, length + 1)
    return rows


def test_lengths_end_at_the_last_byte_that_is_not_zero():
    rows = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 2, 3]], np.uint8)
    assert row_lengths(rows).tolist() == [0, 1, 2, 3]
    assert row_lengths(rows[:0]).tolist() == row_lengths(rows[:, :0])[:0].tolist() == []


@settings(max_examples=80, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(0, 6), st.integers(0, 300)), elements=st.sampled_from([0, 0, 0, 7])))
def test_cut_rows_come_back_and_take_what_is_said(rows):
    ragged = cut_rows(rows)
    if ragged is None:
        assert stored_bytes(rows) == rows.size
        return
    np.testing.assert_array_equal(pad_rows(ragged, rows.shape[1]), rows)
    assert stored_bytes(rows) == ragged.content.nbytes + ragged.lengths.nbytes < rows.size


def test_lengths_take_a_byte_where_that_is_enough():
    for width, size in ((255, 1), (256, 2)):
        assert cut_rows(make_rows([9, 100], width)).lengths.itemsize == size


def test_rows_that_are_mostly_empty_are_stored_whole():
    """A small file would else stand for a large memory."""
    assert cut_rows(make_rows([0] * 50 + [200], 250)) is None


@pytest.mark.parametrize(
    ("content", "lengths", "width", "message"),
    [
        (6, [2, 3], 4, "6 bytes, their lengths sum to 5"),
        (5, [2, 3], 2, "at most 3 bytes long, their width is 2"),
        (5, [2, 3], 4000, "at most 3 bytes long, their width is 4000"),
        (5, [2, 3], -1, "at most 3 bytes long, their width is -1"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(content, lengths, width, message):
    with pytest.raises(ValueError, match=message):
        pad_rows(RaggedRows(np.ones(content, np.uint8), np.array(lengths, np.uint16)), width)


def test_files_leave_out_the_zeros_behind_rows(tmp_path):
    codes = packed_codes(60, 6)
    residual = make_rows(np.arange(60) % 40 + 20, 100)
    codes.with_residual(residual).save(tmp_path / "ragged.safetensors")
    codes.with_residual(np.maximum(residual, 1)).save(tmp_path / "whole.safetensors")
    loaded = PackedCodes.load(tmp_path / "ragged.safetensors")
    np.testing.assert_array_equal(loaded.residual, residual)
    saved = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("ragged", "whole")]
    assert saved[1] - saved[0] == pytest.approx(residual.size - stored_bytes(residual), abs=120)
    assert loaded.nbytes == codes.nbytes + stored_bytes(residual)
