"""Documents as the index stores them: checked arrays, and their posting lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csr_hf.search import building
from csr_hf.sparse_codes import SparseCodes, index_dtype
from csr_hf.threads import available_threads, run

_FLOAT16_INFINITY = 0x7C00
_NEGATIVE_ZERO = 0x8000
_CHUNK = 65_536
_NOTHING = 1e-6


def scales(values: np.ndarray, decoded_norms: np.ndarray | None) -> np.ndarray:
    """What makes scores of inner products: 1 / the norm of the code, or of the decoded document.

    Returns:
        float32, shape (n,). 0, so that they are never found, for codes of norm 0 and documents that decode to nothing:
        to less than a millionth of the code.
    """
    own = norms_of(values)
    divisors = own if decoded_norms is None else decoded_norms
    return np.divide(np.float32(1), divisors, out=np.zeros_like(own), where=divisors > own * np.float32(_NOTHING))


def norms_of(values: np.ndarray) -> np.ndarray:
    """Norms of codes, float32, shape (n,), from the bits of their float16 values."""
    chunks = [(slice(start, start + _CHUNK),) for start in range(0, len(values), _CHUNK)]
    norms = run(lambda rows: building.norms(values[rows]), chunks, available_threads())
    return np.concatenate([np.zeros(0, np.float32), *norms])


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


def check_loaded(
    arrays: dict[str, np.ndarray], dim: int, block_size: int, input_dim: int | None, folder: str | Path
) -> None:
    """Verify arrays read from disk as far as searches rely on them; one pass over all of them.

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
        and all(
            arrays[name].shape == shape for name, shape in _other_shapes(n, input_dim or 0).items() if name in arrays
        )
    )
    if not sound:
        raise ValueError(f"the index {folder} is damaged: its arrays contradict each other. Build it again.")


def _other_shapes(n: int, input_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "ids": (n,),
        "binary": (n, -(-input_dim // 8)),
        "int8": (n, input_dim),
        "int8_scale": (n,),
        "float16": (n, input_dim),
    }
