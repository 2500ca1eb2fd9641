"""Documents as the index stores them: checked arrays, and their posting lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr_hf.search import building
from csr_hf.sparse_codes import SparseCodes, index_dtype
from csr_hf.threads import available_threads, run

_FLOAT16_INFINITY = 0x7C00
_NEGATIVE_ZERO = 0x8000
_CHUNK = 65_536


def scales(values: np.ndarray, decoded_norms: np.ndarray | None) -> tuple[np.ndarray, float]:
    """What to multiply codes by so that none is longer than 1, and what to multiply scores by to undo a part of it.

    Codes are divided by their norms, or by those of the decoded documents, which may be smaller: then all of them
    also by the largest quotient of the two.

    Returns:
        float32, shape (n,), 0 for codes or documents of norm 0; and the quotient, 1 without decoded norms.
    """
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(values), _CHUNK)]
    own = np.concatenate(
        [
            np.zeros(0, np.float32),
            *run(lambda rows: building.norms(values[rows]), [(c,) for c in chunks], available_threads()),
        ]
    )
    divisors = own if decoded_norms is None else decoded_norms
    scale = np.divide(np.float32(1), divisors, out=np.zeros_like(own), where=divisors > 0)
    if decoded_norms is None:
        return scale, 1.0
    longest = float((own * scale).max(initial=0)) or 1.0
    return scale / np.float32(longest), longest


def build_lists(
    indices: np.ndarray, values: np.ndarray, scale: np.ndarray, dim: int, block_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posting lists of documents, in parallel over the blocks.

    Returns:
        list starts (blocks, dim + 1), documents and weights of all postings.

    Raises:
        ValueError: for a document that names a latent twice.
    """
    n, threads = len(indices), available_threads()
    blocks = [(block, slice(block * block_size, (block + 1) * block_size)) for block in range(-(-n // block_size))]
    starts = np.zeros((len(blocks), dim + 1), np.int64)

    def count(block: int, rows: slice) -> None:
        building.count_postings(indices[rows], values[rows], starts[block, 1:])
        np.cumsum(starts[block], out=starts[block])

    run(count, blocks, threads)
    totals = starts[:, -1].copy()
    starts += (np.cumsum(totals) - totals)[:, None]
    documents, weights = np.empty(totals.sum(), np.uint16), np.empty(totals.sum(), np.uint8)

    def fill(block: int, rows: slice) -> int:
        return building.fill_postings(indices[rows], values[rows], scale[rows], starts[block], documents, weights)

    for block, repeated in enumerate(run(fill, blocks, threads)):
        if repeated >= 0:
            row = block * block_size + repeated
            raise ValueError(f"`codes[{row}]` names a latent twice. Every latent may appear once in a row.")
    return starts, documents, weights


def storable(codes: SparseCodes) -> tuple[np.ndarray, np.ndarray]:
    """Indices and the bits of float16 values, copied and checked: kernels do not check bounds.

    Raises:
        ValueError: for values that are negative, not finite or too large for float16, and latents out of range.
    """
    indices = np.array(codes.indices, index_dtype(codes.dim), order="C")
    with np.errstate(over="ignore"):
        values = np.array(codes.values, np.float16, order="C").view(np.uint16)
    values[values == _NEGATIVE_ZERO] = 0
    if values.size and int(values.max()) >= _FLOAT16_INFINITY:
        row = int(np.argmax((values >= _FLOAT16_INFINITY).any(axis=1)))
        raise ValueError(
            f"`codes[{row}]` holds a value that is negative, not finite or above 65,504. Scale the codes."
        )
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < codes.dim:
        raise ValueError(f"`codes.indices` must lie in [0, {codes.dim}); found {indices.min()} to {indices.max()}.")
    return indices, values


def checked_ids(ids: Sequence[int] | Sequence[str] | np.ndarray, n: int) -> np.ndarray:
    """One integer (int64) or string per document.

    Raises:
        ValueError: for a wrong length, a mixture or another type, or ids that repeat.
    """
    array = np.array(ids) if len(ids) else np.empty(0, np.int64)
    if array.dtype.kind == "U" and not all(isinstance(one, str) for one in ids):
        raise ValueError("`ids` must be all integers or all strings, not a mixture. Convert them first.")
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"`ids` has the shape {array.shape}, but there are {n} documents. Give one id a document.")
    if array.dtype.kind not in "iuU":
        raise ValueError(f"`ids` must be all integers or all strings, not {array.dtype}. Convert them first.")
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) < n:
        repeated = unique[counts > 1][0]
        raise ValueError(f"`ids` must be unique; {repeated!r} appears {counts.max()} times. Merge or rename them.")
    return array if array.dtype.kind == "U" else array.astype(np.int64)


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


def check_loaded(arrays: dict[str, np.ndarray], dim: int, block_size: int, folder: str | Path) -> None:
    """Verify arrays read from disk as far as the kernels rely on them; one pass over all of them.

    Raises:
        ValueError: if anything would make a kernel read outside of its arrays.
    """
    indices, starts = arrays["indices"], arrays["starts"]
    n, total = len(indices), len(arrays["documents"])
    sound = (
        arrays["values"].shape == indices.shape
        and arrays["scale"].shape == (n,)
        and starts.shape == (-(-n // block_size), dim + 1)
        and arrays["weights"].shape == (total,)
        and (not indices.size or 0 <= int(indices.min()) <= int(indices.max()) < dim)
        and (not starts.size or (starts.min() >= 0 and starts.max() <= total))
        and (np.diff(starts, axis=1) >= 0).all()
        and (not total or int(arrays["documents"].max()) < block_size)
    )
    if not sound:
        raise ValueError(f"the index {folder} is damaged: its arrays contradict each other. Build it again.")
