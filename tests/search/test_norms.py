"""Embeddings of any length: a head wants them as it was trained, an index compares their directions."""

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel, InvertedIndex, SearchParams, fit_index_coder
from csr_hf.search.build.partitions import find_typical_norm


def make_rows(norm):
    """Rows around a mean that is as long as what differs, of norms near the one given."""
    rng = np.random.default_rng(0)
    rows = 0.5 * rng.standard_normal((500, 8)) @ rng.standard_normal((8, 24)) + rng.standard_normal(24)
    rows *= norm * rng.uniform(0.95, 1.05, (500, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def make_head(rows):
    head = CSRModel(CSRConfig(input_dim=24, hidden_dim=96, k=8)).eval()
    mean = rows.mean(axis=0)
    atoms = rows[:96] - mean
    with torch.no_grad():
        head.pre_bias.copy_(torch.from_numpy(mean))
        head.encoder.weight.copy_(torch.from_numpy(atoms / np.linalg.norm(atoms, axis=1, keepdims=True)))
    return head


@pytest.mark.parametrize("params", [SearchParams(), SearchParams(exact=True)], ids=["dense", "exact"])
def test_an_index_of_long_embeddings_finds_what_one_of_short_ones_does(params):
    recalls = []
    for norm in (1, 8, 0.02):
        rows = make_rows(norm)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        coder = fit_index_coder(make_head(rows), rows, row_bytes=16, residual_bytes=6)
        found = InvertedIndex.build(rows, coder).search(rows[:50], 10, params)
        true = np.argsort(-(unit[:50] @ unit.T), axis=1)[:, :10]
        recalls.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.positions, true, strict=True)]))
        if not params.exact:
            exact = np.take_along_axis(unit[:50] @ unit.T, found.positions, axis=1)
            np.testing.assert_allclose(found.scores, exact, atol=0.05)
    assert min(recalls) > 0.9 * max(recalls) > 0.2


def test_the_typical_norm_is_moved_by_no_single_row():
    rows = make_rows(8)
    assert find_typical_norm(rows) == pytest.approx(8, rel=0.02)
    assert find_typical_norm(rows / np.linalg.norm(rows, axis=1, keepdims=True)) == 1
    rows[3], rows[4], rows[5] = 1e30, 0, np.nan
    assert find_typical_norm(rows) == pytest.approx(8, rel=0.02)
    assert find_typical_norm(np.zeros((3, 4), np.float32)) == find_typical_norm(np.zeros((0, 4), np.float32)) == 1
