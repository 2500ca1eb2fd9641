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
from typing import Any, ClassVar

import numpy as np

from codes import DocumentCodes

_BLOCK = 16_384
_SEED = 0


@dataclass
class Corpus:
    """What all systems are given."""

    documents: np.ndarray
    """Unit norm, float32, shape (n, dim)."""
    threads: int
    folder: Path
    """For files that systems write."""
    codes: DocumentCodes | None = None
    """Where a head is given."""

    @property
    def encoded(self) -> DocumentCodes:
        """The codes.

        Raises:
            ValueError: if there is no head.
        """
        if self.codes is None:
            raise ValueError("this system searches codes. Name a head with --head.")
        return self.codes

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
    needs_codes: ClassVar[bool] = False
    """Whether it is built from codes, so that encoding them is part of its build."""
    values: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Parameters of a search, and the values to measure; None is no limit."""
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
            ValueError: if it is built from codes and there is no head.
        """
        if self.package is not None:
            try:
                importlib.import_module(self.package[0])
            except ImportError as error:
                raise ImportError(f"{self.name} needs {self.package[1]}: pip install {self.package[1]}") from error
        if self.needs_codes:
            _ = self.corpus.encoded

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

    @property
    @abstractmethod
    def bytes_per_document(self) -> float:
        """All that must be kept to search as measured."""

    def settings(self) -> list[dict[str, Any]]:
        """Combine all values of all parameters, from fast to good."""
        found: list[dict[str, Any]] = []
        for values in product(*self.values.values()):
            setting = {
                name: value if value is None else min(value, self.largest.get(name, value))
                for name, value in zip(self.values, values, strict=True)
            }
            if setting not in found:
                found.append(setting)
        return found
