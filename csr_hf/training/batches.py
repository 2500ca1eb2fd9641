"""Batches of a training run: which rows each process takes at each step, as tensors of about unit variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from csr_hf.codes import modality_means
from csr_hf.data.sources import Source
from csr_hf.modeling_csr import CSRModel
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.loss import Batch
from csr_hf.training.rows import RowOrder, TrainingRows

if TYPE_CHECKING:
    from accelerate import Accelerator

_SAMPLE = 16_384


class Batches:
    """The batch of this process at every step, a function of (seed, step) alone.

    Args:
        rows: what is trained on.
        args: batch size, contrast and seed.
        accelerator: this process's number, the number of processes, and the device.
        has_modalities: say which modality each embedding has.

    Attributes:
        scale: power of two near the standard deviation of the embeddings, which batches are divided by.
        variance: mean ||x - mean(x)||^2 of the embeddings so divided.
    """

    def __init__(
        self, rows: TrainingRows, args: CSRTrainingArguments, accelerator: Accelerator, *, has_modalities: bool
    ) -> None:
        self.rows, self.args, self.accelerator = rows, args, accelerator
        self.has_modalities = has_modalities
        self.scale, self.variance = measure_scale(rows)
        self._order = RowOrder(rows.lengths, rows.weights, args.seed)

    @property
    def size(self) -> int:
        """Examples in one step over all processes."""
        return self._local_size * self.accelerator.num_processes

    @property
    def _local_size(self) -> int:
        return self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps

    def take(self, step: int) -> Batch:
        """Read this process's share of the batch at `step`, divided by the scale."""
        first = step * self.size + self.accelerator.process_index * self._local_size
        chosen = self._order.rows(np.arange(first, first + self._local_size))
        parts, modalities, labels = [self.rows.rows(chosen)], [self.rows.modalities(chosen)], None
        contrast = needed_contrast(self.args)
        if contrast == "pairs":
            parts.append(self.rows.positives(chosen))
            if self.rows.has_negatives:
                parts.append(self.rows.negatives(chosen))
            modalities += [self.rows.positive_modalities(chosen)] * (len(parts) - 1)
        elif contrast == "labels":
            labels = self._to_device(self.rows.labels(chosen))
        embeddings = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if self.scale != 1:
            embeddings = embeddings / np.float32(self.scale)
        towers = self._to_device(np.concatenate(modalities)) if self.has_modalities else None
        return Batch(self._to_device(embeddings), len(chosen), labels, towers)

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.accelerator.device)


def make_rows(
    train_dataset: np.ndarray | Source | Sequence[np.ndarray] | Sequence[Source],
    args: CSRTrainingArguments,
    model: CSRModel,
) -> TrainingRows:
    """Make the rows that a head is trained on, and check that they fit the head and the contrast.

    Raises:
        ValueError: if the embeddings are empty, not finite, or not `input_dim` wide, or the contrast needs pairs or
            labels that the data does not have.
    """
    given = [train_dataset] if isinstance(train_dataset, np.ndarray | Source) else train_dataset
    sources = [
        each if isinstance(each, Source) else Source.from_arrays({"embedding": each}, name=f"array {number}")
        for number, each in enumerate(given)
    ]
    contrast = needed_contrast(args)
    rows = TrainingRows(sources, paired=contrast in ("pairs", "labels"), modality_means=modality_means(model))
    if (contrast == "pairs" and not rows.has_positives) or (contrast == "labels" and not rows.has_labels):
        raise ValueError(
            f"`contrast` is {contrast!r}, and the data has no {contrast}. "
            "Name columns for anchor and positive (or text and label), or choose contrast: self."
        )
    if rows.dim != model.config.input_dim:
        raise ValueError(
            f"embeddings are {rows.dim} wide, the head takes `input_dim` {model.config.input_dim}. "
            "Set input_dim to the width of the backbone."
        )
    return rows


def needed_contrast(args: CSRTrainingArguments) -> str:
    """Return the contrast that the data must serve: "self", which any data does, where its weight is 0."""
    return args.contrast if args.gamma else "self"


def measure_scale(rows: TrainingRows) -> tuple[float, float]:
    """Measure a power of two near the standard deviation of an even sample, and the variance once divided by it."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64)
    sample = rows.rows(chosen).astype(np.float64)
    variance = float(np.square(sample - sample.mean(0)).sum(1).mean())
    if not variance > 0:
        return 1.0, 1.0
    scale = 2.0 ** round(math.log2(variance) / 2)
    return scale, variance / scale**2
