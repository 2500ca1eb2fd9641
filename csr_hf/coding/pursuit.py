"""Matching pursuit of many embeddings, compiled, on all threads.

`csr_hf.least_squares.pursue` does the same in torch: for other devices, for few embeddings, and where the inner
products of all pairs of atoms do not fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from csr_hf.least_squares import EXPLAINED, REFIT_EVERY
from csr_hf.plumbing.jit import jit
from csr_hf.plumbing.threads import available_threads, run

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

MOST_LATENTS = 8192
"""The inner products of all pairs of so many atoms take 256 MB."""
_BLOCK_ROWS = 8192
_TASK_ROWS = 64
_COMPARED = 128
_SWEEPS = 200
# As in `csr_hf.least_squares.fit`.
_RIDGE = np.float32(1e-5)
_TOLERANCE = np.float32(1e-4)
_TAKEN = np.float32(-3e38)


class Chosen(NamedTuple):
    """What pursuit finds, in the order in which it chooses, so that fewer latents are the first of them."""

    indices: np.ndarray
    """Latents, no one twice in a row, int32, shape (n, k)."""
    values: np.ndarray
    """Their values, not negative, 0 from `counts` on, float32, shape (n, k)."""
    targets: np.ndarray
    """Inner products of their atoms with the centered embedding, float32, shape (n, k)."""
    counts: np.ndarray
    """Latents that explain something, int64, shape (n,)."""


class Pursuit:
    """Chooses latents of embeddings one at a time and fits their values, see `csr_hf.least_squares.pursue`.

    The inner products of all pairs of atoms are computed once (Rubinstein, Zibulevsky and Elad 2008).

    Args:
        atoms: the dictionary of a head, float32 on the CPU, shape (hidden_dim, input_dim).
        pre_bias: subtracted from embeddings, shape (input_dim,).

    Attributes:
        gram: inner products of the atoms, each scaled to unit norm, shape (hidden_dim, hidden_dim).
        norms: of the atoms, shape (hidden_dim,).
    """

    def __init__(self, atoms: torch.Tensor, pre_bias: torch.Tensor) -> None:
        self.pre_bias = pre_bias
        norms = atoms.norm(dim=-1).clamp_min(1e-12)
        self._units = atoms / norms[:, None]
        self.norms, self.gram = norms.numpy(), (self._units @ self._units.t()).numpy()

    @staticmethod
    def takes(head: CSRModel) -> bool:
        """Return whether a head is of a kind that this compiled pursuit is for: float32 on the CPU, not too wide."""
        weight = head.encoder.weight
        return weight.dtype == torch.float32 and weight.device.type == "cpu" and len(weight) <= MOST_LATENTS

    def choose(self, embeddings: torch.Tensor, k: int) -> Chosen:
        """Choose at most k latents for each of the embeddings, float32, shape (n, input_dim), and fit their values."""
        n, shape = len(embeddings), (len(embeddings), k)
        values, targets = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        chosen = Chosen(np.empty(shape, np.int32), values, targets, np.empty(n, np.int64))
        # The products of all atoms with all embeddings might not fit into memory.
        for first in range(0, n, _BLOCK_ROWS):
            block = slice(first, min(first + _BLOCK_ROWS, n))
            arrays = (
                ((embeddings[block] - self.pre_bias) @ self._units.t()).numpy(),
                *(array[block] for array in chosen),
            )
            tasks = [
                (self.gram, *(array[start : start + _TASK_ROWS] for array in arrays))
                for start in range(0, block.stop - first, _TASK_ROWS)
            ]
            run(_pursue_rows, tasks, available_threads())
        norms = self.norms[chosen.indices]
        values /= norms
        targets *= norms
        return chosen

    def encode(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode embeddings, float32, shape (n, input_dim), with k latents, at most hidden_dim.

        Returns:
            values (n, k), descending and not negative, and indices (n, k), int64.
        """
        chosen = self.choose(embeddings, k)
        values, order = torch.sort(torch.from_numpy(chosen.values), dim=-1, descending=True, stable=True)
        return values, torch.gather(torch.from_numpy(chosen.indices).long(), -1, order)


@jit(fastmath={"reassoc", "contract", "nsz"})
def _pursue_rows(
    gram: np.ndarray,
    correlations: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    targets: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Choose the latents of each row of correlations with unit atoms, and fit their values."""
    k = values.shape[1]
    left = np.empty(gram.shape[0], np.float32)
    products, room = np.empty((k, k), np.float32), np.empty((k + 2, k), np.float32)
    for row in range(correlations.shape[0]):
        chosen, fitted, target, count = indices[row], values[row], targets[row], 0
        left[:] = correlations[row]
        enough = np.float32(0)
        while count < k:
            atom = _find_largest(left.view(np.int32))
            best = left[atom]
            if count == 0:
                enough = max(np.float32(EXPLAINED) * best, np.float32(0))
            if not best > enough:
                break
            for other in range(count):
                products[count, other] = products[other, count] = gram[atom, chosen[other]]
            products[count, count] = 1
            chosen[count], target[count], fitted[count] = atom, correlations[row, atom], best
            count += 1
            if count % REFIT_EVERY == 0 and count < k:
                fit_values(products, target, fitted, (count, count - REFIT_EVERY), room)
                left[:] = correlations[row]
                _subtract(left, gram, chosen, fitted, count)
            else:
                _subtract(left, gram, chosen[count - 1 :], fitted[count - 1 :], 1)
            for other in range(count):
                left[chosen[other]] = _TAKEN
        fit_values(products, target, fitted, (count, max(count - 1, 0) // REFIT_EVERY * REFIT_EVERY), room)
        counts[row] = count
        # The others have the value 0, but a code names no latent twice.
        place = count
        for latent in range(gram.shape[0]):
            if place < k and left[latent] != _TAKEN:
                chosen[place] = latent
                place += 1


@jit()
def _find_largest(bits: np.ndarray) -> int:
    """Return the place of the largest of float32 whose bits are given as int32, if one of them is positive.

    Positive floats are in the order of their bits, and vectors of integers are compared at once.
    """
    most, start = bits[0], 0
    for first in range(0, bits.shape[0], _COMPARED):
        block = bits[first : min(first + _COMPARED, bits.shape[0])]
        found = block[0]
        for place in range(block.shape[0]):
            found = np.int32(max(found, block[place]))
        if found > most:
            most, start = found, first
    for place in range(start, bits.shape[0]):
        if bits[place] == most:
            return place
    return 0


@jit(fastmath={"reassoc", "contract", "nsz"})
def fit_values(
    products: np.ndarray, target: np.ndarray, values: np.ndarray, span: tuple[int, int], room: np.ndarray
) -> None:
    """Minimize z^T products z / 2 - target^T z over z >= 0, by Cholesky, or by descent where a value is negative.

    Args:
        products: inner products of the chosen atoms, shape (k, k).
        target: those of the atoms with the embedding, shape (k,).
        values: z, which need not be near the minimum, shape (k,).
        span: atoms in use, the first ones, and how many of them were there in the last call.
        room: what later calls go on with, shape (k + 2, k).
    """
    count, known = span
    solution, half, factor = room[0], room[1], room[2:]
    for row in range(known, count):
        half[row] = target[row]
        for other in range(row + 1):
            total = products[row, other]
            if other == row:
                total += _RIDGE * total
            for inner in range(other):
                total -= factor[row, inner] * factor[other, inner]
            # The diagonal is kept as its inverse.
            factor[row, other] = total * factor[other, other] if other < row else 1 / np.sqrt(total)
        for inner in range(row):
            half[row] -= factor[row, inner] * half[inner]
        half[row] *= factor[row, row]
    solution[:count] = half[:count]
    is_bounded = False
    for row in range(count - 1, -1, -1):
        solution[row] *= factor[row, row]
        for other in range(row):
            solution[other] -= factor[row, other] * solution[row]
        is_bounded |= not solution[row] >= 0
    if is_bounded:
        _descend(products, target, values, count, solution)
    else:
        values[:count] = solution[:count]


@jit(fastmath={"reassoc", "contract", "nsz"})
def _descend(products: np.ndarray, target: np.ndarray, values: np.ndarray, count: int, rest: np.ndarray) -> None:
    """Minimize z^T products z / 2 - target^T z over z >= 0 by coordinate descent, from the values that are there.

    Args:
        products: inner products of the chosen atoms, shape (k, k).
        target: those of the atoms with the embedding, shape (k,).
        values: z, changed in place, shape (k,).
        count: atoms in use, the first ones.
        rest: room for `count` numbers.
    """
    for place in range(count):
        rest[place] = target[place]
    _subtract(rest[:count], products[:, :count], np.arange(count), values, count)
    for _ in range(_SWEEPS):
        most = np.float32(0)
        for place in range(count):
            scale = products[place, place]
            change = max(rest[place] / scale, -values[place])
            values[place] += change
            most = max(most, abs(change))
            for other in range(count):
                rest[other] -= change * products[place, other]
        if most <= _TOLERANCE * values[0]:
            break


@jit(fastmath={"reassoc", "contract", "nsz"})
def _subtract(left: np.ndarray, rows: np.ndarray, chosen: np.ndarray, values: np.ndarray, count: int) -> None:
    """Subtract from `left` the first `count` chosen rows times their values."""
    done = 0
    # Four rows at a time: the sums are read and written a quarter as often.
    while done + 4 <= count:
        a, b, c, d = rows[chosen[done]], rows[chosen[done + 1]], rows[chosen[done + 2]], rows[chosen[done + 3]]
        of_a, of_b, of_c, of_d = values[done], values[done + 1], values[done + 2], values[done + 3]
        for other in range(left.shape[0]):
            left[other] -= of_a * a[other] + of_b * b[other] + of_c * c[other] + of_d * d[other]
        done += 4
    while done < count:
        a, of_a = rows[chosen[done]], values[done]
        for other in range(left.shape[0]):
            left[other] -= of_a * a[other]
        done += 1
