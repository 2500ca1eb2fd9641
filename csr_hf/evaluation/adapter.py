"""Fit a Matryoshka adapter: a linear map of embeddings whose prefixes keep their similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.neighbors import neighbor_recall, top_neighbors
from csr_hf.evaluation.prefixes import Adapter, PrefixFormat

if TYPE_CHECKING:
    import torch

_LADDER = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_STEPS = 200
_BATCH = 512
_LEARNING_RATE = 2e-3
_TEMPERATURE = 0.05
_HELD_OUT = 0.1
_MOST_HELD_OUT = 300
_MOST_SEARCHED = 10_000
_TOP_K = 10


class AdapterMaps(NamedTuple):
    """A map before and after its training, and the rows that say which of them is better at a size."""

    start: np.ndarray
    """Singular vectors of the embeddings, to multiply rows from the right, float32, shape (dim, dim)."""
    trained: np.ndarray
    """The same after nested distillation."""
    held_out: np.ndarray
    """Training embeddings that neither was fitted on, shape (n, dim)."""
    fitted: np.ndarray
    """Those that both were fitted on, to search among: as many as a real corpus has, or neighbors are too far."""
    similarity: Similarity

    def best_for(self, format: PrefixFormat) -> np.ndarray:
        """Return the map whose stored prefixes find more of the true neighbors of the held-out rows."""
        if not len(self.held_out):
            return self.trained
        true = top_neighbors(self.held_out, self.fitted, _TOP_K, self.similarity)

        def count_found(weight: np.ndarray) -> float:
            method = Adapter(weight, format, self.similarity)
            return neighbor_recall(method.index(self.fitted).search(self.held_out, _TOP_K).positions, true).mean()

        return max((self.trained, self.start), key=count_found)


def fit_adapter(
    train: np.ndarray,
    similarity: Similarity = "cosine",
    *,
    steps: int = _STEPS,
    batch_size: int = _BATCH,
    learning_rate: float = _LEARNING_RATE,
    seed: int = 0,
) -> AdapterMaps:
    """Fit a linear map to embeddings by nested distillation.

    In every batch, each prefix of a ladder of widths has to give each row the distribution over the other rows that
    the whole embeddings give (softmax of similarities, Kullback-Leibler divergence). The map starts with the singular
    vectors of the embeddings, whose prefixes keep their inner products best in the sum of squares.

    Args:
        train: rows of `rows_for`, shape (n, dim); a tenth of them, 300 at most, is held out.
        similarity: what the embeddings are compared by: prefixes get unit norm for cosine, else inner products are
            compared, in units of the mean square norm.
        steps: batches to learn from.
        batch_size: rows of a batch, no more than there are.
        learning_rate: the highest, of Adam with one cycle.
        seed: of the batches.

    Returns:
        The map before and after; the same for the same arguments.
    """
    import torch

    order = np.random.default_rng(seed).permutation(len(train))
    held_out = order[: min(int(_HELD_OUT * len(train)), _MOST_HELD_OUT)]
    asked, train = train[held_out].astype(np.float32), train[order[len(held_out) :]].astype(np.float32)
    _, directions = np.linalg.eigh(train.T.astype(np.float64) @ train)
    start = np.ascontiguousarray(directions[:, ::-1], np.float32)
    weight = torch.tensor(start, requires_grad=True)
    rows, batch_size = torch.from_numpy(train), min(batch_size, len(train))
    scale = 1.0 if similarity == "cosine" else float(rows.square().sum(dim=1).mean().clamp(min=1e-12))
    widths = [width for width in _LADDER if width < train.shape[1]] + [train.shape[1]]
    optimizer = torch.optim.Adam([weight], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (batch_size,), generator=generator)]
        target = _log_distribution(batch / scale**0.5)
        mapped = batch @ weight
        losses = []
        for width in widths:
            prefix = mapped[:, :width]
            prefix = torch.nn.functional.normalize(prefix) if similarity == "cosine" else prefix / scale**0.5
            found = _log_distribution(prefix)
            losses.append(torch.nn.functional.kl_div(found, target, log_target=True, reduction="batchmean"))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    return AdapterMaps(start, weight.detach().numpy(), asked, train[:_MOST_SEARCHED], similarity)


def _log_distribution(rows: torch.Tensor) -> torch.Tensor:
    """Compute the logarithms of each row's softmax over its inner products with the other rows, shape (n, n)."""
    products = rows @ rows.T / _TEMPERATURE
    # Not minus infinity, whose difference from itself is no number.
    return products.fill_diagonal_(-1e4).log_softmax(dim=1)
