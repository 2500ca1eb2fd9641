"""Choose for a budget of bytes how many of them go to latents, to their values and to a residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.coding.coder import Coder
from csr_hf.coding.compact_coder import CompactCoder
from csr_hf.coding.head_coder import HeadCoder
from csr_hf.coding.prior_fitting import fit_links, fit_prior
from csr_hf.coding.pursuit import MOST_LATENTS
from csr_hf.coding.scalar import FEWEST_ROWS, ScalarQuantizer
from csr_hf.coding.scalar_kernels import SCALE_BYTES
from csr_hf.coding.transform import TransformQuantizer

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_BITS = (3, 4)
_QUERIES, _DOCUMENTS, _TOP_K = 300, 3000, 10
_FEWEST_FITTED, _MOST_FITTED = 700, 20_000
_MOST_FITTED_OF_INDEX = 10_000
# Bytes are worth more in a residual than in more latents than these take; a residual below 32 bytes is worth less.
_CODE_BYTES, _LEAST_WITH_RESIDUAL = 16, 48
_MOST_LINKED = 64
"""Bytes of rows beyond which knowing which latents are active together saves little."""


def fit_index_coder(
    head: CSRModel, documents: np.ndarray, *, row_bytes: int = 24, residual_bytes: int | None = None
) -> Coder:
    """Make the coder of an index: rows of a given size, and a residual fitted to a sample of the documents.

    Residuals hold what a rerank needs to be nearly exact; few latents make encoding quick. Where there are too few
    documents to fit a residual, its bytes go to the rows, as more latents.

    Args:
        head: the CSR head.
        documents: embeddings, shape (n, input_dim), without the mean of their modality; may be memory-mapped.
        row_bytes: of a code.
        residual_bytes: of a residual, 3 or more; more than one for each dimension are not used. Default: one for two
            dimensions. 0 for none.

    Raises:
        ValueError: if the head is too wide, or `row_bytes` or `residual_bytes` is out of range.
    """
    if head.config.hidden_dim > MOST_LATENTS:
        raise ValueError(
            f"`hidden_dim` ({head.config.hidden_dim:,}) is above the {MOST_LATENTS:,} latents that an index takes. "
            "Train a head with fewer, or put its codes into a search backend."
        )
    dim = head.config.input_dim
    if residual_bytes is not None and 0 < residual_bytes <= SCALE_BYTES:
        raise ValueError(
            f"`residual_bytes` ({residual_bytes}) must be 0, or at least {SCALE_BYTES + 1}: a scale takes two."
        )
    size = max(-(-dim // 2), SCALE_BYTES + 1) if residual_bytes is None else min(residual_bytes, dim + SCALE_BYTES)
    if not size:
        return Coder(head, row_bytes=row_bytes, bits=_BITS[0])
    rows = np.random.default_rng(0).permutation(len(documents))[:_MOST_FITTED_OF_INDEX]
    if len(rows) < FEWEST_ROWS:
        return Coder(head, row_bytes=row_bytes + size, bits=_BITS[-1])
    coder, sample = Coder(head, row_bytes=row_bytes, bits=_BITS[0]), np.asarray(documents[np.sort(rows)], np.float32)
    coder.residual = ScalarQuantizer.fit(sample - coder.decode(coder.encode(sample)), size)
    return coder


class _Measured(NamedTuple):
    kept: float
    """Share of the dense top 10."""
    coder: Coder | CompactCoder


def fit_coder(head: CSRModel, train: np.ndarray, budget: int) -> Coder | CompactCoder:
    """Choose k, bits and residual that keep most of training embeddings within a budget of bytes.

    Args:
        head: the CSR head.
        train: embeddings, as for `fit_coders`.
        budget: bytes of an embedding, at least 3.

    Raises:
        ValueError: if `budget` is less.
    """
    return max(_fit(head, train, [budget]), key=lambda measured: measured.kept).coder


def fit_coders(head: CSRModel, train: np.ndarray | None, budgets: Sequence[int]) -> list[Coder | CompactCoder]:
    """Make coders for budgets of bytes, with the settings that keep most of training embeddings.

    What is kept is the share of the dense top 10 of 300 embeddings among 3,000 others; how probable codes are, and
    residuals, beside codes of 16 bytes, are fitted on the rest of them.

    Args:
        head: the CSR head.
        train: embeddings, shape (n, input_dim), without the mean of their modality; with fewer than 4,000, or None,
            codes are packed, their values get 3 bits, and there are no residual codes.
        budgets: bytes of an embedding, at least 3.

    Returns:
        for each budget the coder without a residual, and from 48 bytes on one with.

    Raises:
        ValueError: if a budget is less than 3.
    """
    return [measured.coder for measured in _fit(head, train, budgets)]


def _fit(head: CSRModel, train: np.ndarray | None, budgets: Sequence[int]) -> list[_Measured]:
    if train is None or len(train) < _QUERIES + _DOCUMENTS + _FEWEST_FITTED:
        return [_Measured(0.0, Coder(head, row_bytes=budget, bits=_BITS[0])) for budget in budgets]
    order = np.random.default_rng(0).permutation(len(train))
    queries, documents, rest = np.split(order, [_QUERIES, _QUERIES + _DOCUMENTS])
    trial = _Trial(train[np.sort(queries)], train[np.sort(documents)])
    maker = _CoderMaker(head, train[np.sort(rest)].astype(np.float32), max(budgets))
    found = []
    for budget in budgets:
        found.append(trial.best([maker.make(budget, bits) for bits in _BITS]))
        if budget >= _LEAST_WITH_RESIDUAL:
            found.append(trial.best([maker.make_with_residual(budget)]))
    return found


class _CoderMaker:
    """Makes compact coders of one head, fitted on the same embeddings."""

    def __init__(self, head: CSRModel, train: np.ndarray, largest: int) -> None:
        self.head, self.train = head, train
        self.pursuit = Coder(head, row_bytes=_CODE_BYTES).pursuit
        self.learned = fit_links(self.pursuit, train, min(largest, _MOST_LINKED))
        self._short: tuple[CompactCoder, TransformQuantizer] | None = None

    def make(self, row_bytes: int, bits: int) -> CompactCoder:
        """Make a coder without a residual."""
        prior = fit_prior(self.learned, self.pursuit, self.train, row_bytes, bits)
        return CompactCoder(self.head, row_bytes=row_bytes, prior=prior)

    def make_with_residual(self, budget: int) -> CompactCoder:
        """Make a coder whose residual takes all bytes that a short code leaves."""
        size = budget - _CODE_BYTES
        if self._short is None:
            code, sample = self.make(_CODE_BYTES, _BITS[0]), self.train[:_MOST_FITTED]
            self._short = code, TransformQuantizer.fit(sample - code.read_back(sample), size)
        code, residual = self._short
        return CompactCoder(self.head, row_bytes=_CODE_BYTES, prior=code.prior, residual=residual.resize(size))


class _Trial:
    """Embeddings to ask and to find, which tell how much of the dense neighbors a coder keeps."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.queries, self.documents = _unit(queries), documents
        self.neighbors = self._find(documents)

    def best(self, coders: Sequence[Coder | CompactCoder]) -> _Measured:
        """Return the coder that keeps the largest share of the dense top 10, the first of equals."""
        measured = [_Measured(self._measure(coder), coder) for coder in coders]
        return max(measured, key=lambda each: each.kept)

    def _measure(self, coder: HeadCoder[Any]) -> float:
        found = self._find(coder.read_back(self.documents))
        return float((found[:, :, None] == self.neighbors[:, None]).any(axis=2).mean())

    def _find(self, documents: np.ndarray) -> np.ndarray:
        return np.argpartition(-(self.queries @ _unit(documents).T), _TOP_K, axis=1)[:, :_TOP_K]


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
