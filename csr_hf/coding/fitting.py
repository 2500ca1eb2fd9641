"""Choose for a budget of bytes how many of them go to latents, to their values and to a residual."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csr_hf.coding.coder import Coder
from csr_hf.coding.pursuit import MOST_LATENTS
from csr_hf.coding.residual import FEWEST_ROWS, ResidualQuantizer
from csr_hf.plumbing.threads import available_threads, run

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)
_BITS = (3, 4)
_QUERIES, _DOCUMENTS, _TOP_K = 300, 3000, 10
_FEWEST_FITTED, _MOST_FITTED = 700, 10_000
# A smaller code than this says too little for a residual to be worth more than more latents.
_LEAST_CODE = 24


def fit_index_coder(head: CSRModel, documents: np.ndarray, *, row_bytes: int = 48, residual_bytes: int = 128) -> Coder:
    """Make the coder of an index: rows of a given size, and a residual fitted to a sample of the documents.

    Residuals hold what a rerank needs to be nearly exact; few latents make encoding quick. Where no residual can be
    fitted, for want of documents or faiss, their bytes go to the rows, as more latents.

    Args:
        head: the CSR head.
        documents: embeddings, shape (n, input_dim), without the mean of their modality; may be memory-mapped.
        row_bytes: of a code.
        residual_bytes: of a residual, at most: it takes the largest number that divides the width. 0 for none.

    Raises:
        ValueError: if the head is too wide, or `row_bytes` is out of range.
    """
    if head.config.hidden_dim > MOST_LATENTS:
        raise ValueError(
            f"`hidden_dim` ({head.config.hidden_dim:,}) is above the {MOST_LATENTS:,} latents that an index takes. "
            "Train a head with fewer, or put its codes into a search backend."
        )
    dim = head.config.input_dim
    size = max((size for size in range(1, residual_bytes + 1) if dim % size == 0), default=0)
    if not size:
        return Coder(head, row_bytes=row_bytes, bits=_BITS[0])
    rows = np.random.default_rng(0).permutation(len(documents))[:_MOST_FITTED]
    if len(rows) < FEWEST_ROWS:
        return Coder(head, row_bytes=row_bytes + size, bits=_BITS[-1])
    coder, sample = Coder(head, row_bytes=row_bytes, bits=_BITS[0]), np.asarray(documents[np.sort(rows)], np.float32)
    try:
        coder.residual = ResidualQuantizer.fit(sample - coder.decode(coder.encode(sample)), size)
    except ImportError as error:
        logger.warning("index      has no residuals, and rows of %d bytes instead: %s", row_bytes + size, error)
        return Coder(head, row_bytes=row_bytes + size, bits=_BITS[-1])
    return coder


class _Measured(NamedTuple):
    kept: float
    """Share of the dense top 10."""
    coder: Coder


def fit_coder(head: CSRModel, train: np.ndarray, budget: int) -> Coder:
    """Choose k, bits and residual that keep most of training embeddings within a budget of bytes.

    Args:
        head: the CSR head.
        train: embeddings, as for `fit_coders`.
        budget: bytes of an embedding, at least 3.

    Raises:
        ValueError: if `budget` is less.
        ImportError: if faiss is missing, with the line to type.
    """
    return max(_fit(head, train, [budget]), key=lambda measured: measured.kept).coder


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
        ValueError: if a budget is less than 3.
        ImportError: if faiss is missing, with the line to type.
    """
    return [measured.coder for measured in _fit(head, train, budgets)]


def _fit(head: CSRModel, train: np.ndarray | None, budgets: Sequence[int]) -> list[_Measured]:
    if train is None or len(train) < _QUERIES + _DOCUMENTS + _FEWEST_FITTED:
        return [_Measured(0.0, Coder(head, row_bytes=budget, bits=_BITS[0])) for budget in budgets]
    order = np.random.default_rng(0).permutation(len(train))
    queries, documents, rest = np.split(order, [_QUERIES, _QUERIES + _DOCUMENTS])
    trial = _Trial(train[np.sort(queries)], train[np.sort(documents)])
    fitted_on = train[np.sort(rest[:_MOST_FITTED])].astype(np.float32)
    found = []
    for budget in budgets:
        found.append(trial.best([Coder(head, row_bytes=budget, bits=bits) for bits in _BITS]))
        sizes = _residual_sizes(train.shape[1], budget)
        if sizes:
            found.append(trial.best(_make_with_residuals(head, fitted_on, budget, sizes)))
    return found


def _residual_sizes(dim: int, budget: int) -> list[int]:
    """Return bytes of residual codes that are worth a try: near a third and two thirds of a budget."""
    sizes = [size for size in range(1, budget - _LEAST_CODE + 1) if dim % size == 0]
    if not sizes:
        return []
    return sorted({min(sizes, key=lambda size: abs(size - share)) for share in (budget / 3, budget * 2 / 3)})


def _make_with_residuals(head: CSRModel, rows: np.ndarray, budget: int, sizes: Sequence[int]) -> list[Coder]:
    """Make a coder for each number of bytes that a residual may take of a budget."""
    coders = [Coder(head, row_bytes=budget - size, bits=_BITS[0]) for size in sizes]
    tasks = [(rows - coder.decode(coder.encode(rows)), size) for coder, size in zip(coders, sizes, strict=True)]
    for coder, residual in zip(coders, run(ResidualQuantizer.fit, tasks, available_threads()), strict=True):
        coder.residual = residual
    return coders


class _Trial:
    """Embeddings to ask and to find, which tell how much of the dense neighbors a coder keeps."""

    def __init__(self, queries: np.ndarray, documents: np.ndarray) -> None:
        self.queries, self.documents = _unit(queries), documents
        self.neighbors = self._find(documents)

    def best(self, coders: Sequence[Coder]) -> _Measured:
        """Return the coder that keeps the largest share of the dense top 10, the first of equals."""
        measured = [_Measured(self._measure(coder), coder) for coder in coders]
        return max(measured, key=lambda each: each.kept)

    def _measure(self, coder: Coder) -> float:
        found = self._find(coder.decode(coder.encode(self.documents)))
        return float((found[:, :, None] == self.neighbors[:, None]).any(axis=2).mean())

    def _find(self, documents: np.ndarray) -> np.ndarray:
        return np.argpartition(-(self.queries @ _unit(documents).T), _TOP_K, axis=1)[:, :_TOP_K]


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
