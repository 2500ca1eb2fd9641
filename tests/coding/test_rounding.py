"""Rounding against exhaustive search, and coders from embeddings to bytes and back."""

import itertools

import numpy as np
import pytest
import torch

from csr_hf import PackedCodes
from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.coding.pursuit import Pursuit
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
