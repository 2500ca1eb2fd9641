"""Store embeddings in a given number of bytes, as packed codes of a head with or without a residual code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from csr_hf.codes import decode_codes, head_fingerprint
from csr_hf.coding.bit_rows import check_bits
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.pursuit import Pursuit
from csr_hf.coding.residual import ResidualQuantizer
from csr_hf.coding.rounding import largest_row_bytes, most_latents, round_chosen
from csr_hf.plumbing.float_rows import as_float_rows

__all__ = ["Coder", "fit_coders"]

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_BLOCK_ROWS = 8192
_BITS = (3, 4)
_QUERIES, _DOCUMENTS, _TOP_K = 300, 3000, 10
_FEWEST_FITTED, _MOST_FITTED = 700, 10_000
# A smaller code than this says too little for a residual to be worth more than more latents.
_LEAST_CODE = 24


class Coder:
    """Turns embeddings into packed codes and back; latents are chosen by pursuit, values rounded to repair each other.

    Args:
        head: the CSR head, moved to the CPU and float32 for this.
        row_bytes: of a code; it gets as many latents as fit. Default: what k latents need at most.
        k: latents of a code at most. Default: as many as fit.
        bits: of a value.
        residual: keeps what the codes leave of the embeddings; None leaves it out.

    Raises:
        ValueError: if both `row_bytes` and `k` are missing, or out of range.
    """

    def __init__(
        self,
        head: CSRModel,
        *,
        row_bytes: int | None = None,
        k: int | None = None,
        bits: int = 4,
        residual: ResidualQuantizer | None = None,
    ) -> None:
        dim, bits = head.config.hidden_dim, check_bits(bits)
        if k is not None and not 1 <= k <= dim:
            raise ValueError(f"`k` ({k}) must be between 1 and `hidden_dim` ({dim}).")
        if row_bytes is None:
            if k is None:
                raise ValueError("`row_bytes` and `k` are both missing. Give one of them.")
            row_bytes = largest_row_bytes(dim, k, bits)
        if row_bytes < 3:
            raise ValueError(f"`row_bytes` ({row_bytes}) must be at least 3: a scale and a latent.")
        self.head, self.row_bytes, self.bits, self.residual = head, row_bytes, bits, residual
        self.k = most_latents(dim, row_bytes, bits) if k is None else k
        self._pursuit: Pursuit | None = None

    @property
    def name(self) -> str:
        """Shown in tables."""
        return "CSR, packed" if self.residual is None else "CSR + residual"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes stored for an embedding, at most."""
        return self.row_bytes + (0 if self.residual is None else self.residual.size)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells its codes from those of another coder."""
        found: dict[str, Any] = {"k": self.k, "row_bytes": self.row_bytes, "bits": self.bits}
        if self.residual is not None:
            digest = hashlib.blake2b(self.residual.centroids.tobytes(), digest_size=6).hexdigest()
            found |= {"residual_bytes": self.residual.size, "residual": digest}
        return {**found, "head": head_fingerprint(self.head)}

    def encode(self, embeddings: Any) -> PackedCodes:
        """Encode embeddings, shape (n, input_dim), without the mean of their modality.

        Raises:
            ValueError: if they are no floats, one is NaN or infinite, or the width is wrong.
        """
        rows = np.asarray(as_float_rows(embeddings, "`embeddings`"))
        width = self.head.config.input_dim
        if rows.shape[1] != width:
            raise ValueError(f"embeddings are {rows.shape[1]} wide, this head takes `input_dim` {width}.")
        parts = [self._encode_block(block) for block in _blocks(rows)]
        packed = PackedCodes.concatenate(parts)
        if self.residual is None:
            return packed
        codes = [
            self.residual.encode(block - decode_codes(self.head, part.unpack()))
            for block, part in zip(_blocks(rows), parts, strict=True)
        ]
        return packed.with_residual(np.concatenate(codes))

    def decode(self, packed: PackedCodes) -> np.ndarray:
        """Decode packed codes with their residuals, float32, shape (n, input_dim)."""
        decoded = decode_codes(self.head, packed.unpack())
        if self.residual is not None and packed.residual is not None:
            decoded += self.residual.decode(packed.residual)
        return decoded

    def _encode_block(self, rows: np.ndarray) -> PackedCodes:
        if self._pursuit is None:
            head = self.head
            self._pursuit = Pursuit(*(part.detach().float().cpu() for part in (head.dictionary, head.pre_bias)))
        chosen = self._pursuit.choose(torch.from_numpy(rows), self.k)
        found, base = round_chosen(self._pursuit, chosen, self.bits, self.row_bytes)
        dim = self.head.config.hidden_dim
        return PackedCodes.from_levels(*found, dim, self.bits, base, head_fingerprint(self.head))


def fit_coders(head: CSRModel, train: np.ndarray | None, budgets: Sequence[int]) -> list[Coder]:
    """Make coders for budgets of bytes, with the settings that keep most of training embeddings.

    What is kept is the share of the dense top 10 of 300 embeddings among 3,000 others; residual codes are fitted on
    the rest of them.

    Args:
        head: the CSR head.
        train: embeddings, shape (n, input_dim), without the mean of their modality; with fewer than 4,000, or None,
            values get 3 bits and there are no residual codes.
        budgets: bytes of an embedding, at least 3.

    Returns:
        for each budget the coder without a residual, and the best with one, where one fits.

    Raises:
        ImportError: if faiss is missing, with the line to type.
    """
    if train is None or len(train) < _QUERIES + _DOCUMENTS + _FEWEST_FITTED:
        return [Coder(head, row_bytes=budget, bits=3) for budget in budgets]
    order = np.random.default_rng(0).permutation(len(train))
    queries, documents, rest = np.split(order, [_QUERIES, _QUERIES + _DOCUMENTS])
    trial = _Trial(train[np.sort(queries)], train[np.sort(documents)])
    fitting = train[np.sort(rest[:_MOST_FITTED])].astype(np.float32)
    found = []
    for budget in budgets:
        plain = [Coder(head, row_bytes=budget, bits=bits) for bits in _BITS]
        found.append(max(plain, key=trial.measure))
        with_residual = [
            _with_residual(Coder(head, row_bytes=budget - size, bits=_BITS[0]), fitting, size)
            for size in _residual_sizes(train.shape[1], budget)
        ]
        found += [max(with_residual, key=trial.measure)] if with_residual else []
    return found


def _residual_sizes(dim: int, budget: int) -> list[int]:
    """Return bytes of residual codes that are worth a try: near a third and two thirds of a budget."""
    sizes = [size for size in range(1, budget - _LEAST_CODE + 1) if dim % size == 0]
    return (
        sorted({min(sizes, key=lambda size: abs(size - share)) for share in (budget / 3, budget * 2 / 3)})
        if sizes
        else []
    )


def _with_residual(coder: Coder, rows: np.ndarray, size: int) -> Coder:
    coder.residual = ResidualQuantizer.fit(rows - coder.decode(coder.encode(rows)), size)
    return coder


class _Trial:
    """Embeddings to ask and to find, which tell how much of the dense neighbors a coder keeps."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.queries, self.documents = _unit(queries), _unit(documents)
        self.neighbors = self._find(self.documents)

    def measure(self, coder: Coder) -> float:
        """Compute the mean share of the dense top 10 that decoded codes find."""
        found = self._find(_unit(coder.decode(coder.encode(self.documents))))
        return float((found[:, :, None] == self.neighbors[:, None]).any(axis=2).mean())

    def _find(self, documents: np.ndarray) -> np.ndarray:
        return np.argpartition(-(self.queries @ documents.T), _TOP_K, axis=1)[:, :_TOP_K]


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield float32 rows, some at a time; one block even without rows."""
    for start in range(0, max(len(rows), 1), _BLOCK_ROWS):
        yield np.ascontiguousarray(rows[start : start + _BLOCK_ROWS], np.float32)
