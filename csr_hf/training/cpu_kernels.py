"""Compiled loops over active latents: all that a training step on a CPU does beside one matrix product.

Codes are two C-contiguous arrays of shape (n, k): `values` float32 and `latents` int32. The first value of a row that
is not positive ends it: later entries are not active. `levels` ascends and ends with k. Every loop runs over the rows
(or latents) from `start` to `stop` alone, so that threads can share it.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

# Sums may be reordered, so that they use whole vectors; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


@jit(fastmath=_FAST)
def decode(
    values: np.ndarray,
    latents: np.ndarray,
    atoms: np.ndarray,
    pre_bias: np.ndarray,
    levels: np.ndarray,
    decoded: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the reconstruction from the first `level` entries of each row, for every level.

    Args:
        values: of the codes.
        latents: of the codes.
        atoms: rows of the decoder, shape (hidden_dim, dim).
        pre_bias: shape (dim,).
        levels: see above.
        decoded: written, shape (levels, n, dim).
        start: first row.
        stop: row after the last.
    """
    for row in range(start, stop):
        total, row_values, row_latents = pre_bias.copy(), values[row], latents[row]
        rank = 0
        for number in range(len(levels)):
            # Four atoms at a time: the sum is read and written once for all of them.
            while rank + 3 < levels[number] and row_values[rank + 3] > 0:
                v0, v1, v2, v3 = row_values[rank], row_values[rank + 1], row_values[rank + 2], row_values[rank + 3]
                a0, a1 = atoms[row_latents[rank]], atoms[row_latents[rank + 1]]
                a2, a3 = atoms[row_latents[rank + 2]], atoms[row_latents[rank + 3]]
                for axis in range(len(total)):
                    total[axis] += v0 * a0[axis] + v1 * a1[axis] + v2 * a2[axis] + v3 * a3[axis]
                rank += 4
            while rank < levels[number] and row_values[rank] > 0:
                value, atom = row_values[rank], atoms[row_latents[rank]]
                for axis in range(len(total)):
                    total[axis] += value * atom[axis]
                rank += 1
            decoded[number, row] = total


@jit(fastmath=_FAST)
def add_value_gradients(
    values: np.ndarray,
    latents: np.ndarray,
    atoms: np.ndarray,
    levels: np.ndarray,
    decoded_gradients: np.ndarray,
    gradients: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to `gradients` what reaches each active value through the reconstructions; set the others to 0.

    Args:
        values: of the codes.
        latents: of the codes.
        atoms: rows of the decoder, shape (hidden_dim, dim).
        levels: see above.
        decoded_gradients: [l] is the gradient of the reconstructions of level number l and all above, shape
            (levels, n, dim).
        gradients: added to, shape (n, k).
        start: first row.
        stop: row after the last.
    """
    zero = np.float32(0)
    for row in range(start, stop):
        row_values, row_latents, row_gradients = values[row], latents[row], gradients[row]
        rank = 0
        for number in range(len(levels)):
            incoming = decoded_gradients[number, row]
            while rank + 3 < levels[number] and row_values[rank + 3] > 0:
                a0, a1 = atoms[row_latents[rank]], atoms[row_latents[rank + 1]]
                a2, a3 = atoms[row_latents[rank + 2]], atoms[row_latents[rank + 3]]
                t0, t1, t2, t3 = zero, zero, zero, zero
                for axis in range(len(incoming)):
                    slope = incoming[axis]
                    t0 += slope * a0[axis]
                    t1 += slope * a1[axis]
                    t2 += slope * a2[axis]
                    t3 += slope * a3[axis]
                row_gradients[rank] += t0
                row_gradients[rank + 1] += t1
                row_gradients[rank + 2] += t2
                row_gradients[rank + 3] += t3
                rank += 4
            while rank < levels[number] and row_values[rank] > 0:
                atom, total = atoms[row_latents[rank]], zero
                for axis in range(len(incoming)):
                    total += incoming[axis] * atom[axis]
                row_gradients[rank] += total
                rank += 1
        row_gradients[rank:] = 0


@jit()
def group_by_latent(
    values: np.ndarray, latents: np.ndarray, hidden_dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group the active entries of codes by latent.

    Returns:
        indptr: where the entries of each latent begin and end, int64, shape (hidden_dim + 1,).
        rows: of the entries, ascending within a latent, int32.
        ranks: of the entries, their places in the row, int32.
    """
    n, k = values.shape
    indptr = np.zeros(hidden_dim + 1, np.int64)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            indptr[latents[row, rank] + 1] += 1
    indptr = np.cumsum(indptr)
    free = indptr[:-1].copy()
    rows, ranks = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.int32)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            latent = latents[row, rank]
            rows[free[latent]], ranks[free[latent]] = row, rank
            free[latent] += 1
    return indptr, rows, ranks


@jit(fastmath=_FAST)
def add_atom_gradients(
    indptr: np.ndarray,
    rows: np.ndarray,
    ranks: np.ndarray,
    values: np.ndarray,
    level_of_rank: np.ndarray,
    decoded_gradients: np.ndarray,
    value_gradients: np.ndarray,
    centered: np.ndarray,
    gradients: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to `gradients` the gradients of atoms that decode, encode or both.

    Args:
        indptr: of `group_by_latent`.
        rows: of `group_by_latent`.
        ranks: of `group_by_latent`.
        values: of the codes; zeros leave the decoding out.
        level_of_rank: number of the lowest level whose reconstruction holds a rank, shape (k,).
        decoded_gradients: see `add_value_gradients`.
        value_gradients: gradient of the values, shape (n, k); zeros leave the encoding out.
        centered: embeddings minus pre_bias, shape (n, dim).
        gradients: added to, shape (hidden_dim, dim).
        start: first latent.
        stop: latent after the last.
    """
    for latent in range(start, stop):
        total, entry, end = gradients[latent], indptr[latent], indptr[latent + 1]
        # Two entries at a time: the sum is read and written once for both.
        while entry + 1 < end:
            r0, r1, k0, k1 = rows[entry], rows[entry + 1], ranks[entry], ranks[entry + 1]
            v0, v1, s0, s1 = values[r0, k0], values[r1, k1], value_gradients[r0, k0], value_gradients[r1, k1]
            g0, g1 = decoded_gradients[level_of_rank[k0], r0], decoded_gradients[level_of_rank[k1], r1]
            x0, x1 = centered[r0], centered[r1]
            for axis in range(len(total)):
                total[axis] += v0 * g0[axis] + v1 * g1[axis] + s0 * x0[axis] + s1 * x1[axis]
            entry += 2
        if entry < end:
            row, rank = rows[entry], ranks[entry]
            value, slope = values[row, rank], value_gradients[row, rank]
            incoming, embedding = decoded_gradients[level_of_rank[rank], row], centered[row]
            for axis in range(len(total)):
                total[axis] += value * incoming[axis] + slope * embedding[axis]


@jit(fastmath=_FAST)
def compute_inner_products(
    values: np.ndarray,
    latents: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    products: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the inner products of codes with other codes, which are given as entries grouped by latent.

    Args:
        values: of the codes.
        latents: of the codes.
        indptr: of `group_by_latent`, of the other codes.
        rows: of `group_by_latent`, of the other codes.
        weights: values of those entries, float32.
        products: written, shape (n, m); m other codes.
        start: first row.
        stop: row after the last.
    """
    for row in range(start, stop):
        total = products[row]
        total[:] = 0
        for rank in range(values.shape[1]):
            value = values[row, rank]
            if value <= 0:
                break
            latent = latents[row, rank]
            for entry in range(indptr[latent], indptr[latent + 1]):
                total[rows[entry]] += value * weights[entry]


@jit(fastmath=_FAST)
def compute_product_gradients(
    values: np.ndarray,
    latents: np.ndarray,
    indptr: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    incoming: np.ndarray,
    gradients: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the gradient of `values` through `compute_inner_products`.

    Args:
        values: as there.
        latents: as there.
        indptr: as there.
        rows: as there.
        weights: as there.
        incoming: gradient of the products, shape (n, m).
        gradients: written, shape (n, k); 0 for entries that are not active.
        start: first row.
        stop: row after the last.
    """
    for row in range(start, stop):
        slopes = incoming[row]
        for rank in range(values.shape[1]):
            total = np.float32(0)
            if values[row, rank] > 0:
                latent = latents[row, rank]
                for entry in range(indptr[latent], indptr[latent + 1]):
                    total += slopes[rows[entry]] * weights[entry]
            gradients[row, rank] = total
