"""Rounding against exhaustive search, and coders from embeddings to bytes and back."""

import itertools
import sys

import numpy as np
import pytest
import torch

from csr_hf import PackedCodes
from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.coding.fitting import fit_coder, fit_coders, fit_index_coder
from csr_hf.coding.pursuit import Pursuit
from csr_hf.coding.residual import ResidualQuantizer
from csr_hf.coding.rounding import largest_row_bytes, most_latents, round_chosen
from tests.coding.heads import make_head, make_rows
from tests.helpers.scripts import ROOT


def make_chosen(head, rows, k):
    pursuit = Pursuit(head.dictionary.detach(), head.pre_bias.detach())
    return pursuit, pursuit.choose(torch.from_numpy(rows), k)


def read(levels, base):
    return levels.levels * (base * 2.0 ** (-levels.scales[:, None].astype(np.float64) / 8))


def test_chosen_latents_have_the_targets_and_values_of_their_atoms():
    head, rows = make_head(), make_rows(70)
    _, chosen = make_chosen(head, rows, 6)
    atoms, bias = (each.detach().numpy() for each in (head.dictionary, head.pre_bias))
    for row in range(70):
        support = atoms[chosen.indices[row]]
        np.testing.assert_allclose(chosen.targets[row], support @ (rows[row] - bias), atol=1e-4)
        left = rows[row] - bias - chosen.values[row] @ support
        np.testing.assert_allclose(support @ left, 0, atol=1e-3)


def test_levels_are_near_the_best_of_all():
    head, rows = make_head(), make_rows(40)
    pursuit, chosen = make_chosen(head, rows, 4)
    levels, base = round_chosen(pursuit, chosen, 2, largest_row_bytes(96, 4, 2))
    atoms, targets = head.dictionary.detach().numpy(), rows - head.pre_bias.detach().numpy()
    found, best = [], []
    for row in range(40):
        support = atoms[levels.indices[row]]
        found.append(((targets[row] - read(levels, base)[row] @ support) ** 2).sum())
        step = base * 2.0 ** (-float(levels.scales[row]) / 8)
        tried = np.array(list(itertools.product(range(5), repeat=4))) * step
        best.append(((targets[row] - tried @ support) ** 2).sum(axis=1).min())
    assert (np.array(found) <= np.array(best) * 1.05 + 1e-6).mean() > 0.9
    assert np.mean(found) < 1.03 * np.mean(best)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_together_is_closer_than_rounding_each_value(bits):
    head, rows = make_head(64, 512), make_rows(200, 64)
    codes = encode_embeddings(head, rows, 24, refine="pursuit")
    alone = decode_codes(head, codes.pack(bits).unpack())
    coder = Coder(head, k=24, bits=bits)
    together = coder.decode(coder.encode(rows))
    assert ((rows - together) ** 2).sum() < ((rows - alone) ** 2).sum()


@pytest.mark.parametrize("row_bytes", [3, 8, 17, 40])
def test_rows_keep_within_their_bytes_and_use_them(row_bytes):
    head, rows = make_head(64, 512), make_rows(300, 64)
    coder = Coder(head, row_bytes=row_bytes, bits=3)
    packed = coder.encode(rows)
    assert row_bytes - 1 <= packed.row_bytes <= row_bytes
    PackedCodes(packed.rows, packed.layout, packed.base)
    counts = (packed.unpack().values > 0).sum(axis=1)
    assert counts.max() > counts.min() or row_bytes == 3
    assert counts.max() <= most_latents(512, row_bytes, 3)


def test_more_bytes_come_closer():
    head, rows = make_head(64, 512), make_rows(300, 64)
    errors = [
        ((rows - coder.decode(coder.encode(rows))) ** 2).sum()
        for coder in (Coder(head, row_bytes=size, bits=3) for size in (8, 16, 24, 40))
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("k", [1, 4, 32])
@pytest.mark.parametrize("bits", [3, 4])
def test_k_latents_always_fit_into_the_largest_row(k, bits):
    dim, rng = 1536, np.random.default_rng(0)
    size = largest_row_bytes(dim, k, bits)
    for latents in (
        np.arange(dim - k, dim),
        np.sort(rng.permutation(dim)[:k]),
        np.linspace(0, dim - 1, k).astype(int),
    ):
        levels = np.full((1, k), 2**bits, np.uint16)
        packed = PackedCodes.from_levels(latents[None], levels, np.zeros(1, np.uint8), dim, bits, 1.0)
        assert packed.row_bytes <= size


def test_the_page_on_codes_has_these_sizes():
    page = (ROOT / "recipes" / "codes.md").read_text(encoding="utf-8")
    for bits in (4, 3):
        sizes = [largest_row_bytes(1536, k, bits) for k in (4, 8, 16, 32, 48, 64, 96, 128)]
        assert f"| {bits} | {' | '.join(map(str, sizes))} |" in page


def test_embeddings_that_are_the_bias_have_empty_codes():
    head = make_head()
    coder = Coder(head, row_bytes=8)
    bias = head.pre_bias.detach().numpy()
    packed = coder.encode(np.stack([bias, bias]))
    np.testing.assert_allclose(coder.decode(packed), np.stack([bias, bias]), atol=1e-6)
    assert len(coder.encode(np.empty((0, 24), np.float32))) == 0


def test_rows_of_any_size_keep_their_own_codes():
    """Those too small for any step beside the others are empty, and nothing of another row gets into them."""
    head, rows = make_head(), make_rows(9000)
    bias = head.pre_bias.detach().numpy()
    with torch.no_grad():
        head.pre_bias.zero_()
    rows -= bias
    # In the last block of pursuit too.
    rows[[5, 8995]] *= np.float32(1e-12)
    rows[[6, 8996]] *= np.float32(1e-3)
    coder = Coder(head, row_bytes=12)
    packed = coder.encode(rows)
    values = packed.unpack().values
    assert not values[[5, 8995]].any()
    decoded = coder.decode(packed)
    for row in (6, 7, 8996, 8997):
        assert ((decoded[row] - rows[row]) ** 2).sum() < 0.3 * (rows[row] ** 2).sum()
    np.testing.assert_array_equal(packed[8192:].unpack().values, values[8192:])


def test_embeddings_of_every_float_type_are_encoded_and_others_refused():
    head, rows = make_head(), make_rows(70).astype(np.float16)
    coder = Coder(head, row_bytes=12)
    expected = coder.encode(rows.astype(np.float32)).rows
    for given in (rows, rows[::-1][::-1], torch.from_numpy(rows), torch.from_numpy(rows).float(), list(rows)):
        np.testing.assert_array_equal(coder.encode(given).rows, expected)
    assert len(coder.encode(torch.from_numpy(rows).bfloat16())) == 70
    rows[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"embeddings\[3\] holds NaN or infinity"):
        coder.encode(rows)
    with pytest.raises(ValueError, match="does not hold embeddings but"):
        coder.encode("a text")


def test_heads_of_few_latents_have_rows_of_the_least_size():
    assert Coder(make_head(hidden_dim=4), k=1).row_bytes == 3


def test_residuals_are_kept_by_the_nearest_centroids():
    rows = make_rows(600, 12)
    quantizer = ResidualQuantizer.fit(rows, 4)
    codes = quantizer.encode(rows)
    assert (codes.dtype, codes.shape, quantizer.size) == (np.uint8, (600, 4), 4)
    for part in range(4):
        distances = ((rows[:, None, part * 3 : part * 3 + 3] - quantizer.centroids[part]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(codes[:, part], distances.argmin(axis=1))
    decoded = quantizer.decode(codes)
    np.testing.assert_array_equal(decoded[:, 3:6], quantizer.centroids[1][codes[:, 1]])
    assert ((rows - decoded) ** 2).mean() < 0.2 * (rows**2).mean()
    np.testing.assert_array_equal(quantizer.centroids, ResidualQuantizer.fit(rows, 4).centroids)


def test_coder_with_a_residual_stores_both_and_comes_closer():
    head, rows = make_head(), make_rows(600)
    plain = Coder(head, row_bytes=8, bits=3)
    residual = ResidualQuantizer.fit(rows - plain.decode(plain.encode(rows)), 6)
    both = Coder(head, row_bytes=8, bits=3, residual=residual)
    packed = both.encode(rows)
    assert (both.bytes_per_vector, packed.bytes_per_row, packed.residual.shape) == (14, 14, (600, 6))
    np.testing.assert_array_equal(packed.rows, plain.encode(rows).rows)
    errors = [((rows - coder.decode(coder.encode(rows))) ** 2).sum() for coder in (plain, both)]
    assert errors[1] < 0.7 * errors[0]
    assert plain.settings != both.settings and both.settings["residual_bytes"] == 6


def test_budgets_get_coders_that_keep_within_them():
    head, rows = make_head(), make_rows(4200)
    coders = fit_coders(head, rows, [8, 32])
    assert [coder.name for coder in coders] == ["CSR, packed", "CSR, packed", "CSR + residual"]
    assert [coder.bytes_per_vector for coder in coders] == [8, 32, 32]
    assert [coder.name for coder in fit_coders(head, rows[:500], [8, 32])] == ["CSR, packed"] * 2
    assert [coder.name for coder in fit_coders(head, None, [8])] == ["CSR, packed"]
    best = fit_coder(head, rows, 32)
    assert best.settings in [coder.settings for coder in coders[1:]]


def test_coders_of_an_index_spend_their_bytes_where_they_can(monkeypatch, caplog):
    head, rows = make_head(), make_rows(600)
    both = fit_index_coder(head, rows, row_bytes=10, residual_bytes=7)
    # 6 is the largest divisor of 24 up to 7.
    assert (both.row_bytes, both.bits, both.residual.size) == (10, 3, 6)
    left = rows - Coder(head, row_bytes=10, bits=3).decode(Coder(head, row_bytes=10, bits=3).encode(rows))
    np.testing.assert_array_equal(both.residual.centroids, ResidualQuantizer.fit(left, 6).centroids)
    alone = fit_index_coder(head, rows, row_bytes=10, residual_bytes=0)
    assert (alone.row_bytes, alone.bits, alone.residual) == (10, 3, None)
    few = fit_index_coder(head, rows[:255], row_bytes=10, residual_bytes=7)
    assert (few.row_bytes, few.bits, few.residual) == (16, 4, None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = fit_index_coder(head, rows, row_bytes=10, residual_bytes=7)
    assert without.settings == few.settings
    assert "rows of 16 bytes instead: PQ, OPQ, RaBitQ and residual codes are fitted by faiss: pip" in caplog.text


def test_heads_too_wide_for_an_index_are_refused():
    with pytest.raises(ValueError, match=r"`hidden_dim` \(8,200\) is above the 8,192 latents that an index takes"):
        fit_index_coder(make_head(8, 8200), make_rows(3, 8))


def test_coders_are_saved_and_loaded_with_their_head_alone(tmp_path):
    head, rows = make_head(), make_rows(600)
    plain = Coder(head, row_bytes=8, bits=3)
    residual = ResidualQuantizer.fit(rows - plain.decode(plain.encode(rows)), 6)
    for coder in (plain, Coder(head, row_bytes=8, bits=3, residual=residual)):
        coder.save(tmp_path / "coder.safetensors")
        loaded = Coder.load(tmp_path / "coder.safetensors", head)
        assert loaded.settings == coder.settings
        np.testing.assert_array_equal(loaded.decode(coder.encode(rows)), coder.decode(coder.encode(rows)))
    with pytest.raises(ValueError, match="was made for another head"):
        Coder.load(tmp_path / "coder.safetensors", make_head(seed=1))
    with pytest.raises(ValueError, match="its centroids are for embeddings of 24 dimensions"):
        Coder.load(tmp_path / "coder.safetensors", make_head(input_dim=25))
    whole = (tmp_path / "coder.safetensors").read_bytes()
    renamed, retyped = whole.replace(b"row_bytes", b"raw_bytes"), whole.replace(b"F32", b"I32")
    for content in (whole[:-10], whole[:40], b"", renamed, retyped):
        (tmp_path / "coder.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"coder\.safetensors is damaged, or no file of a coder"):
            Coder.load(tmp_path / "coder.safetensors", head)
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
    with pytest.raises(ValueError, match=r"`size` \(7\) must divide the width of the embeddings \(24\)"):
        ResidualQuantizer.fit(make_rows(300), 7)
    with pytest.raises(ValueError, match="residual codes need 256 training embeddings; there are 200"):
        ResidualQuantizer.fit(make_rows(200), 6)
