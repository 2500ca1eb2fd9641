"""Codes of single queries through eight-bit atoms are those of the whole dictionary."""

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel
from csr_hf.codes import head_fingerprint, project_queries
from csr_hf.search.query_encoder import QueryEncoder

DIM, HIDDEN = 40, 300


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return CSRModel(CSRConfig(input_dim=DIM, hidden_dim=HIDDEN, k=8)).eval()


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((200, DIM)).astype(np.float32)


def encoder_of(head):
    return QueryEncoder(head.dictionary.numpy(force=True), head_fingerprint(head))


@pytest.mark.parametrize("k", [1, 24, HIDDEN])
@pytest.mark.parametrize("few", [1, 3, 200])
def test_codes_are_those_of_all_projections(head, queries, k, few):
    expected, encoder = project_queries(head, queries).codes(k), encoder_of(head)
    for start in range(0, len(queries), few):
        rows = slice(start, start + few)
        found = encoder.codes(queries[rows], k)
        assert (found.dim, found.head_fingerprint, found.indices.dtype) == (
            HIDDEN,
            expected.head_fingerprint,
            expected.indices.dtype,
        )
        np.testing.assert_allclose(found.values, expected.values[rows], atol=1e-5)
        # Where values are told apart by more than rounding, so are latents.
        active = expected.values[rows] > 0
        assert (found.indices == expected.indices[rows])[active].mean() > 0.999


def test_atoms_that_differ_by_less_than_a_step_are_told_apart(head, queries):
    """A hundred nearly equal atoms: eight bits say nothing of their order."""
    alike = CSRModel(head.config).eval()
    weight = alike.encoder.weight.data
    weight[:100] = weight[0] + 1e-4 * torch.randn(100, DIM, generator=torch.Generator().manual_seed(2))
    # One of many times the others' length, and one of none.
    weight[200] *= 50
    weight[201] = 0
    query = weight[:1].numpy() + 0.01
    expected = project_queries(alike, query).codes(20)
    found = encoder_of(alike).codes(query, 20)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (np.zeros((1, 3), np.float32), 5, r"`embeddings` has the shape \(1, 3\) instead of \(1, 40\)"),
        (np.full((1, DIM), np.nan, np.float32), 5, r"`embeddings\[0\]` holds NaN or infinity"),
        (np.zeros((1, DIM), np.float32), HIDDEN + 1, r"`k` \(301\) must be between 1 and the hidden_dim"),
    ],
)
def test_wrong_queries_are_refused(head, rows, k, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(head).codes(rows, k)
