"""Small heads and rows for the tests of coding."""

import numpy as np
import torch

from csr_hf import CSRConfig, CSRModel


def make_head(input_dim=24, hidden_dim=96, seed=0):
    """A head whose atoms have many norms, and are no more alike than those of trained heads."""
    torch.manual_seed(seed)
    head = CSRModel(CSRConfig(input_dim=input_dim, hidden_dim=hidden_dim, k=4)).eval()
    with torch.no_grad():
        head.encoder.weight.copy_(torch.randn(hidden_dim, input_dim) * torch.rand(hidden_dim, 1).add(0.5))
        head.pre_bias.copy_(0.1 * torch.randn(input_dim))
    return head


def make_rows(count, dim=24, seed=1):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
