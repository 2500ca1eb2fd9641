"""What a system is: built once, then searched at several settings, from fast to good.

Whatever changes what is stored is another system, so that each has one size and one build.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_BLOCK = 16_384
_SEED = 0


@dataclass(frozen=True)
class AdaptedHead:
    """A head that was trained on the documents."""

    head: CSRModel
    seconds: float
    """Of its training."""


@dataclass
class Corpus:
    """What all systems are given."""

    documents: np.ndarray
    """Unit norm, float32, shape (n, dim)."""
    threads: int
    folder: Path
    """For files that systems write."""
    head: CSRModel | None = None
    adapted: AdaptedHead | None = None

    @property
    def known_head(self) -> CSRModel:
        """The head.

        Raises:
            ValueError: if there is none.
        """
        if self.head is None:
            raise ValueError("this system searches codes. Name a head with --head.")
        return self.head

    @property
    def known_adapted(self) -> AdaptedHead:
        """The head that was trained on the documents.

        Raises:
            ValueError: if there is none.
        """
        if self.adapted is None:
            raise ValueError("no head was trained on the documents. Name the run of one with --adapted.")
        return self.adapted

    @property
    def working_bytes(self) -> int:
        """Memory that a build may well take."""
        return 2 * self.documents.nbytes

    def blocks(self) -> Iterator[np.ndarray]:
        """Give the documents, some rows at a time."""
        for start in range(0, len(self.documents), _BLOCK):
            yield self.documents[start : start + _BLOCK]

    def file_bytes(self, save: Callable[[Path], Any]) -> float:
        """Return the bytes a document of what `save` writes into the folder it is given."""
        with TemporaryDirectory(dir=self.folder) as folder:
            save(Path(folder))
            return sum(file.stat().st_size for file in Path(folder).rglob("*")) / len(self.documents)

    def sample(self, n: int) -> np.ndarray:
        """Draw at most n documents to train on."""
        rows = np.random.default_rng(_SEED).permutation(len(self.documents))[:n]
        return self.documents[np.sort(rows)]


class System(ABC):
    """One way to search: `build` once, then `search` at each of `settings`.

    Args:
        corpus: what is searched.
    """

    name: ClassVar[str]
    package: ClassVar[tuple[str, str] | None] = None
    """Module it needs, and the package to install."""
    needs_head: ClassVar[bool] = False
    """Whether it is built by a head."""
    values: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Parameters of a search, and the values to measure."""
    max_single: ClassVar[int | None] = None
    """Queries one by one, where `--single` of them would take too long."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.largest: dict[str, int] = {}
        """Of parameters, once built: values beyond are lowered to these."""

    def check(self) -> None:
        """Find out whether this system can be built here.

        Raises:
            ImportError: if its package is missing, with the line to type.
            ValueError: if it is built by a head, and there is none.
        """
        if self.package is not None:
            try:
                importlib.import_module(self.package[0])
            except ImportError as error:
                raise ImportError(f"{self.name} needs {self.package[1]}: pip install {self.package[1]}") from error
        if self.needs_head:
            _ = self.head

    @property
    def head(self) -> CSRModel:
        """The head that it is built by, see `needs_head`."""
        return self.corpus.known_head

    @property
    def seconds_before(self) -> float:
        """What its build needs of earlier work, in seconds."""
        return 0.0

    def warm_up(self) -> None:
        """Do once what the first build of a process does alone, such as compiling."""

    @abstractmethod
    def build(self) -> None:
        """Store the documents."""

    @abstractmethod
    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """Find the best documents.

        Args:
            queries: dense, unit norm, float32, shape (n, dim).
            top_k: documents of a query.
            **setting: one of `settings`.

        Returns:
            Positions, best first, -1 for none; integers, shape (n, top_k).
        """

    def search_one(self, query: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """Find the best documents of one query, shape (dim,)."""
        return self.search(query[None], top_k, **setting)[0]

    def search_among(self, allowed: np.ndarray | None, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """Find the best of some documents, a bool for each or None for all; otherwise as `search`.

        Raises:
            NotImplementedError: if it has no filters.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def bytes_per_document(self) -> float:
        """All that must be kept to search as measured."""

    def settings(self) -> list[dict[str, Any]]:
        """Combine all values of all parameters, from fast to good."""
        found: list[dict[str, Any]] = []
        for values in product(*self.values.values()):
            setting = {
                name: min(value, self.largest.get(name, value)) if isinstance(value, int | float) else value
                for name, value in zip(self.values, values, strict=True)
            }
            if setting not in found:
                found.append(setting)
        return found
