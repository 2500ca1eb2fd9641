"""Latents of two heads, matched by their atoms."""

import numpy as np
import pytest
import torch

from csr_hf.explain.matching import match_latents
from tests.coding.heads import make_head


def test_a_shuffled_head_is_found_again():
    head, other = make_head(hidden_dim=40), make_head(hidden_dim=40, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The norm of an atom says nothing of its direction.
        other.encoder.weight.copy_(head.encoder.weight[order] * 3)
    matches = match_latents(head, other)
    assert order[matches.partners].tolist() == list(range(40))
    assert matches.cosines == pytest.approx(np.ones(40), abs=1e-5)


def test_heads_of_other_seeds_and_sizes():
    matches = match_latents(make_head(hidden_dim=40), make_head(hidden_dim=30, seed=3))
    found = matches.partners[matches.partners >= 0]
    assert len(found) == len(set(found.tolist())) == 30
    assert matches.cosines.max() < 0.9
    assert (matches.cosines[matches.partners < 0] == 0).all()
    with pytest.raises(ValueError, match="`other` takes `input_dim` 16"):
        match_latents(make_head(), make_head(input_dim=16))
