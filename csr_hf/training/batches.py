"""Batches of a training run: the rows that each process takes at each step, scaled, on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator

from csr_hf.codes import modality_means
from csr_hf.data.given import GivenEmbeddings, make_sources
from csr_hf.data.sources import Source
from csr_hf.modeling_csr import CSRModel
from csr_hf.runs.folder import RunFolder
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.rows import RowOrder, TrainingRows

TrainDataset: TypeAlias = GivenEmbeddings
"""Embeddings in any form that `make_sources` takes."""

_SCALE_SAMPLE = 16_384
_ROUNDING = 1e-12


class Batch(NamedTuple):
    """What one process takes in one step."""

    embeddings: torch.Tensor
    """Rows, then their positives, then their negatives, as far as there are any; shape (parts * n, input_dim)."""
    n: int
    """Number of rows."""
    labels: torch.Tensor | None = None
    """Classes of the rows, int64, shape (n,); rows below 0 have none."""
    modalities: torch.Tensor | None = None
    """Each embedding's modality, as its place in the head's list, int64, shape (parts * n,); None: there is one."""


class Batches:
    """The batches of this process, a function of (seed, step) alone.

    Embeddings are divided by a power of two near their standard deviation, so that one learning rate serves embeddings
    of any scale; that division is exact.

    Args:
        train_dataset: embeddings in any form that `make_sources` takes.
        args: batch size, contrast and seed.
        model: the head that is trained.
        accelerator: of this process; says which share is its own, and the device.

    Attributes:
        rows: the training data.
        scale: power of two that embeddings are divided by.
        variance: mean ||x - mean(x)||^2 of the divided embeddings.
        rank: number of this process.
        world: number of processes.
        device: of the batches.

    Raises:
        ValueError: if the embeddings are empty, not finite, or not `input_dim` wide, or the contrast needs pairs or
            labels that the data does not have.
    """

    def __init__(
        self, train_dataset: TrainDataset, args: CSRTrainingArguments, model: CSRModel, accelerator: Accelerator
    ) -> None:
        self._contrast = args.active_contrast
        self._local_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self._has_modalities = bool(model.config.modalities)
        self.rows = make_rows(train_dataset, args, model)
        self.scale, self.variance = _measure_scale(self.rows)
        self._order = RowOrder(self.rows.lengths, self.rows.weights, args.seed)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device

    @property
    def size(self) -> int:
        """Examples in one step over all processes."""
        return self._local_size * self.world

    def at(self, step: int) -> Batch:
        """Read this process's share of the batch of a step."""
        first = step * self.size + self.rank * self._local_size
        return self.read(self.rows, self._order.rows(np.arange(first, first + self._local_size)))

    def read(self, rows: TrainingRows, chosen: np.ndarray) -> Batch:
        """Read chosen rows as a batch of this process.

        Args:
            rows: the training data, or other rows by the same contrast.
            chosen: numbers of rows, int64.
        """
        parts, labels = [rows.rows(chosen)], None
        modalities = [rows.modalities(chosen)]
        if self._contrast == "pairs":
            parts.append(rows.positives(chosen))
            if rows.has_negatives:
                parts.append(rows.negatives(chosen))
            modalities += [rows.positive_modalities(chosen)] * (len(parts) - 1)
        elif self._contrast == "labels":
            labels = torch.from_numpy(rows.labels(chosen)).to(self.device)
        embeddings = self._to_device(np.concatenate(parts) if len(parts) > 1 else parts[0])
        if not self._has_modalities:
            return Batch(embeddings, len(chosen), labels)
        places = torch.from_numpy(np.concatenate(modalities)).to(self.device)
        return Batch(embeddings, len(chosen), labels, places)

    def _to_device(self, rows: np.ndarray) -> torch.Tensor:
        scaled = rows if self.scale == 1 else rows / np.float32(self.scale)
        return torch.from_numpy(scaled).to(self.device)


def make_rows(dataset: TrainDataset, args: CSRTrainingArguments, model: CSRModel) -> TrainingRows:
    """Make rows of embeddings, in any form that `make_sources` takes, as the contrast of the arguments needs them.

    Raises:
        ValueError: if the embeddings are empty, not finite, or not `input_dim` wide, or the contrast needs pairs or
            labels that the data does not have.
    """
    sources = make_sources(dataset, RunFolder.of(args.output_dir or Path.cwd()).streams)
    paired = args.active_contrast in ("pairs", "labels")
    rows = TrainingRows(sources, paired=paired, modality_means=modality_means(model))
    check_contrast(args, rows.sources)
    if rows.dim != model.config.input_dim:
        raise ValueError(
            f"embeddings are {rows.dim} wide, the head takes `input_dim` {model.config.input_dim}. "
            "Set input_dim to the width of the backbone."
        )
    return rows


def check_contrast(args: CSRTrainingArguments, sources: Sequence[Source]) -> None:
    """Check that sources, embedded or not, have what the contrast of the arguments needs.

    Raises:
        ValueError: if it needs pairs or labels that no source has.
    """
    contrast = args.active_contrast
    has_pairs = any(len(source.roles) > 1 for source in sources)
    has_labels = any(source.labels is not None for source in sources)
    if (contrast == "pairs" and not has_pairs) or (contrast == "labels" and not has_labels):
        raise ValueError(
            f"`contrast` is {contrast!r}, and the data has no {contrast}. "
            "Name columns for anchor and positive (or text and label), or choose contrast: self."
        )


def _measure_scale(rows: TrainingRows) -> tuple[float, float]:
    """Measure a power of two near the standard deviation of an even sample, and the variance once divided by it."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _SCALE_SAMPLE)).astype(np.int64)
    sample = rows.rows(chosen).astype(np.float64)
    variance = float(np.square(sample - sample.mean(0)).sum(1).mean())
    # What rounding makes of equal rows is no variance.
    if not variance > _ROUNDING * float(np.square(sample).sum(1).mean()):
        return 1.0, 1.0
    scale = 2.0 ** round(math.log2(variance) / 2)
    return scale, variance / scale**2
