"""Coders from embeddings to bytes and back, and how their bytes are divided."""

import numpy as np
import pytest

from csr_hf.coding.coder import Coder
from csr_hf.coding.compact_coder import CompactCoder
from csr_hf.coding.fitting import fit_coder, fit_coders, fit_index_coder
from csr_hf.coding.scalar import ScalarQuantizer
from tests.coding.heads import make_head, make_rows


def test_coder_with_a_residual_stores_both_and_comes_closer():
    head, rows = make_head(), make_rows(600)
    plain = Coder(head, row_bytes=8, bits=3)
    residual = ScalarQuantizer.fit(rows - plain.decode(plain.encode(rows)), 6)
    both = Coder(head, row_bytes=8, bits=3, residual=residual)
    packed = both.encode(rows)
    assert both.bytes_per_vector == packed.bytes_per_row == 14 and len(packed.residual) == 600
    np.testing.assert_array_equal(packed.rows, plain.encode(rows).rows)
    errors = [((rows - coder.decode(coder.encode(rows))) ** 2).sum() for coder in (plain, both)]
    assert errors[1] < 0.7 * errors[0]
    assert plain.settings != both.settings and both.settings["residual_bytes"] == 6


def test_budgets_get_coders_that_keep_within_them():
    head, rows = make_head(), make_rows(4200)
    coders = fit_coders(head, rows, [8, 48])
    assert [coder.name for coder in coders] == ["CSR, packed", "CSR, packed", "CSR + residual"]
    assert [coder.bytes_per_vector for coder in coders] == [8, 48, 48]
    assert all(isinstance(coder, CompactCoder) for coder in coders)
    assert (coders[2].row_bytes, coders[2].residual.size) == (16, 32)
    few = fit_coders(head, rows[:500], [8, 48])
    assert [type(coder) for coder in [*few, *fit_coders(head, None, [8])]] == [Coder] * 3
    assert [(coder.row_bytes, coder.residual) for coder in few] == [(8, None), (48, None)]
    best = fit_coder(head, rows, 48)
    assert best.settings in [coder.settings for coder in coders[1:]]


def test_coders_of_an_index_spend_their_bytes_where_they_can():
    head, rows = make_head(), make_rows(600)
    both = fit_index_coder(head, rows, row_bytes=10, residual_bytes=7)
    assert (both.row_bytes, both.bits, both.residual.size) == (10, 3, 7)
    left = rows - Coder(head, row_bytes=10, bits=3).decode(Coder(head, row_bytes=10, bits=3).encode(rows))
    np.testing.assert_array_equal(both.residual.axes, ScalarQuantizer.fit(left, 7).axes)
    assert fit_index_coder(head, rows, row_bytes=10, residual_bytes=70).residual.size == 26
    alone = fit_index_coder(head, rows, row_bytes=10, residual_bytes=0)
    assert (alone.row_bytes, alone.bits, alone.residual) == (10, 3, None)
    few = fit_index_coder(head, rows[:255], row_bytes=10, residual_bytes=7)
    assert (few.row_bytes, few.bits, few.residual) == (17, 4, None)


def test_residuals_of_a_scale_alone_are_refused():
    with pytest.raises(ValueError, match=r"`residual_bytes` \(2\) must be 0, or at least 3"):
        fit_index_coder(make_head(), make_rows(300), residual_bytes=2)


def test_heads_too_wide_for_an_index_are_refused():
    with pytest.raises(ValueError, match=r"`hidden_dim` \(8,200\) is above the 8,192 latents that an index takes"):
        fit_index_coder(make_head(8, 8200), make_rows(3, 8))


@pytest.mark.parametrize("kind", [None, ScalarQuantizer])
def test_coders_are_saved_and_loaded_with_their_head_alone(tmp_path, kind):
    head, rows = make_head(), make_rows(600)
    plain, path = Coder(head, row_bytes=8, bits=3), tmp_path / "coder.safetensors"
    residual = None if kind is None else kind.fit(rows - plain.decode(plain.encode(rows)), 7)
    coder = Coder(head, row_bytes=8, bits=3, residual=residual)
    coder.save(path)
    loaded = Coder.load(path, head)
    assert loaded.settings == coder.settings
    np.testing.assert_array_equal(loaded.decode(coder.encode(rows)), coder.decode(coder.encode(rows)))
    with pytest.raises(ValueError, match="was made for another head"):
        Coder.load(path, make_head(seed=1))
    if kind is not None:
        with pytest.raises(ValueError, match=r"are not for embeddings of 40 dimensions"):
            Coder.load(path, make_head(input_dim=40))
    whole = path.read_bytes()
    damaged = [whole[:-10], whole[:40], b"", whole.replace(b"row_bytes", b"raw_bytes")]
    if kind is not None:
        damaged += [whole.replace(b"F32", b"I32"), whole.replace(b'residual_bytes":"7', b'residual_bytes":"0')]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"coder\.safetensors is damaged, or no file of a coder"):
            Coder.load(path, head)
    with pytest.raises(FileNotFoundError):
        Coder.load(tmp_path / "none", head)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`row_bytes` and `k` are both missing. Give one of them."),
        ({"row_bytes": 2}, r"`row_bytes` \(2\) must be at least 3: a scale and a latent"),
        ({"k": 97}, r"`k` \(97\) must be between 1 and `hidden_dim` \(96\)"),
        ({"k": 4, "bits": 9}, r"`bits` \(9\) must be an integer from 1 to 8"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Coder(make_head(), **arguments)


def test_heads_of_too_many_latents_are_refused():
    with pytest.raises(ValueError, match=r"`hidden_dim` \(8,200\) is above the 8,192 latents that a coder takes"):
        Coder(make_head(8, 8200), k=2)


def test_wrong_rows_are_refused():
    with pytest.raises(ValueError, match="embeddings are 23 wide, this head takes `input_dim` 24"):
        Coder(make_head(), row_bytes=8).encode(make_rows(3, 23))


def test_tensors_without_axes_are_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    head, rows, path = make_head(), make_rows(4200), tmp_path / "coder.safetensors"
    packed = Coder(head, row_bytes=8, bits=3)
    packed.residual = ScalarQuantizer.fit(rows - packed.read_back(rows), 6)
    for coder in (packed, fit_coder(head, rows, 48), fit_coder(head, rows, 8)):
        coder.save(path)
        with safe_open(path, "numpy") as file:
            metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        for name, array in arrays.items():
            save_file({**arrays, name: np.zeros((), array.dtype)}, path, metadata=metadata)
            with pytest.raises(ValueError, match=r"coder\.safetensors is damaged, or no file of a coder"):
                type(coder).load(path, head)


def test_codes_of_another_head_are_not_decoded():
    rows = make_rows(10)
    codes = Coder(make_head(), row_bytes=8).encode(rows)
    other = Coder(make_head(seed=5), row_bytes=8)
    for use in (other.decode, other.unpack):
        with pytest.raises(ValueError, match="are of another head"):
            use(codes)
