"""Keep what a code leaves of an embedding in the given bytes, by transform coding: closest, and slowest to read."""

from __future__ import annotations

import decimal
import math
from functools import lru_cache
from typing import ClassVar

import numpy as np

from csr_hf.coding.range_coder import TOTAL, TOTAL_BITS
from csr_hf.coding.row_lengths import length_type, ragged_bytes, row_lengths
from csr_hf.coding.trellis import (
    CONTEXT_AT_ONE,
    CONTEXTS,
    FINE_PER_OCTAVE,
    HEADER,
    MOST_FINE,
    Model,
    choose_scales,
    count_bytes,
    decode_rows,
    encode_rows,
)
from csr_hf.plumbing.threads import available_threads, run

_MOST_ROWS = 20_000
_FEWEST_ROWS = 256
_CHUNK = 1024
_SAMPLE = 2048
_COARSEST = 255 * FINE_PER_OCTAVE // 4
"""Of a row that deviates most."""
_LEAST_BYTES, _MOST_BYTES = HEADER + 2, 2**15 - 1
_WIDEST = 400
"""Largest deviation of an axis, and one by the smallest, in quarters of a power of two."""
_LARGEST = 1e30
"""Residual that products do not overflow with."""
_REACH = 8
"""Deviations beyond which numbers of a context end."""


class TransformQuantizer:
    """Turns residuals onto their principal axes, rounds them, and writes more probable numbers in fewer bits.

    Rows that are encoded together get one step, the finest whose numbers fit into the mean bytes, and are as long as
    they need: with rows of equal length those that are hard to encode would lose more, and near duplicates be told
    apart by that. Axes that deviate less than a step cost next to nothing, so that bytes go where residuals differ
    (reverse water-filling, Cover and Thomas, section 10.3.3). It is closer than product quantization of as many bytes,
    but a row has to be decoded before it is compared.

    Args:
        axes: orthonormal rows, float32, shape (dim, dim).
        mean: of the residuals, float32, shape (dim,).
        spreads: log2 of the deviations along the axes, in quarters, int16, shape (dim,).
        size: mean bytes of a row with its length, from 4 to 32,767.

    Raises:
        ValueError: if types or shapes differ from these, or a number is out of range, NaN or infinite.
    """

    kind: ClassVar[str] = "transform coding, one step for rows that are encoded together"

    def __init__(self, axes: np.ndarray, mean: np.ndarray, spreads: np.ndarray, size: int) -> None:
        dim = len(spreads)
        if (axes.dtype, axes.shape, mean.dtype, mean.shape) != (np.float32, (dim, dim), np.float32, (dim,)):
            found = f"{axes.dtype} {axes.shape}, {mean.dtype} {mean.shape}"
            raise ValueError(f"`axes` and `mean` ({found}) must be float32 {(dim, dim)} and {(dim,)}.")
        if not (np.isfinite(axes).all() and np.isfinite(mean).all()):
            raise ValueError("`axes` or `mean` holds NaN or infinity. Fit them again.")
        if spreads.dtype != np.int16 or spreads.ndim != 1 or not dim or np.abs(spreads.astype(int)).max() > _WIDEST:
            found = f"{spreads.dtype}, {spreads.shape}"
            raise ValueError(f"`spreads` ({found}) must be int16 from -{_WIDEST} to {_WIDEST}.")
        if not _LEAST_BYTES <= size <= _MOST_BYTES:
            raise ValueError(f"`size` ({size}) must be from {_LEAST_BYTES} to {_MOST_BYTES:,} bytes.")
        self.axes, self.mean, self.spreads, self.size = axes, mean, spreads, size
        widest = int(spreads.max())
        self._spreads = spreads.astype(np.int64) - widest
        self._widths = (2.0 ** (spreads.astype(np.float64) / 4)).astype(np.float32)
        self._values = np.clip(2.0 ** ((np.arange(256.0) - 128 + widest) / 4), 2.0**-120, 2.0**120).astype(np.float32)

    @classmethod
    def fit(cls, residuals: np.ndarray, size: int) -> TransformQuantizer:
        """Find the principal axes of residuals.

        Args:
            residuals: what codes of training embeddings leave of them, shape (n, dim); 20,000 of them are used.
            size: mean bytes of a row, at least 4.

        Raises:
            ValueError: if `size` is less, or there are fewer than 256 residuals.
        """
        n, dim = residuals.shape
        if n < _FEWEST_ROWS:
            raise ValueError(f"residual codes need {_FEWEST_ROWS} training embeddings; there are {n}.")
        chosen = np.random.default_rng(0).permutation(n)[:_MOST_ROWS]
        rows = np.asarray(residuals[np.sort(chosen)], np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        covariance = rows.T @ rows / len(rows)
        # Few rows say little about the axes in which they do not differ.
        doubt = dim / (len(rows) + dim)
        covariance = (1 - doubt) * covariance + doubt * np.trace(covariance) / dim * np.eye(dim)
        variances, axes = np.linalg.eigh(covariance)
        smallest = max(variances[-1], 2.0 ** (-_WIDEST / 2)) * 2.0**-24
        spreads = np.rint(2 * np.log2(np.maximum(variances, smallest)))
        bounded = np.clip(spreads, -_WIDEST, _WIDEST).astype(np.int16)
        return cls(np.ascontiguousarray(axes.T, np.float32), mean.astype(np.float32), bounded, size)

    def resize(self, size: int) -> TransformQuantizer:
        """Return the same axes for rows of other mean bytes."""
        return TransformQuantizer(self.axes, self.mean, self.spreads, size)

    @property
    def dim(self) -> int:
        """Width of a residual."""
        return len(self.spreads)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {"axes": self.axes, "mean": self.mean, "spreads": self.spreads}

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Write residuals as bytes: rows of different lengths, whose mean is at most `size` with their lengths.

        Args:
            residuals: shape (n, dim). All are rounded to one step, the finest that their bytes allow, so that they
                lose alike; those longer than twice the mean get a coarser one.

        Returns:
            uint8, shape (n, 2 * size); zeros behind the end of a row, which files leave out.
        """
        rows, scales = np.empty((len(residuals), self.dim), np.float32), np.empty(len(residuals), np.uint8)
        chunks = [slice(first, first + _CHUNK) for first in range(0, len(residuals), _CHUNK)]

        def turn(chunk: slice) -> None:
            rows[chunk] = np.clip(residuals[chunk] - self.mean, -_LARGEST, _LARGEST) @ self.axes.T
            choose_scales(rows[chunk], self._widths, scales[chunk])

        run(turn, [(chunk,) for chunk in chunks], available_threads())
        fineness = self._choose_fineness(rows, scales)
        while True:
            # Where even the coarsest step takes too much, every row gets the mean bytes and no more.
            room = 2 * self.size if fineness >= -_COARSEST else self._content_bytes
            codes = np.empty((len(rows), room), np.uint8)

            def write(chunk: slice, fineness: int = fineness, codes: np.ndarray = codes) -> None:
                parts = self._spreads, self._values, make_model(), fineness
                encode_rows(rows[chunk], scales[chunk], *parts, codes[chunk])

            run(write, [(chunk,) for chunk in chunks], available_threads())
            if ragged_bytes(row_lengths(codes), 2 * self.size) <= self.size * len(codes):
                return np.pad(codes, ((0, 0), (0, 2 * self.size - room)))
            fineness -= 1

    @property
    def _content_bytes(self) -> int:
        """Mean bytes of a row without its length."""
        return self.size - length_type(2 * self.size).itemsize

    def _choose_fineness(self, rows: np.ndarray, scales: np.ndarray) -> int:
        """Choose the finest step by which a sample of the rows has at most the mean bytes."""
        every = -(-len(rows) // _SAMPLE) if len(rows) else 1
        sample = np.ascontiguousarray(rows[::every]), np.ascontiguousarray(scales[::every])
        budget = self._content_bytes * len(sample[0])
        least, most = -_COARSEST, MOST_FINE
        while least < most:
            middle = (least + most + 1) // 2
            if count_bytes(*sample, self._spreads, self._values, make_model(), middle, 2 * self.size) <= budget:
                least = middle
            else:
                most = middle - 1
        return least

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Read bytes, uint8, shape (n, m), as residuals, float32, shape (n, dim); any bytes can be read."""
        found = np.empty((len(codes), self.dim), np.float32)

        def decode(first: int) -> None:
            rows = np.ascontiguousarray(codes[first : first + _CHUNK])
            turned = np.empty((len(rows), self.dim), np.float32)
            decode_rows(rows, self._spreads, self._values, make_model(), turned)
            found[first : first + _CHUNK] = turned @ self.axes + self.mean

        run(decode, [(first,) for first in range(0, len(codes), _CHUNK)], available_threads())
        return found


@lru_cache(maxsize=1)
def make_model() -> Model:
    """Compute how probable each level is in each context, if residuals along an axis follow a logistic distribution.

    Frequencies are computed in decimal arithmetic: a code must be read alike on every machine.
    """
    ratios = [2.0 ** ((context - CONTEXT_AT_ONE) / 4) for context in range(CONTEXTS)]
    highest = [math.ceil(_REACH * ratio / 2) + 2 for ratio in ratios]
    widest = max(highest)
    cumulative = np.full((CONTEXTS, 2, 2 * widest + 2), TOTAL, np.int64)
    bits, points = np.zeros((2, CONTEXTS, 2, widest + 1), np.float32)
    for context, (ratio, most) in enumerate(zip(ratios, highest, strict=True)):
        for quantizer, edges in enumerate(_edges(context, most)):
            below = [_logistic(context, edge) for edge in edges]
            spare = TOTAL - 2 * most - 1
            counts = [1 + int(spare * (below[0] * 2 - 1))]
            for number in range(1, most + 1):
                counts += [1 + int(spare * (below[number] - below[number - 1]))] * 2
            counts[0] += TOTAL - sum(counts)
            cumulative[context, quantizer, : len(counts) + 1] = np.r_[0, np.cumsum(counts)]
            bits[context, quantizer, : most + 1] = TOTAL_BITS - np.log2([counts[0], *counts[1::2]])
            points[context, quantizer, : most + 1] = _means(ratio, np.array(edges, np.float64))
    return Model(cumulative, np.array(highest, np.int64), bits, points)


def _edges(context: int, most: int) -> list[list[decimal.Decimal]]:
    """Return where the levels of both quantizers end, in steps, as the choice of levels by error and bits moves them.

    The constants were fitted to the levels that are chosen of simulated logistic numbers.
    """
    with decimal.localcontext() as exact:
        exact.prec = 40
        ratio = (decimal.Decimal(context - CONTEXT_AT_ONE) / 4 * decimal.Decimal(2).ln()).exp()
        moved = 1 / max(ratio, decimal.Decimal(1))
        first = decimal.Decimal("0.22") / min(ratio, decimal.Decimal(1)) ** 3
        even = [2 * level + 1 + decimal.Decimal("0.45") * moved for level in range(most + 1)]
        odd = [2 * level + decimal.Decimal("0.25") * moved for level in range(most + 1)]
        return [even, [min(first, odd[1]), *odd[1:]]]


def _logistic(context: int, edge: decimal.Decimal) -> decimal.Decimal:
    """Return the share of values below a number of steps, in a logistic distribution of the context's deviation."""
    with decimal.localcontext() as exact:
        exact.prec = 40
        quarters = decimal.Decimal(context - CONTEXT_AT_ONE) / 4
        deviation = (quarters * decimal.Decimal(2).ln()).exp()
        pi = decimal.Decimal("3.141592653589793238462643383279502884197")
        return 1 / (1 + (-edge * pi / (deviation * decimal.Decimal(3).sqrt())).exp())


def _means(ratio: float, ends: np.ndarray) -> np.ndarray:
    """Return the mean of the values that each level stands for, in steps, by where the levels end."""
    starts = np.r_[0, ends[:-1]]
    places = starts[:, None] + (ends - starts)[:, None] * (np.arange(32) + 0.5) / 32
    density = 1 / np.cosh((places * math.pi / (2 * ratio * 3**0.5)).clip(None, 300)) ** 2
    means: np.ndarray = (density * places).sum(axis=1) / density.sum(axis=1)
    means[0] = 0
    return means
