"""What every contestant of a search contest is, and those that store dense embeddings."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from csr_hf.bench.contest import Cost
from csr_hf.codes import decoded_norms, encode_embeddings
from csr_hf.search.query_encoder import QueryEncoder

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

_BLOCK = 16_384
_LINKS, _EF_BUILD = 32, 80
_EFS = (16, 32, 48, 64, 96, 128, 192, 256, 512)


class OverBudgetError(RuntimeError):
    """Building would take longer than is allowed."""


@dataclass
class Corpus:
    """What all contestants are given."""

    documents: np.ndarray
    """Of unit norm, float32, shape (n, dim); may be memory-mapped."""
    head: CSRModel
    codes: SparseCodes
    """Of the documents, with least-squares values, float16."""
    norms: np.ndarray
    """Of the decoded codes, float32, shape (n,)."""
    threads: int
    budget: float
    """Seconds that a build may take."""
    folder: Path
    """For what contestants write."""
    query_k_factors: Sequence[int] = (1, 2, 4)
    """Queries keep these many times k latents."""
    candidates: Sequence[int] = (100, 300, 1000)
    """Documents that a first stage over codes hands to the second."""
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further options of `InvertedIndex.search`, and the values to try."""

    @cached_property
    def query_encoder(self) -> QueryEncoder:
        """Of the head."""
        return QueryEncoder(self.head.dictionary.numpy(force=True), self.codes.head_fingerprint)

    @property
    def working_bytes(self) -> int:
        """Memory that a build may well take: what `contest.cost_of` has at hand for it."""
        return 2 * self.documents.nbytes

    def encoded_by(self, head: CSRModel, k: int | None) -> Corpus:
        """The same documents with the codes of another head; see `document_codes`."""
        codes, norms = document_codes(head, self.documents, k)
        return replace(self, head=head, codes=codes, norms=norms)

    def blocks(self) -> Iterator[slice]:
        """Rows to add, some at a time.

        Raises:
            OverBudgetError: once the time so far says that all of them would take longer than the budget.
        """
        began, n = time.perf_counter(), len(self.documents)
        for start in range(0, n, _BLOCK):
            end = min(start + _BLOCK, n)
            yield slice(start, end)
            expected = (time.perf_counter() - began) * n / end
            # The very first rows tell little: they include what is done once.
            if end >= n / 20 and expected > self.budget:
                raise OverBudgetError(
                    f"building would take about {expected:,.0f} s, and the budget is {self.budget:,.0f} (--budget)"
                )


def document_codes(head: CSRModel, documents: np.ndarray, k: int | None) -> tuple[SparseCodes, np.ndarray]:
    """Codes of documents with least-squares values, of k latents, default the head's; and the norms they decode to."""
    codes = encode_embeddings(head, documents, k, refine=True, dtype="float16")
    return codes, decoded_norms(head, codes)


class Rival(ABC):
    """One way to search; `build` once, then `search` with each of `settings`.

    Args:
        corpus: what is searched.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, str] | None] = None
    """Module it cannot do without, and what pip calls it."""
    uses_codes: ClassVar[bool] = False
    """Whether it is built from the documents' codes."""
    most_queries: ClassVar[int | None] = None
    """Queries of a batch, where all would take too long."""
    most_singles: ClassVar[int | None] = None
    """Queries one by one, likewise."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    @classmethod
    def check(cls) -> None:
        """Find out whether its package is installed.

        Raises:
            ImportError: if not, with the line to type.
        """
        if cls.needs is None:
            return
        module, package = cls.needs
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f'{cls.name} needs {package}: pip install "csr_hf[bench]"') from error

    @abstractmethod
    def build(self) -> None:
        """Store the documents."""

    def settings(self) -> list[dict[str, Any]]:
        """What to try, from fast to good."""
        return [{}]

    @abstractmethod
    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """Positions of the best documents, best first, -1 for none.

        Args:
            queries: dense, unit norm, float32, shape (n, dim).
            top_k: documents of a query.
            **setting: one of `settings`.

        Returns:
            Integers, shape (n, top_k).
        """

    def search_one(self, query: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """The same for one query, shape (dim,)."""
        return self.search(query[None], top_k, **setting)[0]

    @property
    @abstractmethod
    def bytes_per_vector(self) -> float:
        """All that is kept for a document."""

    def bytes_of(self, setting: Mapping[str, Any]) -> float:
        """What a setting needs of that."""
        return self.bytes_per_vector

    def cost_of(self, setting: Mapping[str, Any], whole: Cost) -> Cost:
        """What building took for this setting, if building for all took that."""
        return whole

    def close(self) -> None:
        """Let go of what is open."""
        return None


class FaissFlat(Rival):
    """All inner products, exactly."""

    name = "faiss flat"
    needs = ("faiss", "faiss-cpu")

    def build(self) -> None:
        """A copy of the embeddings."""
        import faiss

        faiss.omp_set_num_threads(self.corpus.threads)
        self.index = faiss.IndexFlatIP(self.corpus.documents.shape[1])
        for rows in self.corpus.blocks():
            self.index.add(self.corpus.documents[rows])

    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        return self.index.search(queries, top_k)[1]

    @property
    def bytes_per_vector(self) -> float:
        """Four a dimension."""
        return 4.0 * self.corpus.documents.shape[1]


class FaissHNSW(Rival):
    """A graph of 32 links a document, twice that at the bottom; ef of 80 while it is built."""

    name = "faiss HNSW"
    needs = ("faiss", "faiss-cpu")

    def build(self) -> None:
        """Documents one after the other."""
        import faiss

        faiss.omp_set_num_threads(self.corpus.threads)
        self.index: Any = faiss.IndexHNSWFlat(self.corpus.documents.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = _EF_BUILD
        for rows in self.corpus.blocks():
            self.index.add(self.corpus.documents[rows])

    def settings(self) -> list[dict[str, Any]]:
        """How many documents the search keeps in view."""
        return [{"ef": ef} for ef in _EFS]

    def search(self, queries: np.ndarray, top_k: int, ef: int = 64, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, top_k)[1]

    @property
    def bytes_per_vector(self) -> float:
        """The embedding and its links."""
        hnsw = self.index.hnsw
        links = 4 * hnsw.neighbors.size() + 8 * hnsw.offsets.size() + 4 * hnsw.levels.size()
        return 4.0 * self.corpus.documents.shape[1] + links / len(self.corpus.documents)


class HnswLib(Rival):
    """The same graph by the library of its authors."""

    name = "hnswlib"
    needs = ("hnswlib", "hnswlib")

    def build(self) -> None:
        """Documents one after the other."""
        import hnswlib

        n, dim = self.corpus.documents.shape
        self.index = hnswlib.Index(space="ip", dim=dim)
        self.index.init_index(max_elements=n, M=_LINKS, ef_construction=_EF_BUILD, random_seed=0)
        self.index.set_num_threads(self.corpus.threads)
        for rows in self.corpus.blocks():
            self.index.add_items(self.corpus.documents[rows], np.arange(rows.start, rows.stop))

    def settings(self) -> list[dict[str, Any]]:
        """How many documents the search keeps in view."""
        return [{"ef": ef} for ef in _EFS]

    def search(self, queries: np.ndarray, top_k: int, ef: int = 64, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        self.index.set_ef(ef)
        return self.index.knn_query(queries, k=top_k)[0].astype(np.int64)

    @property
    def bytes_per_vector(self) -> float:
        """As it would be saved."""
        return self.index.index_file_size() / len(self.corpus.documents)


class USearch(Rival):
    """The same graph, float32 too."""

    name = "usearch"
    needs = ("usearch", "usearch")

    def build(self) -> None:
        """Documents one after the other."""
        from usearch.index import Index

        options: dict[str, Any] = {"connectivity": _LINKS, "expansion_add": _EF_BUILD}
        self.index: Any = Index(ndim=self.corpus.documents.shape[1], metric="ip", dtype="f32", **options)
        for rows in self.corpus.blocks():
            keys = np.arange(rows.start, rows.stop, dtype=np.uint64)
            self.index.add(keys, self.corpus.documents[rows], threads=self.corpus.threads)

    def settings(self) -> list[dict[str, Any]]:
        """How many documents the search keeps in view."""
        return [{"ef": ef} for ef in _EFS]

    def search(self, queries: np.ndarray, top_k: int, ef: int = 64, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        self.index.expansion_search = ef
        found = self.index.search(queries, top_k, threads=self.corpus.threads)
        return np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)

    @property
    def bytes_per_vector(self) -> float:
        """As it would be saved."""
        return float(self.index.serialized_length) / len(self.corpus.documents)


class MilvusLite(Rival):
    """The embedded form of Milvus, through its client, with the same graph."""

    name = "Milvus Lite"
    needs = ("milvus_lite", "pymilvus[milvus-lite]")
    most_queries = 64
    most_singles = 8

    def build(self) -> None:
        """A collection in a file."""
        from pymilvus import DataType, MilvusClient

        self.file = self.corpus.folder / "milvus.db"
        self.client = MilvusClient(str(self.file))
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.corpus.documents.shape[1])
        parameters = self.client.prepare_index_params()
        graph = {"M": _LINKS, "efConstruction": _EF_BUILD}
        parameters.add_index("vector", index_type="HNSW", metric_type="IP", params=graph)
        self.client.create_collection("documents", schema=schema, index_params=parameters)
        for rows in self.corpus.blocks():
            # The client takes rows one dictionary each, and messages of limited size.
            for start in range(rows.start, rows.stop, 4096):
                numbers = range(start, min(start + 4096, rows.stop))
                self.client.insert("documents", [{"id": i, "vector": self.corpus.documents[i]} for i in numbers])
        self.client.flush("documents")
        self.client.load_collection("documents")

    def settings(self) -> list[dict[str, Any]]:
        """How many documents the search keeps in view."""
        return [{"ef": ef} for ef in _EFS]

    def search(self, queries: np.ndarray, top_k: int, ef: int = 64, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        options = {"params": {"ef": ef}}
        found = self.client.search("documents", data=list(queries), limit=top_k, search_params=options)
        return padded([[hit["id"] for hit in hits] for hits in found], top_k)

    @property
    def bytes_per_vector(self) -> float:
        """As its files take."""
        files = [self.file] if self.file.is_file() else [path for path in self.file.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / len(self.corpus.documents)

    def close(self) -> None:
        """Close the client."""
        self.client.close()


def padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Rows of positions as one array, int64, shape (n, width); -1 where there are none."""
    found = np.full((len(rows), width), -1, np.int64)
    for row, positions in zip(found, rows, strict=True):
        row[: len(positions)] = positions[:width]
    return found
