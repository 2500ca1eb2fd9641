"""What every backend must find, written out with numpy, and codes to find."""

from typing import NamedTuple

import numpy as np

from csr_hf.sparse_codes import SparseCodes


class Expected(NamedTuple):
    ids: np.ndarray
    scores: np.ndarray


class Reference:
    """Documents whose score is their product with the query, divided by norms; those without a latent in common are no
    hits."""

    def __init__(self, documents, ids=None, decoded_norms=None):
        self.rows = rounded(documents).to_scipy().toarray().astype(np.float64)
        self.ids = np.arange(len(documents)) if ids is None else np.asarray(ids)
        self.decoded, norms = decoded_norms is not None, np.linalg.norm(self.rows, axis=1)
        self.norms = decoded_norms if self.decoded else norms

    def search(self, queries, top_k=10):
        asked = queries.to_scipy().toarray().astype(np.float64)
        if not self.decoded:
            norms = np.linalg.norm(asked, axis=1, keepdims=True)
            asked = asked / np.where(norms > 0, norms, 1)
        scores = asked @ self.rows.T / np.where(self.norms > 0, self.norms, np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        best = np.take_along_axis(scores, order, axis=1)
        return Expected(self.ids[order], np.where(best > 0, best, -np.inf).astype(np.float32))

    def __len__(self):
        return len(self.rows)


def random_codes(n, k, dim, seed, head=None):
    """Codes as backends round them, with distinct latents; some rows have fewer than k."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.choice(dim, k, replace=False) for _ in range(n)]) if n else np.zeros((0, k), np.int64)
    values = -np.sort(-(rng.gamma(1.0, 1.0, (n, k)) + 1e-3), axis=1)
    values[:: max(n // 5, 1), k // 2 :] = 0
    return rounded(SparseCodes(indices, values, dim, head))


def rounded(codes):
    """Codes in multiples of 1/255 of the largest value of their row, none of them 0."""
    values = codes.values.astype(np.float64)
    steps = np.maximum(values.max(axis=1, keepdims=True, initial=0), 1e-30) / 255
    levels = np.where(values > 0, np.maximum(np.rint(values / steps), 1), 0)
    return SparseCodes(codes.indices, (levels * steps).astype(np.float32), codes.dim, codes.head_fingerprint)
