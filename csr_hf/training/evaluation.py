"""Figures of a head on rows that it is not trained on, while it is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import from_first_process, rank_and_world, sum_over_processes
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.batches import Batches, TrainDataset, make_rows
from csr_hf.training.head_metrics import measure_head
from csr_hf.training.loss import CSRLoss
from csr_hf.training.scaling import ScaledHead

_PREFIX = "eval_"
_SAMPLE = 16_384
_DEFAULT_METRIC = "neighbor_recall"
_GREATER_IS_BETTER = ("explained_variance", "neighbor_recall")


class HeldOutRows:
    """The rows that a training is evaluated on; an even sample where there are very many.

    Nothing here is random: the rows of a batch are mixed in the same way every time.

    Args:
        eval_dataset: what `train_dataset` of the trainer can be.
        args: of the training, whose contrast and batch size hold here too.
        model: the head.
        batches: of the training.

    Attributes:
        rows: the embeddings.
        greater_is_better: whether a larger value of the figure that tells heads apart is a better one.
        identity: what must be the same for evaluations of two runs to be compared, as JSON holds it.

    Raises:
        ValueError: for rows that could not be trained on either, or too few of them.
    """

    def __init__(
        self, eval_dataset: TrainDataset, args: CSRTrainingArguments, model: CSRModel, batches: Batches
    ) -> None:
        try:
            self.rows = make_rows(eval_dataset, args, model)
        except ValueError as error:
            raise ValueError(f"`eval_dataset`: {error}") from error
        self._metric = (args.metric_for_best_model or _DEFAULT_METRIC).removeprefix(_PREFIX)
        greater = args.greater_is_better
        self.greater_is_better = self._metric in _GREATER_IS_BETTER if greater is None else greater
        self.identity = [self._metric, self.greater_is_better, self.rows.fingerprint]
        self._batches, fewest = batches, 2 * batches.world
        if len(self.rows) < fewest:
            raise ValueError(f"`eval_dataset` has {len(self.rows)} rows. Hold out {fewest} at least, better hundreds.")
        chosen = np.linspace(0, len(self.rows) - 1, min(len(self.rows), _SAMPLE)).astype(np.int64)
        self._order = np.random.default_rng(0).permutation(chosen)
        # As large as those of the training, which the contrast depends on, and all of one size.
        self._count = max(1, min(-(-len(chosen) // batches.size), len(chosen) // fewest))

    def evaluate(self, loss: CSRLoss, scaling: ScaledHead, precision: AbstractContextManager) -> dict[str, float]:
        """Compute all figures of an evaluation, with names that begin with `eval_`.

        Args:
            loss: of the training.
            scaling: of its head.
            precision: context of the arithmetic of the loss.
        """
        with scaling.scaled(), precision:
            figures = self._compute_loss(loss)
        with scaling.original():
            # Replaces the explained variance at the batches, which is relative to that of the training data.
            figures |= from_first_process(lambda: measure_head(loss.model, self.rows))
        return {_PREFIX + name: value for name, value in figures.items()}

    def judge(self, figures: dict[str, float]) -> float:
        """Return the figure that tells heads apart.

        Raises:
            ValueError: if there is none of that name; those that there are are named.
        """
        if _PREFIX + self._metric not in figures:
            known = ", ".join(sorted(name.removeprefix(_PREFIX) for name in figures))
            raise ValueError(f"`metric_for_best_model` ({self._metric!r}) is not evaluated. Choose one of: {known}.")
        return figures[_PREFIX + self._metric]

    @torch.no_grad()
    def _compute_loss(self, loss: CSRLoss) -> dict[str, float]:
        """Compute the mean loss and its parts at the head's k; every process takes its share of each batch."""
        world, rank = self._batches.world, self._batches.rank
        size = len(self._order) // (self._count * world)
        sums: dict[str, torch.Tensor] = {}
        for number in range(self._count):
            first = (number * world + rank) * size
            output = loss(self._batches.read(self.rows, self._order[first : first + size]), loss.model.config.k)
            for name, part in {"loss": output.loss, **output.parts}.items():
                sums[name] = sums.get(name, 0) + part.double() / self._count
        return average_over_processes(sums)


def average_over_processes(figures: dict[str, torch.Tensor]) -> dict[str, float]:
    """Compute means over the processes: the figures of one process with all their batches."""
    totals = sum_over_processes(torch.stack([value.detach().double() for value in figures.values()]))
    return dict(zip(figures, (totals / rank_and_world()[1]).tolist(), strict=True))
