"""How probable codes are: against a written-out model, and codes that are read as they were written."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csr_hf.coding.prior import LatentPrior, active_shares
from csr_hf.coding.prior_fitting import fit_links, fit_prior, most_active
from csr_hf.coding.pursuit import Pursuit
from csr_hf.coding.range_coder import TOTAL
from csr_hf.coding.rounding import round_chosen

DIM, WIDTH = 96, 24


def make_pursuit(seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(DIM, WIDTH, generator=generator) * (torch.rand(DIM, 1, generator=generator) + 0.5)
    return Pursuit(atoms, torch.zeros(WIDTH))


def make_topics(count, seed=1):
    """Embeddings of topics, each of which has a few atoms of its own."""
    rng, pursuit = np.random.default_rng(seed), make_pursuit()
    topics = np.random.default_rng(9).permutation(DIM).reshape(12, 8)
    values = np.zeros((count, DIM), np.float32)
    for row, topic in enumerate(rng.integers(12, size=count)):
        chosen = rng.permutation(topics[topic])[:5]
        values[row, chosen] = rng.uniform(0.5, 2, 5)
    return (values @ pursuit._units.numpy() + 0.02 * rng.standard_normal((count, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def learned():
    return fit_links(make_pursuit(), make_topics(3000), 12)


def make_prior(learned, row_bytes=8, bits=3):
    return fit_prior(learned, make_pursuit(), make_topics(3000), row_bytes, bits)


def write(prior, rows, row_bytes):
    pursuit = make_pursuit()
    return prior.write(pursuit, pursuit.choose(torch.from_numpy(rows), prior.most), row_bytes)


def decode(levels, base):
    values = levels.levels * (base * 2.0 ** (-levels.scales[:, None].astype(float) / 8))
    pursuit = make_pursuit()
    atoms = pursuit._units.numpy() * pursuit.norms[:, None]
    return np.einsum("nk,nkd->nd", values, atoms[levels.indices])


def count_bits(prior, indices, levels, scale, mode):
    """What a code takes, written out: one question a latent in the order of the prior, until the last active one."""
    of, active = prior.arrays, dict(zip(indices.tolist(), levels.tolist(), strict=True))
    left = len(active)

    def share(seen, symbol):
        often = seen.astype(float)
        return (1 + (TOTAL - len(often)) * often[symbol] / often.sum()) / TOTAL

    bits = -math.log2(share(of.modes, mode)) - math.log2(share(of.scales, scale))
    bits -= math.log2(share(of.counts, left))
    bits += min(
        -math.log2(share(of.kinds, kind)) - sum(math.log2(share(seen, level - 1)) for level in active.values())
        for kind, seen in enumerate(of.levels)
    )
    logits, strength = of.bias[mode].astype(int), int(of.strengths[mode, left])
    for place, latent in enumerate(of.order.tolist()):
        if not left:
            break
        chance = 1 / (1 + math.exp(-(logits[place] + int(of.left[mode, left])) / 16))
        if latent in active:
            bits -= math.log2(chance)
            logits[place + 1 :] += of.links[place, place + 1 :].astype(int) * strength >> 4
            left -= 1
        else:
            bits -= math.log2(1 - chance)
    return bits


def test_codes_take_the_bits_of_a_model_that_is_written_out(learned):
    prior, rows = make_prior(learned, 40), make_topics(60, seed=4)
    codes = write(prior, rows, 40)
    found, modes = prior.read_modes(codes)
    for row in range(len(rows)):
        used = found.levels[row] > 0
        bits = count_bits(prior, found.indices[row, used], found.levels[row, used], found.scales[row], modes[row])
        length = np.flatnonzero(codes[row]).max(initial=-1) + 1
        assert 8 * length - 17 < bits < 8 * length + 9


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_codes_are_read_as_they_were_written(learned, bits):
    prior, rows = make_prior(learned, 10, bits), make_topics(300, seed=2)
    found = prior.read(write(prior, rows, 10))
    # Latents that pursuit chose, less those that levels leave out.
    chosen = make_pursuit().choose(torch.from_numpy(rows), prior.most)
    for row in range(len(rows)):
        used = found.levels[row] > 0
        assert set(found.indices[row, used]) <= set(chosen.indices[row])
        assert len(set(found.indices[row, used])) == used.sum() > 0
    assert found.levels.max() <= 2**bits
    lost = ((decode(found, prior.base) - rows) ** 2).sum() / (rows**2).sum()
    assert lost < (0.3 if bits == 1 else 0.05)


def test_more_fits_than_into_packed_rows(learned):
    """What is active together is probable together."""
    pursuit, rows = make_pursuit(), make_topics(500, seed=3)
    prior = make_prior(learned, 6)
    found = prior.read(write(prior, rows, 6))
    packed, base = round_chosen(pursuit, pursuit.choose(torch.from_numpy(rows), 12), 3, 6)
    assert (found.levels > 0).sum() > 1.2 * (packed.levels > 0).sum()
    lost, before = (((decode(each, of) - rows) ** 2).sum() for each, of in ((found, prior.base), (packed, base)))
    assert lost < 0.5 * before


def test_other_texts_are_written_too(learned):
    """Embeddings of no topic, of any size, and nothing at all."""
    prior, rng = make_prior(learned, 9), np.random.default_rng(5)
    rows = np.concatenate([rng.standard_normal((200, WIDTH)), 1e-12 * np.ones((1, WIDTH)), np.zeros((1, WIDTH))])
    found = prior.read(write(prior, rows.astype(np.float32), 9))
    lost = ((decode(found, prior.base) - rows)[:200] ** 2).sum() / (rows**2).sum()
    pursuit = make_pursuit()
    packed, base = round_chosen(pursuit, pursuit.choose(torch.from_numpy(rows[:200].astype(np.float32)), 12), 3, 9)
    assert lost < 1.25 * ((decode(packed, base) - rows[:200]) ** 2).sum() / (rows**2).sum()
    assert not found.levels[200:].any()


def test_rows_of_few_bytes_hold_what_fits(learned):
    prior, rows = make_prior(learned, 3), make_topics(50)
    found = prior.read(write(prior, rows, 3))
    assert 0 < (found.levels > 0).sum(axis=1).max() <= 5
    assert most_active(3) == 4 and most_active(400) == 255


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 30))))
def test_any_bytes_can_be_read(learned, codes):
    found = make_cached(learned).read(codes)
    assert found.indices.min() >= 0 and found.indices.max() < DIM and found.levels.max() <= 8
    for indices, levels in zip(found.indices, found.levels, strict=True):
        used = indices[levels > 0]
        assert len(set(used)) == len(used)


_MADE = {}


def make_cached(learned):
    if "prior" not in _MADE:
        _MADE["prior"] = make_prior(learned)
    return _MADE["prior"]


def test_nothing_depends_on_a_machine():
    shares = active_shares()
    logits = np.arange(-192, 193) / 16
    np.testing.assert_allclose(shares, np.clip(TOTAL / (1 + np.exp(-logits)), 1, TOTAL - 1), atol=1)
    assert int((shares * np.arange(1, 386)).sum()) == 3_621_449_998


def test_heads_of_many_latents_do_without_links():
    torch.manual_seed(0)
    pursuit = Pursuit(torch.randn(2100, 16), torch.zeros(16))
    rows = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    learned = fit_links(pursuit, rows, 8)
    prior = fit_prior(learned, pursuit, rows, 8, 3)
    assert prior.arrays.links.shape == (0, 2100)
    codes = prior.write(pursuit, pursuit.choose(torch.from_numpy(rows), prior.most), 8)
    assert (prior.read(codes).levels > 0).sum() > 2 * len(rows)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("order", lambda made: made * 0, "is no permutation of 96 latents"),
        ("order", lambda made: made[:-1], r"`bias` \(int16, \(4, 96\)\) must be int16, \(4, 95\)"),
        ("order", lambda made: made.astype(np.int64), r"`order` \(int64, \(96,\)\) must be int16"),
        ("bias", lambda made: made * 0 - np.int16(20000), "must be from -16384 to 16384"),
        ("links", lambda made: made[:, :-1], r"`links` \(int8, \(96, 95\)\)"),
        ("links", lambda made: made[:5], r"`links` \(int8, \(5, 96\)\)"),
        ("left", lambda made: made[:, :1], r"`strengths` .* must be int16, \(4, 1\)"),
        ("modes", lambda made: made[:0], r"`bias` .* must be int16, \(0, 96\)"),
        ("levels", lambda made: made[:, :7], r"`levels` \(uint32, \(6, 7\)\) must be uint32, \(6, 4\)"),
        ("scales", lambda made: made.astype(np.float32), r"`scales` \(float32, \(256,\)\)"),
        ("base", lambda made: made * np.float32(np.nan), r"`base` .*nan.* must be from 2\*\*-94 to 2\*\*119"),
        ("base", lambda made: made * 0, "must be from"),
    ],
)
def test_foreign_parts_are_refused(learned, name, change, message):
    arrays = make_cached(learned).arrays
    with pytest.raises(ValueError, match=message):
        LatentPrior(arrays._replace(**{name: change(getattr(arrays, name))}))
