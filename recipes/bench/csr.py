"""csr_hf's index, built from embeddings by a head that exists, and searched as `csr-hf search` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from csr_hf.coding.fitting import fit_index_coder
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from systems import System

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_WARM_UP = 5000


class CSRIndex(System):
    """Packed codes with residuals, in the sizes that `csr-hf index` takes.

    Fitting the residual, encoding, partitions and the measurement of recalls are all part of the build.
    """

    name = "csr_hf"
    needs_head = True
    values: ClassVar = {"recall": [0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]}
    row_bytes: ClassVar[int | None] = None
    residual_bytes: ClassVar[int | None] = None
    copies: ClassVar[tuple[Literal["float16"], ...]] = ()
    exact: ClassVar[bool] = False

    @property
    def head(self) -> CSRModel:
        """The head that makes the codes."""
        return self.corpus.known_head

    def warm_up(self) -> None:
        """Compile what is compiled at its first call."""
        small = self._build(self.corpus.documents[:_WARM_UP])
        self._search(small, self.corpus.documents[:2], 1)

    def build(self) -> None:
        self.index = self._build(self.corpus.documents)

    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        return self._search(self.index, queries, top_k, **setting)

    def search_among(self, allowed: np.ndarray | None, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        return self._search(self.index, queries, top_k, allowed=allowed, **setting)

    def _build(self, documents: np.ndarray) -> InvertedIndex:
        sizes = {} if self.row_bytes is None else {"row_bytes": self.row_bytes}
        coder = fit_index_coder(self.head, documents, residual_bytes=self.residual_bytes, **sizes)
        return InvertedIndex.build(documents, coder, copies=self.copies)

    def _search(
        self,
        index: InvertedIndex,
        queries: np.ndarray,
        top_k: int,
        allowed: np.ndarray | None = None,
        **setting: Any,
    ) -> np.ndarray:
        params = SearchParams(**setting, exact=self.exact, threads=self.corpus.threads)
        return index.search(queries, top_k, params, allowed=allowed).positions

    @property
    def bytes_per_document(self) -> float:
        return self.corpus.file_bytes(self.index.save)


class CSRFine(CSRIndex):
    """Residuals of a byte for each dimension, which are nearly exact."""

    name = "csr_hf, a byte a dimension"
    residual_bytes = 1 << 16


class CSRSmall(CSRIndex):
    """Smaller residuals: the fewest bytes that reach a recall of 0.95."""

    name = "csr_hf, 3 bits a dimension"
    residual_bytes = 146


class CSRFloat16(CSRIndex):
    """The same, and float16 copies of the embeddings that rank the candidates."""

    name = "csr_hf, float16 copies"
    copies = ("float16",)


class CSRCodesAlone(CSRIndex):
    """Sparse codes alone, without residuals: all documents ranked through inverted lists, as engines do."""

    name = "csr_hf, codes alone"
    values: ClassVar = {}
    residual_bytes = 0
    exact = True


class CSRAdapted(CSRIndex):
    """The same as csr_hf, with a head that was trained on the documents; the training is part of the build."""

    name = "csr_hf, adapted head"

    @property
    def head(self) -> CSRModel:
        return self.corpus.known_adapted.head

    @property
    def seconds_before(self) -> float:
        """The training of the head."""
        return self.corpus.known_adapted.seconds
