"""How probable a code is: which latents are active together, and at which levels."""

from __future__ import annotations

import decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from csr_hf.coding.bit_rows import LARGEST_BASE, LEAST_BASE, Levels, check_bits, step_sizes
from csr_hf.coding.prior_kernels import MOST_LOGIT, PriorTables, read_rows, write_rows
from csr_hf.coding.pursuit import MOST_LATENTS, Chosen, Pursuit
from csr_hf.coding.range_coder import TOTAL
from csr_hf.coding.rounding import TASK_ROWS, Rounding
from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import available_threads, run

MOST_ACTIVE = 255
"""Active latents of a row at most."""
_MOST_CHOICES = 16
_LARGEST_LOGIT = 2**14
_WORTH = 0.15
"""Of a bit, as a share of what the last latent explains: one more latent takes some 8 bits."""


class PriorArrays(NamedTuple):
    """What was learned of codes, as whole numbers. Logits, links and the like are in sixteenths."""

    order: np.ndarray
    """Latents in the order of coding, a permutation, int16, shape (dim,)."""
    bias: np.ndarray
    """Logit of each latent, in this order, by mode, int16, shape (modes, dim)."""
    links: np.ndarray
    """What the latent of a row says of those behind it, int8, shape (dim, dim), or (0, dim) for nothing."""
    strengths: np.ndarray
    """Of the links, by mode and number of active latents, int16, shape (modes, most + 1)."""
    left: np.ndarray
    """What each number of latents still to come adds, by mode, int16, shape (modes, most + 1)."""
    modes: np.ndarray
    """How often each mode was chosen, uint32, shape (modes,); 16 at most."""
    counts: np.ndarray
    """How often each number of active latents was seen, uint32, shape (most + 1,)."""
    kinds: np.ndarray
    """How often each kind of row was seen, by its levels, uint32, shape (kinds,); 16 at most."""
    levels: np.ndarray
    """How often each level was seen, by kind, uint32, shape (kinds, 2**bits)."""
    scales: np.ndarray
    """How often each scale was seen, uint32, shape (256,)."""
    base: np.ndarray
    """Largest step of a level, float32, from 2**-94 to 2**119, shape (1,)."""


class LatentPrior:
    """Writes latents and levels in as few bits as they are probable, after what was seen of training embeddings.

    Latents are asked one after the other, in a fixed order, whether they are active. The logit of each is its bias,
    plus what the active ones before it say of it, plus what the number of those that are still to come says: a fully
    visible sigmoid belief network (Frey, Hinton and Dayan, NIPS 1995). Each row chooses one of several modes, by which
    this is believed more or less. Levels, scales and the number of active latents follow their frequencies. All
    numbers are whole, so that a row is read alike on every machine.

    Args:
        arrays: what was learned; `fit_prior` makes it.

    Raises:
        ValueError: if a type, a shape or a number is another than `PriorArrays` says.
    """

    def __init__(self, arrays: PriorArrays) -> None:
        self.arrays = arrays
        self.dim, self.most = len(arrays.order), arrays.left.shape[-1] - 1
        self.bits = check_bits(max(arrays.levels.shape[-1], 1).bit_length() - 1)
        _check_shapes(arrays, self.dim, self.most, self.bits)
        _check_numbers(arrays)
        self.base = float(arrays.base[0])
        places, levels = np.empty(self.dim, np.int64), _shares(arrays.levels)
        places[arrays.order] = np.arange(self.dim)
        tables = PriorTables(
            places=places,
            latents=arrays.order.astype(np.int64),
            bias=arrays.bias.astype(np.int32),
            links=arrays.links,
            strengths=arrays.strengths.astype(np.int32),
            left=arrays.left.astype(np.int32),
            active=active_shares(),
            modes=_shares(arrays.modes),
            kinds=_shares(arrays.kinds),
            scales=_shares(arrays.scales),
            counts=_shares(arrays.counts),
            levels=levels,
            level_bits=np.log2(TOTAL / np.diff(levels)).astype(np.float32),
        )
        self._tables = PriorTables(*(frozen(table) for table in tables))

    def write(self, pursuit: Pursuit, chosen: Chosen, row_bytes: int) -> np.ndarray:
        """Write as many of the chosen latents of each row as fit, their values rounded to repair each other.

        Args:
            pursuit: that chose them.
            chosen: latents in the order of their choice: the last ones are left out where a row is full.
            row_bytes: of a row.

        Returns:
            uint8, shape (n, row_bytes).
        """
        rounding = Rounding(pursuit.gram, pursuit.norms, step_sizes(self.base), 2**self.bits, _WORTH)
        rows = np.zeros((len(chosen.indices), row_bytes), np.uint8)
        parts = ((Chosen(*(array[part] for array in chosen)), rows[part]) for part in _split(len(rows)))
        tasks = [(self._tables, rounding, *part) for part in parts]
        run(write_rows, tasks, available_threads())
        return rows

    def read(self, rows: np.ndarray) -> Levels:
        """Read rows, uint8, shape (n, m), as latents and levels of shape (n, most); any bytes can be read."""
        return self.read_modes(rows)[0]

    def read_modes(self, rows: np.ndarray) -> tuple[Levels, np.ndarray]:
        """Read rows as `read` does, and the mode of each, uint8, shape (n,)."""
        rows, shape = frozen(rows), (len(rows), self.most)
        found = Levels(np.zeros(shape, np.int32), np.zeros(shape, np.uint16), np.zeros(len(rows), np.uint8))
        modes = np.zeros(len(rows), np.uint8)
        tasks = [(self._tables, *(array[part] for array in (rows, *found, modes))) for part in _split(len(rows))]
        run(read_rows, tasks, available_threads())
        return found, modes


def _check_shapes(arrays: PriorArrays, dim: int, most: int, bits: int) -> None:
    modes, kinds = len(arrays.modes), len(arrays.kinds)
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "order": (np.int16, (dim,)),
        "bias": (np.int16, (modes, dim)),
        "links": (np.int8, (dim if len(arrays.links) else 0, dim)),
        "strengths": (np.int16, (modes, most + 1)),
        "left": (np.int16, (modes, most + 1)),
        "modes": (np.uint32, (modes,)),
        "counts": (np.uint32, (most + 1,)),
        "kinds": (np.uint32, (kinds,)),
        "levels": (np.uint32, (kinds, 2**bits)),
        "scales": (np.uint32, (256,)),
        "base": (np.float32, (1,)),
    }
    for name, (kind, shape) in expected.items():
        array = getattr(arrays, name)
        if (array.dtype, array.shape) != (kind, shape):
            raise ValueError(f"`{name}` ({array.dtype}, {array.shape}) must be {np.dtype(kind)}, {shape}.")
    sizes, largest = (dim, most, modes, kinds), (MOST_LATENTS, MOST_ACTIVE, _MOST_CHOICES, _MOST_CHOICES)
    if not all(1 <= size <= limit for size, limit in zip(sizes, largest, strict=True)):
        raise ValueError(f"Latents, active ones, modes and kinds {sizes} must be from 1 to {largest}.")


def _check_numbers(arrays: PriorArrays) -> None:
    if not np.array_equal(np.sort(arrays.order), np.arange(len(arrays.order))):
        raise ValueError(f"`order` is no permutation of {len(arrays.order)} latents.")
    for name in ("bias", "left", "strengths"):
        if np.abs(getattr(arrays, name).astype(int)).max() > _LARGEST_LOGIT:
            raise ValueError(f"`{name}` must be from -{_LARGEST_LOGIT} to {_LARGEST_LOGIT}.")
    if not LEAST_BASE <= arrays.base[0] <= LARGEST_BASE:
        raise ValueError(f"`base` ({arrays.base[0]!r}) must be from 2**-94 to 2**119.")


def _split(count: int) -> list[slice]:
    return [slice(start, start + TASK_ROWS) for start in range(0, count, TASK_ROWS)]


def _shares(seen: np.ndarray) -> np.ndarray:
    """Return the shares of `TOTAL` before each symbol and behind the last, by how often each was seen, int64.

    Each has a share, whether it was seen or not.
    """
    if seen.ndim == 2:
        return np.array([_shares(row) for row in seen])
    often = seen.astype(np.int64)
    shares = 1 + (TOTAL - len(often)) * often // max(int(often.sum()), 1)
    shares[shares.argmax()] += TOTAL - shares.sum()
    return np.r_[0, np.cumsum(shares)]


@lru_cache(maxsize=1)
def active_shares() -> np.ndarray:
    """Compute the share of `TOTAL` of "active" for each logit in sixteenths, int64, shape (2 * MOST_LOGIT + 1,).

    In decimal arithmetic: a code must be read alike on every machine.
    """
    with decimal.localcontext() as exact:
        exact.prec = 40
        logits = (decimal.Decimal(number) / 16 for number in range(-MOST_LOGIT, MOST_LOGIT + 1))
        shares = [int(TOTAL / (1 + (-logit).exp())) for logit in logits]
    return np.clip(np.array(shares, np.int64), 1, TOTAL - 1)
