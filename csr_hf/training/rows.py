"""Training data: embeddings of several sources seen as one, and the order in which a run takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class TrainingSource:
    """Embeddings of one data set by role, n rows each; float16 or float32, memory-mapped if they like."""

    embeddings: np.ndarray
    """Texts or images, or the first of each pair; shape (n, input_dim)."""
    positives: np.ndarray | None = None
    """What row i should be close to."""
    negatives: np.ndarray | None = None
    """What row i should be far from."""
    labels: np.ndarray | None = None
    """Classes of the rows, integers, shape (n,)."""
    weight: float | None = None
    """Share of the rows of a batch, relative to other sources; None: its number of rows."""
    modality: int = 0
    """Of `embeddings`: its place among the head's modalities."""
    positive_modality: int = 0
    """Of `positives` and `negatives`."""

    @property
    def arrays(self) -> list[np.ndarray]:
        """Everything there is to reconstruct."""
        return [array for array in (self.embeddings, self.positives, self.negatives) if array is not None]


class TrainingRows:
    """Several sources as one, without copying them.

    Args:
        sources: at least one.
        paired: a row is an example with its positive and negative; else every embedding is a row.

    Raises:
        ValueError: if there are no rows, widths or lengths differ, a weight is not above 0, or a value is NaN or
            infinite (the row is named).
    """

    def __init__(self, sources: Sequence[TrainingSource], *, paired: bool = False) -> None:
        self.sources = [source for source in sources if len(source.embeddings)]
        arrays = [array for source in sources for array in source.arrays]
        if any(array.ndim != 2 for array in arrays):
            raise ValueError(f"embeddings must have the shape (n, input_dim): {[array.shape for array in arrays]}.")
        if not self.sources:
            raise ValueError("no embeddings to train on: the data set is empty.")
        if len({array.shape[1] for array in arrays}) > 1:
            raise ValueError(f"embeddings differ in width: {[array.shape for array in arrays]}.")
        _check_sources(self.sources)
        _check_finite(arrays)
        self.paired = paired
        parts = [[source.embeddings] if paired else source.arrays for source in self.sources]
        self.arrays = [array for part in parts for array in part]
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        self._modalities = np.array(
            [
                source.modality if i == 0 else source.positive_modality
                for source, part in zip(self.sources, parts, strict=True)
                for i in range(len(part))
            ]
        )
        self._positive_modalities = np.array(
            [source.modality if source.positives is None else source.positive_modality for source in self.sources]
        )
        # A source's weight is shared by its arrays.
        self.weights = [
            (source.weight or sum(map(len, part))) * len(array) / sum(map(len, part))
            for source, part in zip(self.sources, parts, strict=True)
            for array in part
        ]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.arrays[0].shape[1]

    @property
    def has_labels(self) -> bool:
        """Whether any source has classes."""
        return any(source.labels is not None for source in self.sources)

    @property
    def has_positives(self) -> bool:
        """Whether any source has pairs."""
        return any(source.positives is not None for source in self.sources)

    @property
    def has_negatives(self) -> bool:
        """Whether any source has triplets."""
        return any(source.negatives is not None for source in self.sources)

    @property
    def fingerprint(self) -> str:
        """Of the rows' numbers, weights and labels, and an even sample of them."""
        digest = hashlib.blake2b(f"{self.starts} {self.dim} {self.weights} {self.paired}".encode(), digest_size=8)
        chosen = np.linspace(0, len(self) - 1, min(len(self), 1024)).astype(np.int64)
        digest.update(self.rows(chosen).tobytes())
        if self._modalities.any() or self._positive_modalities.any():
            digest.update(self._modalities.tobytes() + self._positive_modalities.tobytes())
        if self.paired and self.has_labels:
            digest.update(self.labels(np.arange(len(self))).tobytes())
        return digest.hexdigest()

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The given rows, float32, shape (len(indices), dim)."""
        return self._take(self.arrays, indices)

    def positives(self, indices: np.ndarray) -> np.ndarray:
        """Their positives, themselves where a source has none; needs `paired`."""
        return self._take([_or_own(source.positives, source) for source in self.sources], indices)

    def negatives(self, indices: np.ndarray) -> np.ndarray:
        """Their negatives, their positives where a source has none; needs `paired`."""
        own = [_or_own(source.positives, source) for source in self.sources]
        given = [source.negatives for source in self.sources]
        return self._take([b if a is None else a for a, b in zip(given, own, strict=True)], indices)

    def modalities(self, indices: np.ndarray) -> np.ndarray:
        """Places of the rows' modalities among the head's, int64."""
        return self._modalities[self._parts(indices)]

    def positive_modalities(self, indices: np.ndarray) -> np.ndarray:
        """Those of their positives and negatives; needs `paired`."""
        return self._positive_modalities[self._parts(indices)]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Classes, int64, different for each source; -1 where a row has none; needs `paired`."""
        return self._labels[indices]

    @cached_property
    def _labels(self) -> np.ndarray:
        everything, first = [], 0
        for source in self.sources:
            if source.labels is None:
                everything.append(np.full(len(source.embeddings), -1, np.int64))
                continue
            classes, numbers = np.unique(source.labels, return_inverse=True)
            everything.append(np.where(source.labels == -1, -1, numbers + first))
            first += len(classes)
        return np.concatenate(everything)

    def _take(self, arrays: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0][indices].astype(np.float32)
        batch = np.empty((len(indices), self.dim), np.float32)
        part = self._parts(indices)
        for number, array in enumerate(arrays):
            chosen = part == number
            if chosen.any():
                batch[chosen] = array[indices[chosen] - self.starts[number]]
        return batch

    def _parts(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of the arrays that hold the rows."""
        return np.searchsorted(self.starts, indices, side="right") - 1


class RowOrder:
    """Which row stands at which place of an endless, shuffled sequence: a function of seed and place alone.

    An epoch has as many places as there are rows. Without weights it holds each row once; with them each array has its
    share of the places, and is gone through again and again in a new order.

    Args:
        lengths: rows of each array.
        weights: of each array.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.lengths, self.seed = list(lengths), seed
        self.starts = np.cumsum([0, *lengths])
        exact = np.array(weights, float) / sum(weights) * sum(lengths)
        counts = np.floor(exact + 1e-9).astype(np.int64)
        # What rounding left over goes to the largest remainders.
        counts[np.argsort(counts - exact, kind="stable")[: sum(lengths) - counts.sum()]] += 1
        self.counts = counts
        self._epoch: tuple[int, np.ndarray] | None = None

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Rows at the given places, int64."""
        size = sum(self.lengths)
        epochs, found = places // size, np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._permutation(int(epoch))[places[chosen] % size]
        return found

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            parts = [self._part(number, epoch) for number in range(len(self.lengths))]
            order = np.random.default_rng([self.seed, epoch]).permutation(sum(self.lengths))
            self._epoch = epoch, np.concatenate(parts)[order]
        return self._epoch[1]

    def _part(self, number: int, epoch: int) -> np.ndarray:
        length, count, start = self.lengths[number], int(self.counts[number]), int(self.starts[number])
        if count == length:
            return start + np.arange(length)
        places = np.arange(count) + epoch * count
        rounds, part = places // length, np.empty(count, np.int64)
        for turn in np.unique(rounds):
            order = np.random.default_rng([self.seed, number, int(turn)]).permutation(length)
            part[rounds == turn] = start + order[places[rounds == turn] % length]
        return part


def _or_own(array: np.ndarray | None, source: TrainingSource) -> np.ndarray:
    return source.embeddings if array is None else array


def _check_sources(sources: Sequence[TrainingSource]) -> None:
    for number, source in enumerate(sources):
        for name in ("positives", "negatives", "labels"):
            array = getattr(source, name)
            if array is not None and len(array) != len(source.embeddings):
                raise ValueError(
                    f"source {number} has {len(source.embeddings)} embeddings and {len(array)} {name}; "
                    "row i of one belongs to row i of the other."
                )
        if source.weight is not None and not source.weight > 0:
            raise ValueError(f"`weight` ({source.weight}) of source {number} must be above 0. Leave the source out.")


def _check_finite(arrays: Sequence[np.ndarray]) -> None:
    for part, array in enumerate(arrays):
        for start in range(0, len(array), 65_536):
            finite = np.isfinite(array[start : start + 65_536]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise ValueError(f"training embeddings hold NaN or infinity, first in array {part}, row {row}.")
