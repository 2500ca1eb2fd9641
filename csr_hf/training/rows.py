"""Training data: embeddings of several sources seen as one, and the order in which a run takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from csr_hf.data.fingerprints import fingerprint_vectors
from csr_hf.data.sources import Source
from csr_hf.data.vectors import Vectors, check_finite
from csr_hf.embedding.cache import EmbeddingCache


class _Part(NamedTuple):
    """Some rows of one array of embeddings."""

    vectors: Vectors
    """Shape (n, input_dim)."""
    rows: np.ndarray
    """Numbers of the rows that may be trained on, int64."""
    mean: np.ndarray | None
    """What is subtracted from each, shape (input_dim,)."""
    modality: int
    """Place among the head's modalities."""

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read the embeddings at places among `rows`, float32."""
        found = self.vectors[self.rows[places]].astype(np.float32)
        return found if self.mean is None else found - self.mean


class TrainingRows:
    """The rows of several sources that may be trained on, as one array that is read where it lies.

    Args:
        sources: at least one, with embeddings of every role.
        paired: a row is an example with its positive and negative; else every embedding is a row.
        modality_means: modality -> mean to subtract, shape (input_dim,), in the order of the head's modalities; empty
            for a head of one modality.

    Raises:
        ValueError: if there are no rows, widths differ, or a value is NaN or infinite (the row is named).
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        paired: bool = False,
        modality_means: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._means = dict(modality_means or {})
        self.sources = [source for source in sources if not source.held_out.all()]
        if not self.sources:
            raise ValueError("no embeddings to train on: the data set is empty.")
        _check_vectors(self.sources)
        self.paired = paired
        self._free = [np.flatnonzero(~source.held_out) for source in self.sources]
        roles = [source.roles[:1] if paired else source.roles for source in self.sources]
        self._parts = [self._part(number, role) for number, some in enumerate(roles) for role in some]
        # A source's weight is shared by its roles.
        self.weights = [
            (source.weight or len(some) * len(free)) / len(some)
            for source, some, free in zip(self.sources, roles, self._free, strict=True)
            for _ in some
        ]
        self.lengths = [len(part.rows) for part in self._parts]
        self._starts = np.cumsum([0, *self.lengths])
        self._modalities = np.array([part.modality for part in self._parts])
        self._positives = self._parts_of(1) if paired else self._parts
        self._negatives = self._parts_of(2) if paired else self._parts
        self._positive_modalities = np.array([part.modality for part in self._positives])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.sources[0].dim

    @property
    def has_labels(self) -> bool:
        """Whether any source has classes."""
        return any(source.labels is not None for source in self.sources)

    @property
    def has_negatives(self) -> bool:
        """Whether any source has triplets."""
        return any(len(source.roles) > 2 for source in self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that a training reads: the rows of every role, their weights and labels."""
        digest = hashlib.blake2b(f"{self._starts} {self.dim} {self.weights} {self.paired}".encode(), digest_size=8)
        # Without pairs, all roles are among the parts already.
        parts = [*self._parts, *self._positives, *self._negatives] if self.paired else self._parts
        hashes: dict[int, str] = {}
        for part in parts:
            # The last role of a source stands for those that it lacks: it is read once.
            key = id(part.vectors)
            hashes[key] = hashes.get(key) or fingerprint_vectors(part.vectors)
            digest.update(f"{hashes[key]} {part.modality}".encode() + part.rows.tobytes())
            digest.update(b"" if part.mean is None else part.mean.tobytes())
        if self.paired and self.has_labels:
            digest.update(self._labels.tobytes())
        return digest.hexdigest()

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Read the given rows, float32, shape (len(indices), dim)."""
        return self._take(self._parts, indices)

    def positives(self, indices: np.ndarray) -> np.ndarray:
        """Read their positives, themselves where a source has none; needs `paired`."""
        return self._take(self._positives, indices)

    def negatives(self, indices: np.ndarray) -> np.ndarray:
        """Read their negatives, their positives where a source has none; needs `paired`."""
        return self._take(self._negatives, indices)

    def modalities(self, indices: np.ndarray) -> np.ndarray:
        """Return the places of the rows' modalities among the head's, int64."""
        return self._modalities[self._part_numbers(indices)]

    def positive_modalities(self, indices: np.ndarray) -> np.ndarray:
        """Return those of their positives and negatives; needs `paired`."""
        return self._positive_modalities[self._part_numbers(indices)]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Return classes, int64, different for each source; -1 where a row has none; needs `paired`."""
        return self._labels[indices]

    @cached_property
    def _labels(self) -> np.ndarray:
        everything, first = [], 0
        for source, free in zip(self.sources, self._free, strict=True):
            if source.labels is None:
                everything.append(np.full(len(free), -1, np.int64))
                continue
            labels = source.labels[free]
            classes, numbers = np.unique(labels, return_inverse=True)
            everything.append(np.where(labels == -1, -1, numbers + first))
            first += len(classes)
        return np.concatenate(everything)

    def _part(self, number: int, role: str) -> _Part:
        source = self.sources[number]
        modality = source.modality(role)
        place = list(self._means).index(modality) if self._means else 0
        return _Part(source.vectors[role], self._free[number], self._means.get(modality), place)

    def _parts_of(self, place: int) -> list[_Part]:
        """Return parts of the role at this place, or of the last role of sources that have fewer."""
        roles = [source.roles[min(place, len(source.roles) - 1)] for source in self.sources]
        return [self._part(number, role) for number, role in enumerate(roles)]

    def _take(self, parts: list[_Part], indices: np.ndarray) -> np.ndarray:
        if len(parts) == 1:
            return parts[0].take(indices)
        batch = np.empty((len(indices), self.dim), np.float32)
        numbers = self._part_numbers(indices)
        for number, part in enumerate(parts):
            chosen = numbers == number
            if chosen.any():
                batch[chosen] = part.take(indices[chosen] - self._starts[number])
        return batch

    def _part_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Return the numbers of the parts that hold the rows."""
        return np.searchsorted(self._starts, indices, side="right") - 1


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
        """Return the rows at the given places, int64."""
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


def _check_vectors(sources: Sequence[Source]) -> None:
    shapes = [source.vectors[role].shape for source in sources for role in source.roles]
    if len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"embeddings differ in width: {shapes}.")
    for source in sources:
        for role in source.roles:
            vectors = source.vectors[role]
            # A cache was checked when it was written.
            if not isinstance(vectors, EmbeddingCache):
                check_finite(vectors, source.name if role == "embedding" else f"{source.name}, {role}")
