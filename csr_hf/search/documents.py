"""Documents as the index stores them: checked arrays of eight-bit codes, and their posting lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csr_hf.plumbing.threads import available_threads, run
from csr_hf.search import building
from csr_hf.search.building import BLOCK, HALF, TILE
from csr_hf.search.lookup import ROOM
from csr_hf.sparse_codes import SparseCodes, index_dtype

_NOTHING = 1e-6
_VECTOR = 64
_CHUNK = 64
_WIDE = 255
"""Latents a document from which offsets within a block need 32 bits."""


def quantised(codes: SparseCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes in eight bits, checked: kernels do not check bounds.

    Returns:
        indices (uint16 or int32) and values (uint8, multiples of 1/255 of the largest of their row), shape (n, k), and
        what such a multiple is, float32, shape (n,).

    Raises:
        ValueError: for values that are negative or not finite, and latents out of range.
    """
    # Writable as well, since numba compiles anew for what is not.
    indices = np.require(codes.indices, index_dtype(codes.dim), ["C", "W"])
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < codes.dim:
        raise ValueError(f"`codes.indices` must lie in [0, {codes.dim}); found {indices.min()} to {indices.max()}.")
    values, steps = np.empty(indices.shape, np.uint8), np.empty(len(indices), np.float32)

    def work(start: int) -> int:
        rows = slice(start, start + 65_536)
        chunk = np.ascontiguousarray(codes.values[rows], np.float32)
        wrong = building.quantise(chunk, values[rows], steps[rows])
        return start + wrong if wrong >= 0 else -1

    for row in run(work, [(start,) for start in range(0, len(indices), 65_536)], available_threads()):
        if row >= 0:
            raise ValueError(f"`codes[{row}]` holds a value that is negative or not finite. Encode that text again.")
    return indices, values, steps


def norms_of(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Norms of stored codes, float32, shape (n,)."""
    norms = np.empty(len(values), np.float32)
    building.measure_norms(values, steps, norms)
    return norms


def inverse_norms(values: np.ndarray, steps: np.ndarray, decoded_norms: np.ndarray | None) -> np.ndarray:
    """What makes scores of inner products: 1 / the norm of the code, or of the decoded document.

    Returns:
        float32, shape (n,). 0, so that they are never found, for codes of norm 0 and documents that decode to nothing:
        to less than a millionth of the code.
    """
    own = norms_of(values, steps)
    divisors = own if decoded_norms is None else decoded_norms
    return np.divide(np.float32(1), divisors, out=np.zeros_like(own), where=divisors > own * np.float32(_NOTHING))


def build_lists(
    indices: np.ndarray, values: np.ndarray, scale: np.ndarray, order: np.ndarray, rows: np.ndarray, dim: int
) -> dict[str, np.ndarray]:
    """Posting lists and summaries of documents, in parallel over the blocks; see `building.fill_blocks`.

    Args:
        indices: latents, shape (n, k).
        values: uint8, shape (n, k).
        scale: what scores are multiplied by, float32, shape (n,).
        order: positions of the rows, which errors name.
        rows: where blocks begin and the last ends.
        dim: length of the latents axis.

    Returns:
        by name: bits and ranks (blocks, words); firsts (blocks + 1,), where the offsets of a block begin; offsets;
        starts (blocks + 1,), where the postings of a block begin; postings; summary (tiles, dim, width), of `width`
        blocks side by side.

    Raises:
        ValueError: for a document that names a latent twice.
    """
    threads, blocks, words = available_threads(), len(rows) - 1, -(-dim // 64)
    chunks = [(first, min(first + _CHUNK, blocks)) for first in range(0, blocks, _CHUNK)]
    sizes = np.zeros((blocks + 1, 2), np.int64)
    run(
        lambda first, stop: building.measure_blocks(indices, values, dim, rows, first, sizes[1 + first : 1 + stop]),
        chunks,
        threads,
    )
    firsts, starts = np.ascontiguousarray(np.cumsum(sizes, axis=0).T)
    bits, ranks = np.zeros((blocks, words), np.uint64), np.zeros((blocks, words), np.uint16)
    offsets = np.empty(firsts[-1], np.uint16 if indices.shape[1] <= _WIDE else np.uint32)
    postings, means = np.zeros(starts[-1], np.uint16), np.zeros((blocks, dim), np.float32)

    def fill(first: int, stop: int) -> tuple[int, float]:
        own = bits[first:stop], ranks[first:stop], offsets, postings, means[first:stop]
        repeated = building.fill_blocks((indices, values, scale, rows), first, firsts, starts, *own)
        return repeated, float(means[first:stop].max(initial=0))

    filled = run(fill, chunks, threads)
    for repeated, _ in filled:
        if repeated >= 0:
            raise ValueError(
                f"`codes[{int(order[repeated])}]` names a latent twice. Every latent may appear once in a row."
            )
    tiles, width = _tiles(blocks)
    summary = np.zeros((tiles, dim, width), np.uint8)
    factor = np.float32(building.LEVELS / max([1e-30, *(largest for _, largest in filled)]))
    run(
        lambda tile: building.round_summaries(means[tile * width : (tile + 1) * width], factor, summary[tile]),
        [(tile,) for tile in range(tiles)],
        threads,
    )
    return {
        "bits": bits,
        "ranks": ranks,
        "firsts": firsts,
        "offsets": offsets,
        "starts": starts,
        "postings": postings,
        "summary": summary,
    }


def _tiles(blocks: int) -> tuple[int, int]:
    """Tiles of summaries and their width: whole vectors, but no wider than few blocks need."""
    width = min(TILE, -(-blocks // _VECTOR) * _VECTOR)
    return -(-blocks // max(width, 1)), width


def checked_norms(norms: np.ndarray, n: int) -> np.ndarray:
    """Norms of the decoded documents, float32.

    Raises:
        ValueError: for a wrong shape, or norms that are negative or not finite.
    """
    array = np.array(norms, np.float32)
    if array.shape != (n,):
        raise ValueError(f"`decoded_norms` has the shape {array.shape} instead of ({n},). Give one norm a document.")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("`decoded_norms` must be finite and not negative. Compute them with `decoded_norms`.")
    return array


def check_loaded(arrays: dict[str, np.ndarray], dim: int, input_dim: int | None, folder: str | Path) -> None:
    """Verify arrays read from disk as far as searches rely on them; one pass over all of them.

    Raises:
        ValueError: if anything would make a kernel read outside of its arrays.
    """
    indices, n = arrays["indices"], len(arrays["indices"])
    shapes = {**_shapes(n, indices.shape[-1], dim, len(arrays["rows"]) - 1), **_other_shapes(n, input_dim or 0)}
    sound = (
        all(arrays[name].shape == shape for name, shape in shapes.items() if name in arrays)
        and (not indices.size or 0 <= int(indices.min()) <= int(indices.max()) < dim)
        and np.array_equal(np.sort(arrays["order"]), np.arange(n))
        and _rows_sound(arrays["rows"], n)
        and _signs_sound(arrays, -(-(input_dim or 0) // 8))
        and _lists_sound(arrays)
    )
    if not sound:
        raise ValueError(f"the index {folder} is damaged: its arrays contradict each other. Build it again.")


def _rows_sound(rows: np.ndarray, n: int) -> bool:
    lengths = np.diff(rows)
    return bool(len(rows) and rows[0] == 0 and rows[-1] == n and ((lengths > 0) & (lengths <= BLOCK)).all())


def _signs_sound(arrays: dict[str, np.ndarray], width: int) -> bool:
    """Whether every block is a whole number of sub-blocks, if there are any."""
    if "binary" not in arrays:
        return True
    rows, firsts = arrays["binary_rows"], arrays["binary_firsts"]
    return bool(
        _rows_sound(rows, len(arrays["indices"]))
        and len(firsts) == len(arrays["rows"])
        and firsts[0] == 0
        and firsts[-1] == len(rows) - 1
        and (np.diff(firsts) > 0).all()
        and np.array_equal(rows[firsts], arrays["rows"])
        and arrays["binary_centers"].shape == (int(firsts[-1]) * width + ROOM,)
    )


def _lists_sound(arrays: dict[str, np.ndarray]) -> bool:
    firsts, starts, offsets = arrays["firsts"], arrays["starts"], arrays["offsets"].astype(np.int64)
    counts = np.bitwise_count(arrays["bits"]).astype(np.int64)
    lists = counts.sum(axis=1)
    if (
        firsts[0] != 0
        or starts[0] != 0
        or starts[-1] != len(arrays["postings"])
        or firsts[-1] != len(offsets)
        or not np.array_equal(np.diff(firsts), lists + 1)
        or not np.array_equal(arrays["ranks"], np.cumsum(counts, axis=1) - counts)
    ):
        return False
    lengths = np.diff(offsets)
    within = np.ones(len(lengths), bool)
    within[firsts[1:-1] - 1] = False
    ends = offsets[firsts[1:] - 1]
    return bool(
        (offsets[firsts[:-1]] == 0).all()
        and np.array_equal(ends, np.diff(starts))
        and ((lengths[within] > 0) & (lengths[within] <= HALF)).all()
    )


def _shapes(n: int, k: int, dim: int, blocks: int) -> dict[str, tuple[int, ...]]:
    words, (tiles, width) = -(-dim // 64), _tiles(blocks)
    return {
        "indices": (n, k),
        "values": (n, k),
        "steps": (n,),
        "scale": (n,),
        "order": (n,),
        "bits": (blocks, words),
        "ranks": (blocks, words),
        "firsts": (blocks + 1,),
        "starts": (blocks + 1,),
        "summary": (tiles, dim, width),
    }


def _other_shapes(n: int, input_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "ids": (n,),
        "binary": (n * -(-input_dim // 8) + ROOM,),
        "binary_norm": (n,),
        "int8": (n, input_dim),
        "int8_scale": (n,),
        "float16": (n, input_dim),
    }
