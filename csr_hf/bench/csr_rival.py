"""Our index as a contestant, over the codes of one head or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from csr_hf.bench.contest import Cost, cost_of
from csr_hf.bench.rivals import Corpus, Rival
from csr_hf.search.copies import copy_bytes
from csr_hf.search.index import InvertedIndex
from csr_hf.search.rounding import COARSE_K
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_RESCORE = "int8"
"""Copies that rank what is found, unless the sweep names others."""


class CSRIndex(Rival):
    """Our index: the largest projections of the query, or signs, find candidates, copies rank them."""

    name = "csr_hf"
    uses_codes = True
    other_head: ClassVar[CSRModel | None] = None
    """Makes the codes in place of the corpus's head."""
    other_k: ClassVar[int | None] = None
    """Latents that it keeps of a document; None is its own k."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus if self.other_head is None else corpus.encoded_by(self.other_head, self.other_k))

    @classmethod
    def of_heads(cls, heads: Sequence[CSRModel], k: int | None) -> list[type[CSRIndex]]:
        """The same contestant over the codes of other heads, each by a name of its own."""
        names = [f"{cls.name}, {head.config.hidden_dim:,} latents" for head in heads]
        counts = [names[:at].count(name) for at, name in enumerate(names)]
        names = [f"{name} ({count + 1})" if count else name for name, count in zip(names, counts, strict=True)]
        return [
            type(cls.__name__, (cls,), {"name": name, "other_head": head, "other_k": k})
            for name, head in zip(names, heads, strict=True)
        ]

    def build(self) -> None:
        """Lists, signs and a copy that ranks; an index for each such copy."""
        corpus = self.corpus
        self.indices: dict[str, InvertedIndex] = {}
        self._costs: dict[str, Cost] = {}

        def build_with(copy: Any) -> None:
            self.indices[copy] = InvertedIndex.build(
                corpus.codes,
                decoded_norms=corpus.norms,
                embeddings=corpus.documents,
                copies=tuple(dict.fromkeys(["binary", copy])),
            )

        for copy in corpus.sweep.get("rescore", [_RESCORE]):
            self._costs[copy] = cost_of(partial(build_with, copy), corpus.working_bytes)

    def settings(self) -> list[dict[str, Any]]:
        """Latents of a query, candidates (0 ranks by codes alone), scans of signs, and whatever else is swept."""
        corpus = self.corpus
        query_ks = query_ks_of(corpus)
        depths = list(dict.fromkeys(min(count, len(corpus.documents)) for count in corpus.candidates))
        found: list[dict[str, Any]] = [{"query_k": k, "candidates": depth} for depth in [0, *depths] for k in query_ks]
        # Latents only choose the blocks of a scan, so many of them at most.
        few = min(query_ks[0], COARSE_K)
        found += [{"scan": "binary", "query_k": few, "candidates": depth} for depth in depths]
        swept = [dict(zip(corpus.sweep, values, strict=True)) for values in product(*corpus.sweep.values())]
        every = [{**setting, **others} for setting in found for others in swept]
        for setting in every:
            if not setting["candidates"]:
                setting.pop("rescore", None)
        return [setting for at, setting in enumerate(every) if setting not in every[:at]]

    def search(
        self, queries: np.ndarray, top_k: int, query_k: int = 32, candidates: int = 0, **setting: Any
    ) -> np.ndarray:
        """As `Rival.search`; further settings are passed to `InvertedIndex.search`."""
        codes = asked_codes(self.corpus, queries, query_k)
        options: dict[str, Any] = {"threads": self.corpus.threads, **setting}
        if candidates:
            options = {"rescore": _RESCORE, **options, "candidates": candidates, "embeddings": queries}
        return self.indices[self._copy_of(setting)].search(codes, top_k, **options).positions

    @property
    def bytes_per_vector(self) -> float:
        """Code, norm, postings and copies, with the first of the copies that rank."""
        return next(iter(self.indices.values())).bytes_per_vector

    def bytes_of(self, setting: Mapping[str, Any]) -> float:
        """Without copies that the setting does not read."""
        index, dim = self.indices[self._copy_of(setting)], self.corpus.documents.shape[1]
        read = {setting.get("scan"), setting.get("rescore", _RESCORE) if setting["candidates"] else None}
        return index.bytes_per_vector - sum(copy_bytes(copy, dim) for copy in index.copies if copy not in read)

    def cost_of(self, setting: Mapping[str, Any], whole: Cost) -> Cost:
        """Of the index that this setting searches."""
        return self._costs[self._copy_of(setting)]

    def _copy_of(self, setting: Mapping[str, Any]) -> str:
        return setting.get("rescore") or next(iter(self.indices))


def query_ks_of(corpus: Corpus) -> list[int]:
    """Latents of a query, in ascending order, none beyond the head's."""
    return sorted({min(corpus.codes.k * factor, corpus.codes.dim) for factor in corpus.query_k_factors})


def asked_codes(corpus: Corpus, queries: np.ndarray, query_k: int) -> SparseCodes:
    """Codes of dense queries."""
    return corpus.query_encoder.codes(queries, query_k, threads=corpus.threads)
