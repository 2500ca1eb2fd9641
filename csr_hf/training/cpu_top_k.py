"""Compiled selection of the k largest positive entries of a row, grouped by level and unordered within one."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import jit

_MAX_HALVINGS = 48
_LOW_BITS = 0xFFFFFFFF


@jit(fastmath={"reassoc", "nsz"})
def _count_above(entries: np.ndarray, bound: np.float32) -> np.float32:
    # A sum of floats, because compilers turn that into whole vectors.
    count = np.float32(0)
    for position in range(len(entries)):
        count += np.float32(1) if entries[position] > bound else np.float32(0)
    return count


@jit()
def _find_bound(entries: np.ndarray, k: int, guess: np.float32) -> np.float32:
    """Find by bisection a bound that at least k entries exceed, and seldom many more; 0 if fewer are positive."""
    low, high = np.float32(0), np.float32(np.inf)
    if _count_above(entries, low) <= k:
        return low
    middle = guess if guess > 0 else np.float32(1)
    for _ in range(_MAX_HALVINGS):
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
def _partition(keys: np.ndarray, end: int, count: int) -> None:
    """Reorder keys[:end] so that keys[:count] are the largest (quickselect)."""
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
        if count <= j:
            right = j + 1
        elif count >= i:
            left = i
        else:
            return


@jit()
def select_largest(
    pre_activations: np.ndarray,
    levels: np.ndarray,
    values: np.ndarray,
    latents: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the k largest positive pre-activations of each row to `values` and `latents`; on a tie the first ones.

    For every level, the first `level` entries of a row are its `level` largest, in no order among themselves. A row
    with fewer positive pre-activations ends with zeros.

    Args:
        pre_activations: float32, shape (n, hidden_dim).
        levels: numbers of latents, ascending, the last one k; int64.
        values: written, shape (n, k).
        latents: written, shape (n, k).
        start: first row.
        stop: row after the last.
    """
    k = values.shape[1]
    keys = np.empty(pre_activations.shape[1], np.uint64)
    candidates = np.empty(pre_activations.shape[1] + 1, np.int32)
    bound = np.float32(0)
    for row in range(start, stop):
        entries = pre_activations[row]
        # Rows are alike: the bound of one is a good guess for the next.
        bound = _find_bound(entries, k, bound)
        count = np.int32(0)
        for latent in range(len(entries)):
            candidates[count] = latent
            count += np.int32(entries[latent] > bound)
        for position in range(count):
            # Positive floats are ordered like their bits.
            bits = np.uint64(np.float32(entries[candidates[position]]).view(np.uint32))
            keys[position] = (bits << np.uint64(32)) | np.uint64(_LOW_BITS - candidates[position])
        end = count
        for number in range(len(levels) - 1, -1, -1):
            if levels[number] < end:
                _partition(keys, end, levels[number])
                end = levels[number]
        for rank in range(k):
            key = keys[rank] if rank < count else np.uint64(_LOW_BITS)
            values[row, rank] = np.uint32(key >> np.uint64(32)).view(np.float32)
            latents[row, rank] = np.int32(np.uint64(_LOW_BITS) - (key & np.uint64(_LOW_BITS)))
