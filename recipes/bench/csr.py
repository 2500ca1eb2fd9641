"""csr_hf's index, with the stages that it offers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.search.rounding import COARSE_K
from systems import System


class CSRIndex(System):
    """csr_hf: finds candidates among the codes or signs of visited blocks, and ranks them by a copy.

    Dense queries come in; encoding them is in the time of a search.
    """

    needs_codes = True
    scan: ClassVar[Literal["binary"] | None] = None
    """Where candidates come from: signs, or the inverted lists."""
    copy: ClassVar[Literal["int8", "float16"] | None] = None
    """What ranks them; None: the codes themselves."""

    def build(self) -> None:
        given = self.corpus.encoded
        copies: list[Any] = [copy for copy in (self.scan, self.copy) if copy]
        self.index = InvertedIndex.build(
            given.codes, decoded_norms=given.norms, embeddings=self.corpus.documents, copies=copies
        )
        self.largest = {"candidates": len(self.corpus.documents)}
        # Latents choose the blocks of a scan, by the largest few; lists find candidates by more of them.
        k = given.codes.k
        self._query_k = min(k, COARSE_K) if self.scan else min(2 * k, given.codes.dim)

    def search(
        self, queries: np.ndarray, top_k: int, candidates: int = 300, nprobe: int | None = None, **setting: Any
    ) -> np.ndarray:
        threads = self.corpus.threads
        codes = self.corpus.encoded.query_encoder.codes(queries, self._query_k, threads=threads)
        params = SearchParams(rescore=self.copy, candidates=candidates, scan=self.scan, nprobe=nprobe, threads=threads)
        return self.index.search(codes, top_k, params, embeddings=queries).positions

    @property
    def bytes_per_document(self) -> float:
        return self.index.bytes_per_vector


class CSRSignsInt8(CSRIndex):
    """Signs find, int8 ranks."""

    name = "csr_hf, signs, int8"
    scan, copy = "binary", "int8"
    values: ClassVar = {"candidates": [300], "nprobe": [128, 256, 384, 512, 768, 1024, 1536, 2048, None]}


class CSRSignsFloat16(CSRIndex):
    """Signs find more, float16 ranks."""

    name = "csr_hf, signs, float16"
    scan, copy = "binary", "float16"
    values: ClassVar = {"candidates": [300, 1000], "nprobe": [256, 512, 768, 1024, 2048, None]}


class CSRListsInt8(CSRIndex):
    """Inverted lists find, int8 ranks."""

    name = "csr_hf, lists, int8"
    copy = "int8"
    values: ClassVar = {"candidates": [300, 1000], "nprobe": [512, 1024, 2048, None]}


class CSRCodesAlone(CSRIndex):
    """Codes find and rank: no copy of the embeddings is kept."""

    name = "csr_hf, codes alone"
    values: ClassVar = {"nprobe": [512, None]}
