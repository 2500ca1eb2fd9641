"""Make what the scan reads of documents: signs of what lies between a document and the center of its partition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import jit
from csr_hf.search.kernels.simd import BLOCK


class SignCodes(NamedTuple):
    """Of some documents, in any order."""

    bits: np.ndarray
    """Eight dimensions a byte, uint8, shape (n, bytes)."""
    factors: np.ndarray
    """What <s, Rq> is multiplied by, the upper halves of float32, uint16, shape (n,)."""
    shifts: np.ndarray
    """What is added, the upper halves of float32, uint16, shape (n,)."""


def make_rotation(dim: int, seed: int) -> np.ndarray:
    """Return a random orthogonal matrix, float32, shape (dim, dim)."""
    factor, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return np.asarray(factor * np.sign(np.diag(upper)), np.float32)


def make_signs(embeddings: np.ndarray, own: np.ndarray, centers: np.ndarray, rotation: np.ndarray) -> SignCodes:
    """Keep the signs of rotated embeddings less their centers; see `kernels.scan` for the numbers beside them.

    Args:
        embeddings: float32, shape (n, dim).
        own: the partition of each.
        centers: float32, shape (partitions, dim).
        rotation: orthogonal, float32, shape (dim, dim).
    """
    rest = (embeddings - centers[own]) @ rotation.T
    turned = centers @ rotation.T
    signs = np.where(rest > 0, np.float32(1), np.float32(-1))
    sizes = np.abs(rest).sum(axis=1)
    factors = np.where(sizes > 0, (rest**2).sum(axis=1) / np.where(sizes > 0, sizes, 1), 0).astype(np.float32)
    # Summed over chunks of documents, since a copy of all centers would be as large as the embeddings.
    along, with_signs = (np.einsum("ij,ij->i", part, turned[own]) for part in (rest, signs))
    return SignCodes(np.packbits(rest > 0, axis=1), halve(factors), halve(along - factors * with_signs))


def halve(numbers: np.ndarray) -> np.ndarray:
    """Round float32 to its upper half, uint16, to the nearest."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    return np.minimum((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0xFFFF).astype(np.uint16)


@jit()
def lay_planes(bits: np.ndarray, order: np.ndarray, begins: np.ndarray, planes: np.ndarray) -> None:
    """Lay signs out by partition, by block of documents in it, and by byte.

    Args:
        bits: uint8, shape (n, bytes).
        order: documents by partition, int32, shape (n,).
        begins: where partitions begin and the last ends, int64, shape (partitions + 1,).
        planes: receives them, uint8, flat, at least n * bytes long.
    """
    places = bits.shape[1]
    for number in range(begins.shape[0] - 1):
        for first in range(begins[number], begins[number + 1], BLOCK):
            length = min(BLOCK, begins[number + 1] - first)
            for at in range(length):
                document = order[first + at]
                for place in range(places):
                    planes[places * first + place * length + at] = bits[document, place]


@jit()
def gather_planes(planes: np.ndarray, begins: np.ndarray, bits: np.ndarray) -> None:
    """Read what `lay_planes` laid out, in order of rows."""
    places = bits.shape[1]
    for number in range(begins.shape[0] - 1):
        for first in range(begins[number], begins[number + 1], BLOCK):
            length = min(BLOCK, begins[number + 1] - first)
            for at in range(length):
                for place in range(places):
                    bits[first + at, place] = planes[places * first + place * length + at]
