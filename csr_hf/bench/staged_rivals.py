"""Contestants that search codes, and those that hand what they find to a second stage over int8 copies.

The second stage is ours for all of them, so that the contest is between the first ones. Dense queries go in
everywhere: what a contestant makes of them is in its time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from csr_hf.bench.csr_rival import asked_codes, query_ks_of
from csr_hf.bench.rivals import Corpus, Rival, padded
from csr_hf.search.copies import copy_bytes
from csr_hf.search.index import InvertedIndex
from csr_hf.sparse_codes import SparseCodes

_CANDIDATES = (100, 300, 1000)
_NORM_BYTES = 4


class Int8Stage:
    """Int8 copies of the documents, and the order in which they put candidates."""

    def __init__(self, corpus: Corpus) -> None:
        # An index of one latent a document: the second stage of the real one, and next to nothing of the first.
        codes = corpus.codes.truncate(1)
        self._index = InvertedIndex.build(codes, embeddings=corpus.documents, copies=["int8"])
        self._threads = corpus.threads
        self.bytes_per_vector = copy_bytes("int8", corpus.documents.shape[1])

    def best(self, queries: np.ndarray, candidates: np.ndarray, top_k: int) -> np.ndarray:
        """Positions of the best candidates, best first; arguments and result as of `InvertedIndex.rescore`."""
        scores = self._index.rescore(candidates, "int8", embeddings=queries, threads=self._threads)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return np.take_along_axis(candidates, order, axis=1)


class ScipyCSR(Rival):
    """The product of two sparse matrices of the same codes: their scores, without a second stage."""

    name = "scipy CSR"
    needs = ("scipy", "scipy")
    uses_codes = True
    most_queries = 64
    most_singles = 16

    def build(self) -> None:
        """Documents as columns."""
        self.documents = scaled(self.corpus).to_scipy().T.tocsr()

    def settings(self) -> list[dict[str, Any]]:
        """Latents of a query."""
        return [{"query_k": k} for k in query_ks_of(self.corpus)]

    def search(self, queries: np.ndarray, top_k: int, query_k: int = 32, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        asked = asked_codes(self.corpus, queries, query_k).to_scipy()
        scores = (asked @ self.documents).tocsr()
        rows = []
        for row in range(len(queries)):
            places = slice(scores.indptr[row], scores.indptr[row + 1])
            values, positions = scores.data[places], scores.indices[places]
            best = np.argpartition(-values, top_k)[:top_k] if len(values) > top_k else np.arange(len(values))
            rows.append(positions[best[np.argsort(-values[best], kind="stable")]])
        return padded(rows, top_k)

    @property
    def bytes_per_vector(self) -> float:
        """Of the matrix."""
        matrix = self.documents
        return (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / len(self.corpus.documents)


class SentenceTransformersSimilarity(Rival):
    """What `SparseEncoder.similarity` computes of the same codes, and a top-k: without a second stage."""

    name = "sentence-transformers"
    uses_codes = True
    most_queries = 8
    most_singles = 2

    def build(self) -> None:
        """A sparse tensor, as its encoder gives."""
        self.documents = scaled(self.corpus).to_torch()

    def settings(self) -> list[dict[str, Any]]:
        """Latents of a query."""
        return [{"query_k": query_ks_of(self.corpus)[-1]}]

    def search(self, queries: np.ndarray, top_k: int, query_k: int = 32, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        import torch
        from sentence_transformers.util import dot_score

        asked = asked_codes(self.corpus, queries, query_k).to_torch()
        return torch.topk(dot_score(asked, self.documents), top_k, dim=1).indices.numpy()

    @property
    def bytes_per_vector(self) -> float:
        """Two 64-bit coordinates and a value for each latent."""
        return self.documents._nnz() * (2 * 8 + 4) / len(self.corpus.documents)


class Seismic(Rival):
    """Seismic over the same codes, with its own defaults; the same second stage ranks what it finds."""

    name = "Seismic + int8"
    needs = ("seismic", "pyseismic-lsr")
    uses_codes = True

    def build(self) -> None:
        """Its index, through a file of its format, and the copies."""
        import seismic

        file = self.corpus.folder / "seismic.bin"
        _write_seismic(scaled(self.corpus), file)
        with _quiet_output():
            self.index = seismic.SeismicIndexRaw.build(str(file))
            self.index.save(str(self.corpus.folder / "seismic"))
        file.unlink()
        # Whatever ending its versions give the file.
        saved = list(self.corpus.folder.glob("seismic*"))
        self._size = sum(path.stat().st_size for path in saved)
        for path in saved:
            path.unlink()
        self.second = Int8Stage(self.corpus)

    def settings(self) -> list[dict[str, Any]]:
        """Latents of a query that open lists, how far below the best a block may be, and candidates."""
        cuts = [(8, 0.9), (16, 0.9), (32, 0.8), (64, 0.7)]
        query_k = query_ks_of(self.corpus)[-1]
        depths = dict.fromkeys(min(count, len(self.corpus.documents)) for count in self.corpus.candidates)
        return [
            {"query_k": query_k, "cut": min(cut, query_k), "heap_factor": factor, "candidates": depth}
            for depth in depths
            for cut, factor in dict.fromkeys((min(cut, query_k), factor) for cut, factor in cuts)
        ]

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        query_k: int = 32,
        cut: int = 32,
        heap_factor: float = 0.8,
        candidates: int = 300,
        **setting: Any,
    ) -> np.ndarray:
        """As `Rival.search`."""
        codes = asked_codes(self.corpus, queries, query_k)
        if len(codes) == 1:
            order = np.argsort(codes.indices[0])
            latents, values = codes.indices[0][order].astype(np.int32), codes.values[0][order]
            found = [self.index.search(latents, values, candidates, cut, heap_factor, 0, True)]
        else:
            # Batches of numbered latents it takes from files alone.
            file = self.corpus.folder / "seismic-queries.bin"
            _write_seismic(codes, file)
            found = self.index.batch_search(
                str(file), candidates, cut, heap_factor, 0, True, num_threads=self.corpus.threads
            )
        positions = padded([[position for _, position in hits] for hits in found], candidates)
        return self.second.best(queries, positions, top_k)

    @property
    def bytes_per_vector(self) -> float:
        """As it is saved, and the copy."""
        return self._size / len(self.corpus.documents) + self.second.bytes_per_vector


class FaissIVFPQ(Rival):
    """Product quantization to the bytes of a code behind a coarse quantizer; alone, or before the second stage."""

    name = "faiss IVF-PQ"
    needs = ("faiss", "faiss-cpu")

    def build(self) -> None:
        """Trained on forty documents a list."""
        import faiss

        documents = self.corpus.documents
        n, dim = documents.shape
        faiss.omp_set_num_threads(self.corpus.threads)
        lists = max(1, min(2 ** round(np.log2(4 * n**0.5)), n // 39))
        wanted = self.corpus.codes.nbytes // n + _NORM_BYTES
        parts = max(size for size in range(1, dim + 1) if dim % size == 0 and size <= wanted)
        # "np": without the order of centroids that only polysemous searches use, and which takes minutes to find.
        self.index = cast(Any, faiss.index_factory(dim, f"IVF{lists},PQ{parts}np", faiss.METRIC_INNER_PRODUCT))
        # Fewer than faiss would like are no reason for a line on the terminal.
        self.index.cp.min_points_per_centroid = self.index.pq.cp.min_points_per_centroid = 1
        # As many rows and rounds as for the product quantization that quality is compared with elsewhere.
        self.index.pq.cp.max_points_per_centroid, self.index.pq.cp.niter = 40, 15
        rows = np.random.default_rng(0).permutation(n)[: max(40 * lists, 10_240)]
        self.index.train(documents[np.sort(rows)])
        for block in self.corpus.blocks():
            self.index.add(documents[block])
        self._bytes = float(self.index.code_size + 8)
        self.second = Int8Stage(self.corpus)

    def settings(self) -> list[dict[str, Any]]:
        """Lists that are searched, and candidates; 0 ranks by what is quantized alone."""
        probes = [count for count in (4, 16, 64, 256) if count < self.index.nlist] or [1]
        return [{"nprobe": count, "candidates": depth} for depth in (0, *_depths(self.corpus)) for count in probes]

    def search(
        self, queries: np.ndarray, top_k: int, nprobe: int = 16, candidates: int = 0, **setting: Any
    ) -> np.ndarray:
        """As `Rival.search`."""
        self.index.nprobe = nprobe
        found = self.index.search(queries, candidates or top_k)[1]
        return self.second.best(queries, found, top_k) if candidates else found

    @property
    def bytes_per_vector(self) -> float:
        """Code and number of a document, and the copy."""
        return self._bytes + self.second.bytes_per_vector


class FaissBinary(Rival):
    """Signs, compared one by one by their Hamming distance; the second stage ranks the nearest."""

    name = "faiss binary + int8"
    needs = ("faiss", "faiss-cpu")

    def build(self) -> None:
        """Signs and copies."""
        import faiss

        faiss.omp_set_num_threads(self.corpus.threads)
        # Eight signs are a byte; what is missing of the last one is alike in all.
        self._width = -(-self.corpus.documents.shape[1] // 8)
        self.index = faiss.IndexBinaryFlat(8 * self._width)
        for rows in self.corpus.blocks():
            self.index.add(np.packbits(self.corpus.documents[rows] > 0, axis=1))
        self.second = Int8Stage(self.corpus)

    def settings(self) -> list[dict[str, Any]]:
        """Candidates."""
        return [{"candidates": depth} for depth in _depths(self.corpus)]

    def search(self, queries: np.ndarray, top_k: int, candidates: int = 300, **setting: Any) -> np.ndarray:
        """As `Rival.search`."""
        found = self.index.search(np.packbits(queries > 0, axis=1), candidates)[1]
        return self.second.best(queries, found, top_k)

    @property
    def bytes_per_vector(self) -> float:
        """Signs and copy."""
        return self._width + self.second.bytes_per_vector


def scaled(corpus: Corpus) -> SparseCodes:
    """Codes divided by the norms of what they decode to: their inner products are the scores of our first stage."""
    norms = np.where(corpus.norms > 0, corpus.norms, 1)[:, None]
    values = corpus.codes.values.astype(np.float32) / norms
    return SparseCodes(corpus.codes.indices, values, corpus.codes.dim, corpus.codes.head_fingerprint, check=False)


def _depths(corpus: Corpus) -> list[int]:
    return list(dict.fromkeys(min(count, len(corpus.documents)) for count in _CANDIDATES))


def _write_seismic(codes: SparseCodes, path: Any) -> None:
    """As Seismic reads them: the number of rows, and of each its length, ascending latents and their values."""
    n, k = codes.indices.shape
    order = np.argsort(codes.indices, axis=1)
    records = np.empty((n, 1 + 2 * k), np.uint32)
    records[:, 0] = k
    records[:, 1 : 1 + k] = np.take_along_axis(codes.indices, order, axis=1)
    records[:, 1 + k :] = np.take_along_axis(codes.values.astype(np.float32), order, axis=1).view(np.uint32)
    with path.open("wb") as file:
        file.write(np.uint32(n).tobytes())
        records.tofile(file)


@contextmanager
def _quiet_output() -> Iterator[None]:
    """Nothing of what native code prints reaches the terminal."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
