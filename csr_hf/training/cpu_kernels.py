"""Compiled loops over active latents: what a training step costs beyond one matrix product.

Arrays are C-contiguous; values float32, indices int32, both (n, k). The first value of a row that is not positive ends
it: what follows is not active. `levels` ascends; the last of it is k. Every loop works on rows (or latents) `start` to
`stop`, so that threads can share it.
"""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

_HALVINGS = 48
_LOW_BITS = 0xFFFFFFFF
# Sums may be reordered, so that they use whole vectors; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


@jit(fastmath={"reassoc", "nsz"})
def _count_above(entries: np.ndarray, bound: np.float32) -> np.float32:
    # A sum of floats, because that is what compilers turn into whole vectors.
    count = np.float32(0)
    for place in range(len(entries)):
        count += np.float32(1) if entries[place] > bound else np.float32(0)
    return count


@jit()
def _bound(entries: np.ndarray, k: int, guess: np.float32) -> np.float32:
    """A bound that at least k entries lie above, and seldom many more; 0 if fewer are positive."""
    low, high = np.float32(0), np.float32(np.inf)
    if _count_above(entries, low) <= k:
        return low
    middle = guess if guess > 0 else np.float32(1)
    for _ in range(_HALVINGS):
        count = _count_above(entries, middle)
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + (k >> 2) + 8:
                break
        middle = np.float32(2) * low if high == np.inf else np.float32(0.5) * (low + high)
    return low


@jit()
def _partition(keys: np.ndarray, end: int, nth: int) -> None:
    """Reorder keys[:end] so that keys[:nth] are the largest (quickselect)."""
    left, right = 0, end
    while right - left > 1:
        first, middle, last = keys[left], keys[(left + right) >> 1], keys[right - 1]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = left, right - 1
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if nth <= j:
            right = j + 1
        elif nth >= i:
            left = i
        else:
            return


@jit()
def select(
    pre: np.ndarray, levels: np.ndarray, values: np.ndarray, indices: np.ndarray, start: int, stop: int
) -> None:
    """The largest positive entries of each row of `pre`, shape (n, hidden_dim); the first ones on a tie.

    The first `level` of a row are its `level` largest, for every level, in no order of their own. A row with fewer
    positive entries ends with zeros.
    """
    k = values.shape[1]
    keys, chosen = np.empty(pre.shape[1], np.uint64), np.empty(pre.shape[1] + 1, np.int32)
    bound = np.float32(0)
    for row in range(start, stop):
        entries = pre[row]
        # Rows are alike: the bound of one is a good guess for the next.
        bound = _bound(entries, k, bound)
        count = np.int32(0)
        for latent in range(len(entries)):
            chosen[count] = latent
            count += np.int32(entries[latent] > bound)
        for place in range(count):
            # Positive floats are ordered like their bits.
            bits = np.uint64(np.float32(entries[chosen[place]]).view(np.uint32))
            keys[place] = (bits << np.uint64(32)) | np.uint64(_LOW_BITS - chosen[place])
        end = count
        for number in range(len(levels) - 1, -1, -1):
            if levels[number] < end:
                _partition(keys, end, levels[number])
                end = levels[number]
        for rank in range(k):
            key = keys[rank] if rank < count else np.uint64(_LOW_BITS)
            values[row, rank] = np.uint32(key >> np.uint64(32)).view(np.float32)
            indices[row, rank] = np.int32(np.uint64(_LOW_BITS) - (key & np.uint64(_LOW_BITS)))


@jit(fastmath=_FAST)
def decode(
    values: np.ndarray,
    indices: np.ndarray,
    atoms: np.ndarray,
    bias: np.ndarray,
    levels: np.ndarray,
    decoded: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Sum of the first `level` atoms of each row, for every level; `decoded` has the shape (levels, n, dim)."""
    for row in range(start, stop):
        total, codes, places = bias.copy(), values[row], indices[row]
        rank = 0
        for number in range(len(levels)):
            # Four atoms at a time: the sum is read and written once for all of them.
            while rank + 3 < levels[number] and codes[rank + 3] > 0:
                w0, w1, w2, w3 = codes[rank], codes[rank + 1], codes[rank + 2], codes[rank + 3]
                a0, a1 = atoms[places[rank]], atoms[places[rank + 1]]
                a2, a3 = atoms[places[rank + 2]], atoms[places[rank + 3]]
                for axis in range(len(total)):
                    total[axis] += w0 * a0[axis] + w1 * a1[axis] + w2 * a2[axis] + w3 * a3[axis]
                rank += 4
            while rank < levels[number] and codes[rank] > 0:
                weight, atom = codes[rank], atoms[places[rank]]
                for axis in range(len(total)):
                    total[axis] += weight * atom[axis]
                rank += 1
            decoded[number, row] = total


@jit(fastmath=_FAST)
def gradient_of_values(
    values: np.ndarray,
    indices: np.ndarray,
    atoms: np.ndarray,
    levels: np.ndarray,
    from_level: np.ndarray,
    gradient: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to `gradient`, shape (n, k), what reaches each active value through the reconstructions.

    `from_level[l]` is the gradient of all reconstructions of level l and above, shape (n, dim).
    """
    zero = np.float32(0)
    for row in range(start, stop):
        codes, places, own = values[row], indices[row], gradient[row]
        rank = 0
        for number in range(len(levels)):
            arriving = from_level[number, row]
            while rank + 3 < levels[number] and codes[rank + 3] > 0:
                a0, a1 = atoms[places[rank]], atoms[places[rank + 1]]
                a2, a3 = atoms[places[rank + 2]], atoms[places[rank + 3]]
                t0, t1, t2, t3 = zero, zero, zero, zero
                for axis in range(len(arriving)):
                    value = arriving[axis]
                    t0 += value * a0[axis]
                    t1 += value * a1[axis]
                    t2 += value * a2[axis]
                    t3 += value * a3[axis]
                own[rank] += t0
                own[rank + 1] += t1
                own[rank + 2] += t2
                own[rank + 3] += t3
                rank += 4
            while rank < levels[number] and codes[rank] > 0:
                atom, total = atoms[places[rank]], zero
                for axis in range(len(arriving)):
                    total += arriving[axis] * atom[axis]
                own[rank] += total
                rank += 1
        own[rank:] = 0


@jit()
def by_latent(values: np.ndarray, indices: np.ndarray, hidden_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Active entries grouped by latent: bounds (hidden_dim + 1,), and row and rank of each entry, rows ascending."""
    n, k = values.shape
    bounds = np.zeros(hidden_dim + 1, np.int64)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            bounds[indices[row, rank] + 1] += 1
    bounds = np.cumsum(bounds)
    free = bounds[:-1].copy()
    rows, ranks = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.int32)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            latent = indices[row, rank]
            rows[free[latent]], ranks[free[latent]] = row, rank
            free[latent] += 1
    return bounds, rows, ranks


@jit(fastmath=_FAST)
def gradient_of_atoms(
    bounds: np.ndarray,
    rows: np.ndarray,
    ranks: np.ndarray,
    values: np.ndarray,
    level_of: np.ndarray,
    from_level: np.ndarray,
    of_values: np.ndarray,
    centered: np.ndarray,
    sums: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to `sums`, shape (hidden_dim, dim), the gradients of atoms that both encode and decode.

    Args:
        bounds: of `by_latent`.
        rows: of `by_latent`.
        ranks: of `by_latent`.
        values: of the codes, shape (n, k); zeros leave the decoding out.
        level_of: the lowest level whose reconstruction holds a rank, shape (k,).
        from_level: see `gradient_of_values`.
        of_values: gradient of the values, shape (n, k); zeros leave the encoding out.
        centered: embeddings minus pre_bias, shape (n, dim).
        sums: see above.
        start: first latent.
        stop: behind the last.
    """
    for latent in range(start, stop):
        total, place, end = sums[latent], bounds[latent], bounds[latent + 1]
        while place + 1 < end:
            r0, r1, k0, k1 = rows[place], rows[place + 1], ranks[place], ranks[place + 1]
            v0, v1, s0, s1 = values[r0, k0], values[r1, k1], of_values[r0, k0], of_values[r1, k1]
            g0, g1 = from_level[level_of[k0], r0], from_level[level_of[k1], r1]
            x0, x1 = centered[r0], centered[r1]
            for axis in range(len(total)):
                total[axis] += v0 * g0[axis] + v1 * g1[axis] + s0 * x0[axis] + s1 * x1[axis]
            place += 2
        if place < end:
            row, rank = rows[place], ranks[place]
            value, slope = values[row, rank], of_values[row, rank]
            arriving, embedding = from_level[level_of[rank], row], centered[row]
            for axis in range(len(total)):
                total[axis] += value * arriving[axis] + slope * embedding[axis]


@jit(fastmath=_FAST)
def inner_products(
    values: np.ndarray,
    indices: np.ndarray,
    bounds: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    products: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """`products[i, j]` of code i with code j of others, whose active entries are grouped by latent."""
    for row in range(start, stop):
        total = products[row]
        total[:] = 0
        for rank in range(values.shape[1]):
            value = values[row, rank]
            if value <= 0:
                break
            latent = indices[row, rank]
            for place in range(bounds[latent], bounds[latent + 1]):
                total[rows[place]] += value * weights[place]


@jit(fastmath=_FAST)
def gradient_of_products(
    values: np.ndarray,
    indices: np.ndarray,
    bounds: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    arriving: np.ndarray,
    gradient: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Gradient of `values` through `inner_products`, given that of the products."""
    for row in range(start, stop):
        slopes = arriving[row]
        for rank in range(values.shape[1]):
            total = np.float32(0)
            if values[row, rank] > 0:
                latent = indices[row, rank]
                for place in range(bounds[latent], bounds[latent + 1]):
                    total += slopes[rows[place]] * weights[place]
            gradient[row, rank] = total
