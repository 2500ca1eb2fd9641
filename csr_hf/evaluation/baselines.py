"""What a user can have without CSR: every rival by its name, in its largest setting within each budget of bytes.

How each stores a vector is in `prefixes`, `scalar_quantizers` and `faiss_quantizers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.adapter import fit_adapter
from csr_hf.evaluation.faiss_quantizers import (
    RABITQ_BITS,
    OptimizedProductQuantization,
    ProductQuantization,
    RaBitQ,
    count_rabitq_bytes,
    divisors,
)
from csr_hf.evaluation.names import FITTED, Baseline
from csr_hf.evaluation.prefixes import PCA, Adapter, PrefixFormat, Truncation, choose_format, fit_components
from csr_hf.evaluation.scalar_quantizers import Binary, Int8, RotatedSigns, count_sign_bytes
from csr_hf.evaluation.vector_method import VectorMethod
from csr_hf.plumbing.settings import suggest


def make_baselines(
    names: Sequence[str],
    train: np.ndarray | None,
    dim: int,
    budgets: Sequence[int],
    similarity: Similarity = "cosine",
    *,
    always_whole: bool = True,
) -> list[VectorMethod]:
    """Make baselines by name, each in its largest setting not above each budget.

    A setting that is the largest for several budgets is made once. What has none within a budget is left out there. An
    adapter is left out where Manhattan distances compare, which no linear map keeps.

    Args:
        names: of `Baseline`.
        train: rows of `rows_for` to fit on, shape (n, dim); None leaves out those of `FITTED`.
        dim: width of the embeddings.
        budgets: bytes of a document.
        similarity: what the embeddings are compared by.
        always_whole: make int8 and sign bits, which have one size, whatever the budgets.

    Raises:
        ValueError: for an unknown name (the nearest known one is named), or too few training embeddings for a fit.
        ImportError: if faiss is missing for `pq`, `opq` or `rabitq`, with the line to type.
    """
    for name in names:
        if name not in get_args(Baseline):
            raise ValueError(f"baseline {name!r} is unknown. {suggest(name, get_args(Baseline))}")
    rows = np.empty((0, dim), np.float32) if train is None else np.ascontiguousarray(train, np.float32)
    given = _Given(rows, dim, sorted(set(budgets)), similarity, _hash_rows(rows), always_whole)
    wanted = [name for name in _MAKERS if name in names and (train is not None or name not in FITTED)]
    return [method for name in wanted for method in _MAKERS[name](given)]


class _Given(NamedTuple):
    """What baselines are made of."""

    train: np.ndarray
    dim: int
    budgets: list[int]
    """Ascending, each once."""
    similarity: Similarity
    fit: str
    """Identifies `train`."""
    always_whole: bool

    def formats(self, width: int) -> list[PrefixFormat]:
        """List the formats of prefixes of vectors of a width, each once."""
        found = [choose_format(budget, width, self.similarity) for budget in self.budgets]
        return [each for each in dict.fromkeys(found) if each.dims]

    def largest(self, sizes: Iterable[int]) -> list[int]:
        """List the largest of the sizes within each budget, each once."""
        known = list(sizes)
        found = [max((size for size in known if size <= budget), default=None) for budget in self.budgets]
        return list(dict.fromkeys(size for size in found if size is not None))

    def wants(self, size: int) -> bool:
        """Whether a method of one size is wanted."""
        return self.always_whole or any(size <= budget for budget in self.budgets)


def _make_truncation(given: _Given) -> list[VectorMethod]:
    return [Truncation(each, given.similarity) for each in given.formats(given.dim)]


def _make_adapters(given: _Given) -> list[VectorMethod]:
    formats = given.formats(given.dim)
    if given.similarity == "manhattan" or not formats:
        return []
    maps = fit_adapter(given.train, given.similarity)
    return [Adapter(maps.best_for(each), each, given.similarity, given.fit) for each in formats]


def _make_pca(given: _Given) -> list[VectorMethod]:
    components = fit_components(given.train)
    formats = given.formats(components.directions.shape[1])
    return [PCA(components, each, given.similarity, given.fit) for each in formats]


def _make_int8(given: _Given) -> list[VectorMethod]:
    return [Int8(given.train, given.similarity, given.fit)] if given.wants(given.dim) else []


def _make_binary(given: _Given) -> list[VectorMethod]:
    wanted = given.wants(count_sign_bytes(given.dim, given.similarity))
    return [Binary(given.dim, given.similarity)] if wanted else []


def _make_rotated(given: _Given) -> list[VectorMethod]:
    wanted = given.wants(count_sign_bytes(given.dim, given.similarity))
    return [RotatedSigns(given.train, given.similarity, given.fit)] if wanted else []


def _make_pq(given: _Given, kind: type[ProductQuantization] = ProductQuantization) -> list[VectorMethod]:
    return [kind(given.train, size, given.similarity, given.fit) for size in given.largest(divisors(given.dim))]


def _make_opq(given: _Given) -> list[VectorMethod]:
    return _make_pq(given, OptimizedProductQuantization)


def _make_rabitq(given: _Given) -> list[VectorMethod]:
    bits = {count_rabitq_bytes(given.dim, bits): bits for bits in RABITQ_BITS}
    return [RaBitQ(given.train, bits[size], given.similarity, given.fit) for size in given.largest(bits)]


_MAKERS: dict[str, Callable[[_Given], list[VectorMethod]]] = {
    "truncate": _make_truncation,
    "adapter": _make_adapters,
    "pca": _make_pca,
    "pq": _make_pq,
    "opq": _make_opq,
    "rabitq": _make_rabitq,
    "int8": _make_int8,
    "binary": _make_binary,
    "rotated": _make_rotated,
}


def _hash_rows(rows: np.ndarray) -> str:
    """Hash training embeddings, to tell fits apart."""
    return hashlib.blake2b(repr(rows.shape).encode() + rows.tobytes(), digest_size=6).hexdigest()
