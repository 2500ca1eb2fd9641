"""Compiled loops over active latents: what a training step costs beyond one matrix product.

Arrays are C-contiguous; values float32, indices int32, both (n, k). The first value of a row that is not positive ends
it: what follows is not active. `levels` ascends; the last of it is k. Every loop works on rows (or latents) `start` to
`stop`, so that threads can share it.
"""

from __future__ import annotations

import numpy as np

from csr_hf.jit import jit

_HALVINGS = 24
_LOW_BITS = 0xFFFFFFFF
# Sums may be reordered, so that they use whole vectors; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


@jit(fastmath={"nnan", "nsz"})
def _largest(entries: np.ndarray) -> np.float32:
    largest = np.float32(0)
    for value in entries:
        largest = max(largest, value)
    return largest


@jit()
def _count_above(entries: np.ndarray, bound: np.float32) -> np.int32:
    count = np.int32(0)
    for value in entries:
        count += np.int32(value > bound)
    return count


@jit()
def _bound(entries: np.ndarray, k: int, guess: np.float32) -> np.float32:
    """A bound that at least k entries lie above, and seldom many more; 0 if fewer are positive."""
    low, high = np.float32(0), _largest(entries)
    if _count_above(entries, low) <= k:
        return low
    middle = guess if low < guess < high else np.float32(0.5) * high
    for _ in range(_HALVINGS):
        count = _count_above(entries, middle)
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + (k >> 2) + 8:
                break
        middle = np.float32(0.5) * (low + high)
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
        total = bias.copy()
        rank = 0
        for number in range(len(levels)):
            while rank < levels[number] and values[row, rank] > 0:
                weight, atom = values[row, rank], atoms[indices[row, rank]]
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
    for row in range(start, stop):
        rank = 0
        for number in range(len(levels)):
            arriving = from_level[number, row]
            while rank < levels[number] and values[row, rank] > 0:
                atom, total = atoms[indices[row, rank]], np.float32(0)
                for axis in range(len(arriving)):
                    total += arriving[axis] * atom[axis]
                gradient[row, rank] += total
                rank += 1
        gradient[row, rank:] = 0


@jit()
def by_latent(values: np.ndarray, indices: np.ndarray, hidden_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Active entries grouped by latent: bounds (hidden_dim + 1,) and entries row * k + rank, rows ascending."""
    n, k = values.shape
    bounds = np.zeros(hidden_dim + 1, np.int64)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            bounds[indices[row, rank] + 1] += 1
    bounds = np.cumsum(bounds)
    free, entries = bounds[:-1].copy(), np.empty(bounds[-1], np.int64)
    for row in range(n):
        for rank in range(k):
            if values[row, rank] <= 0:
                break
            latent = indices[row, rank]
            entries[free[latent]] = row * k + rank
            free[latent] += 1
    return bounds, entries


@jit(fastmath=_FAST)
def weighted_sums(
    bounds: np.ndarray,
    entries: np.ndarray,
    k: int,
    weights: np.ndarray,
    level_of: np.ndarray,
    vectors: np.ndarray,
    sums: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to `sums[j]`, for each latent j, its entries' weight times `vectors[level_of[rank], row]`."""
    for latent in range(start, stop):
        total = sums[latent]
        for position in range(bounds[latent], bounds[latent + 1]):
            entry = entries[position]
            row, rank = entry // k, entry % k
            weight, vector = weights[row, rank], vectors[level_of[rank], row]
            for axis in range(len(total)):
                total[axis] += weight * vector[axis]


@jit(fastmath=_FAST)
def inner_products(
    values: np.ndarray,
    indices: np.ndarray,
    bounds: np.ndarray,
    entries: np.ndarray,
    others: np.ndarray,
    products: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """`products[i, j]` of code i with code j of `others`, whose entries are grouped by latent."""
    k, flat = others.shape[1], others.reshape(-1)
    for row in range(start, stop):
        total = products[row]
        total[:] = 0
        for rank in range(values.shape[1]):
            weight = values[row, rank]
            if weight <= 0:
                break
            latent = indices[row, rank]
            for position in range(bounds[latent], bounds[latent + 1]):
                entry = entries[position]
                total[entry // k] += weight * flat[entry]


@jit(fastmath=_FAST)
def gradient_of_products(
    values: np.ndarray,
    indices: np.ndarray,
    bounds: np.ndarray,
    entries: np.ndarray,
    others: np.ndarray,
    arriving: np.ndarray,
    gradient: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Gradient of `values` through `inner_products`, given that of the products."""
    k, flat = others.shape[1], others.reshape(-1)
    for row in range(start, stop):
        for rank in range(values.shape[1]):
            total = np.float32(0)
            if values[row, rank] > 0:
                latent = indices[row, rank]
                for position in range(bounds[latent], bounds[latent + 1]):
                    entry = entries[position]
                    total += arriving[row, entry // k] * flat[entry]
            gradient[row, rank] = total
