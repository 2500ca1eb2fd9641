"""The systems that csr_hf is compared with, each with the parameters that its authors or users recommend."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from systems import System


class _Faiss(System):
    """An index of faiss, whose bytes are those of its file."""

    package = ("faiss", "faiss-cpu")
    index: Any

    def build(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.corpus.threads)
        self.index = self.make()
        if not self.index.is_trained:
            self.index.train(self.corpus.sample(300_000))
        for rows in self.corpus.blocks():
            self.index.add(rows)

    @abstractmethod
    def make(self) -> Any:
        """Return the empty index."""

    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        return self.index.search(queries, top_k)[1]

    @property
    def bytes_per_document(self) -> float:
        import faiss

        return self.corpus.file_bytes(lambda folder: faiss.write_index(self.index, str(folder / "index")))


class FaissFlat(_Faiss):
    """All inner products, exactly."""

    name = "faiss flat"
    max_single = 20

    def make(self) -> Any:
        import faiss

        return faiss.IndexFlatIP(self.corpus.documents.shape[1])


class FaissHNSW(_Faiss):
    """A graph of 32 links a document (64 at its bottom) over float32 embeddings; efConstruction 80."""

    name = "faiss HNSW32"
    values: ClassVar = {"ef": [48, 64, 96, 128, 160, 192, 256, 384]}

    def make(self) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(self.corpus.documents.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 80
        return index

    def search(self, queries: np.ndarray, top_k: int, ef: int, **setting: Any) -> np.ndarray:
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, top_k)[1]


class FaissIVFPQ(_Faiss):
    """Four bits for each four dimensions, compared with shuffles of bytes in visited lists; a byte a dimension ranks.

    At 384 dimensions and 160,000 documents or more it is faiss's "IVF4096,PQ96x4fs,Refine(SQ8)".
    """

    name = "faiss IVF-PQ fast scan + SQ8"
    values: ClassVar = {"k_factor": [30, 60], "nprobe": [64, 96, 128, 192, 256, 384, 512, 768]}

    def make(self) -> Any:
        import faiss

        n, dim = self.corpus.documents.shape
        lists = max(1, min(4096, n // 39))
        parts = max(count for count in range(1, dim // 4 + 1) if dim % count == 0)
        self.largest = {"nprobe": lists}
        return faiss.index_factory(dim, f"IVF{lists},PQ{parts}x4fs,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT)

    def search(self, queries: np.ndarray, top_k: int, nprobe: int, k_factor: int, **setting: Any) -> np.ndarray:
        import faiss

        faiss.ParameterSpace().set_index_parameters(self.index, f"nprobe={nprobe},k_factor_rf={k_factor}")
        return self.index.search(queries, top_k)[1]


class Scann(System):
    """ScaNN: 2 sqrt(n) leaves with spilling (SOAR), anisotropic quantization, and an int8 copy that ranks."""

    name = "ScaNN"
    package = ("scann", "scann==1.4.2")
    values: ClassVar = {"leaves": [15, 20, 30, 40, 60, 80, 120, 160], "reorder": [100]}

    def build(self) -> None:
        from scann.scann_ops.py import scann_ops_pybind

        n = len(self.corpus.documents)
        leaves = max(1, round(2 * n**0.5))
        tree = {"num_leaves": leaves, "num_leaves_to_search": max(1, leaves // 40), "quantize_centroids": True}
        spilling = {"soar_lambda": 1.5, "overretrieve_factor": 2.0}
        self.index: Any = (
            scann_ops_pybind.builder(self.corpus.documents, 10, "dot_product")
            .tree(**tree, **spilling, training_sample_size=min(n, 250_000))
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(100, quantize=True)
            .set_n_training_threads(self.corpus.threads)
            .build()
        )
        self.index.set_num_threads(self.corpus.threads)
        self.largest = {"leaves": leaves, "reorder": n}

    def search(self, queries: np.ndarray, top_k: int, leaves: int, reorder: int, **setting: Any) -> np.ndarray:
        options = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": reorder}
        return self.index.search_batched_parallel(queries, top_k, **options)[0].astype(np.int64)

    def search_one(self, query: np.ndarray, top_k: int, leaves: int, reorder: int, **setting: Any) -> np.ndarray:
        options = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": reorder}
        return self.index.search(query, top_k, **options)[0]

    @property
    def bytes_per_document(self) -> float:
        return self.corpus.file_bytes(lambda folder: self.index.serialize(str(folder)))


class _RaBitQ(System):
    """An index of rabitqlib, whose bytes are those of its file."""

    package = ("rabitqlib", "rabitqlib==0.7.1")
    index: Any

    def search(self, queries: np.ndarray, top_k: int, **setting: Any) -> np.ndarray:
        threads = min(self.corpus.threads, len(queries))
        return np.asarray(self.index.search(queries, k=top_k, num_threads=threads, **setting)[0], np.int64)

    @property
    def bytes_per_document(self) -> float:
        return self.corpus.file_bytes(lambda folder: self.index.save(str(folder / "index")))


class SymphonyQG(_RaBitQ):
    """A graph of degree 32 that holds quantized neighbors beside each document; 8 bits a dimension rank."""

    name = "SymphonyQG"
    values: ClassVar = {"ef": [32, 48, 64, 96, 128, 200, 320, 500]}

    def build(self) -> None:
        from rabitqlib import SymqgIndex

        self.index = SymqgIndex(self.corpus.documents.shape[1], 32, metric="ip", quantization_bits=8)
        self.index.build(self.corpus.documents, ef_construction=200, num_threads=self.corpus.threads)


class IVFRaBitQ(_RaBitQ):
    """Inverted lists of RaBitQ's codes of 8 bits a dimension."""

    name = "IVF-RaBitQ"
    values: ClassVar = {"nprobe": [64, 96, 128, 192, 256, 384, 512, 768]}

    def build(self) -> None:
        from rabitqlib import FinalAssignmentMode, IvfIndex, RaBitQKMeans

        n, dim = self.corpus.documents.shape
        lists, threads = max(1, min(4096, n // 39)), self.corpus.threads
        exact = FinalAssignmentMode.Exact
        clusters = RaBitQKMeans(dim, lists, num_threads=threads, final_assignment=exact)
        clusters.train(self.corpus.documents)
        self.index = IvfIndex(dim=dim, max_elements=n, num_clusters=lists, nbits=8, metric="ip")
        self.index.build(self.corpus.documents, clusters.centroids, clusters.assignments, num_threads=threads)
        self.largest = {"nprobe": lists}
