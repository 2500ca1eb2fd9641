"""Compiled pursuit against its definition, and against the one in torch."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.pursuit import Pursuit
from tests.coding.heads import make_head, make_rows


def pursue_slowly(atoms, target, k):
    """Choose k atoms one at a time, in float64; all values are fitted again after every fourth."""
    units = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    support, left = [], target
    for place in range(k):
        gain = units @ left
        gain[support] = -np.inf
        atom = int(gain.argmax())
        support.append(atom)
        left = left - gain[atom] * units[atom]
        if place % 4 == 3:
            left = target - nnls(atoms[support].T, target)[0] @ atoms[support]
    return support, nnls(atoms[support].T, target)[0]


@pytest.mark.parametrize("k", [1, 5, 12])
def test_pursuit_follows_its_definition(k):
    head, rows = make_head(), make_rows(70)
    values, indices = Pursuit(head.dictionary.detach(), head.pre_bias.detach()).encode(torch.from_numpy(rows), k)
    atoms, bias = (each.detach().double().numpy() for each in (head.dictionary, head.pre_bias))
    for row, target in enumerate(rows.astype(np.float64) - bias):
        support, expected = pursue_slowly(atoms, target, k)
        assert sorted(indices[row].tolist()) == sorted(support)
        order = [support.index(latent) for latent in indices[row].tolist()]
        np.testing.assert_allclose(values[row], expected[order], atol=2e-4)


@pytest.mark.parametrize("k", [1, 8, 20])
def test_many_rows_have_the_codes_that_the_head_gives(k):
    head, rows = make_head(), make_rows(300)
    codes = encode_embeddings(head, rows, k, refine="pursuit", batch_size=128)
    values, indices = head.encode(torch.from_numpy(rows), k, refine="pursuit")
    assert (np.sort(codes.indices) == np.sort(indices.numpy())).all(axis=1).mean() > 0.99
    decoded = head.decode(*(torch.from_numpy(each) for each in (codes.values, codes.indices.astype(np.int64))))
    np.testing.assert_allclose(decoded.detach(), head.decode(values, indices).detach(), atol=2e-2)
    assert (np.diff(codes.values) <= 0).all() and (codes.values >= 0).all()


@pytest.mark.parametrize("k", [24, 40, 96])
def test_beyond_the_width_rows_are_rebuilt_and_name_each_latent_once(k):
    head, rows = make_head(), make_rows(100)
    codes = encode_embeddings(head, rows, k, refine="pursuit")
    assert all(len(set(row)) == k for row in codes.indices.tolist())
    assert (codes.values >= 0).all()
    values, indices = head.encode(torch.from_numpy(rows), k, refine="pursuit")
    decoded = head.decode(*(torch.from_numpy(each) for each in (codes.values, codes.indices.astype(np.int64))))
    errors = [
        (each.detach() - torch.from_numpy(rows)).square().sum().item()
        for each in (decoded, head.decode(values, indices))
    ]
    # Beyond the width little is left but what each solver's tolerance leaves.
    assert errors[0] <= 1.02 * errors[1] + 1e-4 * float((rows**2).sum())


def test_what_has_nothing_left_to_explain_ends_in_zeros():
    head = make_head()
    atoms, bias = head.dictionary.detach().numpy(), head.pre_bias.detach().numpy()
    rows = np.stack([bias, bias + 2 * atoms[7], bias + atoms[3] + 0.5 * atoms[11]] * 30)
    codes = encode_embeddings(head, rows, 6, refine="pursuit")
    assert (codes.values[0] == 0).all()
    assert codes.indices[1, 0] == 7 and codes.values[1] == pytest.approx([2, 0, 0, 0, 0, 0], abs=1e-4)
    decoded = head.decode(torch.from_numpy(codes.values), torch.from_numpy(codes.indices.astype(np.int64)))
    np.testing.assert_allclose(decoded.detach()[:3], rows[:3], atol=2e-4)


def test_atoms_that_are_there_twice_do_no_harm():
    once, twice, rows = make_head(hidden_dim=48), make_head(hidden_dim=96), make_rows(200)
    with torch.no_grad():
        twice.encoder.weight.copy_(once.encoder.weight.repeat(2, 1))
        twice.pre_bias.copy_(once.pre_bias)
    errors = []
    for head in (once, twice):
        codes = encode_embeddings(head, rows, 8, refine="pursuit")
        errors.append(((decode_codes(head, codes) - rows) ** 2).sum())
    assert errors[1] <= 1.02 * errors[0]


def test_the_order_of_rows_and_the_number_of_threads_change_nothing(monkeypatch):
    head, rows = make_head(), make_rows(500)
    codes = encode_embeddings(head, rows, 8, refine="pursuit")
    order = np.random.default_rng(2).permutation(500)
    monkeypatch.setattr("csr_hf.coding.pursuit.available_threads", lambda: 1)
    again = encode_embeddings(head, rows[order], 8, refine="pursuit")
    assert (again.indices == codes.indices[order]).all()
    np.testing.assert_allclose(again.values, codes.values[order], rtol=1e-5)


def test_compiled_pursuit_refuses_what_the_head_refuses():
    head = make_head()
    with pytest.raises(ValueError, match=r"`k` \(97\) must be between 1 and `hidden_dim` \(96\)"):
        encode_embeddings(head, make_rows(100), 97, refine="pursuit")
    with pytest.raises(ValueError, match="embeddings are 23 wide, this head takes `input_dim` 24"):
        encode_embeddings(head, make_rows(100, 23), 4, refine="pursuit")


@pytest.mark.parametrize("k", [1, 3, 4, 9])
def test_an_embedding_that_no_atom_explains_has_an_empty_code(k):
    head, rows = make_head(), make_rows(80)
    rows[::2] = head.pre_bias.detach().numpy()
    chosen = Pursuit(head.dictionary.detach(), head.pre_bias.detach()).choose(torch.from_numpy(rows), k)
    assert (chosen.counts[::2] == 0).all() and (chosen.counts[1::2] > 0).all()
    codes = encode_embeddings(head, rows, k, refine="pursuit")
    assert (codes.values[::2] == 0).all()
    alone = encode_embeddings(head, np.repeat(rows[1::2], 2, axis=0), k, refine="pursuit")
    np.testing.assert_array_equal(codes.values[1::2], alone.values[::2])
