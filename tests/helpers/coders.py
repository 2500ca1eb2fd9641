"""A stand-in for the coders of a head, where what stores the bytes is not what is tested."""

import sys
import types

import numpy as np


class Halves:
    """A coder that keeps the first components in float16."""

    def __init__(self, size, dim=12):
        self.dim = dim
        self.name, self.k, self.bytes_per_vector, self.settings = (
            "CSR, packed",
            size // 2,
            2 * (size // 2),
            {"bits": 16},
        )

    def encode(self, embeddings):
        return embeddings[:, : self.k].astype(np.float16)

    def decode(self, packed):
        return np.pad(packed, ((0, 0), (0, self.dim - self.k))).astype(np.float32)


def replace_coders(monkeypatch):
    """Let `Halves` be what is fitted; return a list that gets the arguments of every call."""
    calls = []

    def fit_coders(head, train, budgets):
        calls.append((head, train, budgets))
        return [Halves(size, head.config.input_dim) for size in budgets]

    monkeypatch.setitem(sys.modules, "csr_hf.coding.coder", types.SimpleNamespace(fit_coders=fit_coders))
    return calls
