"""How a method stores embeddings and compares them: the dense model, CSR in its variants, and its rivals.

A `Method` gives each task what it needs: vectors to fit an estimator on or to compare pairwise, a search among
documents, and the scores of given pairs. All start from the same embeddings of the backbone.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import scipy.sparse

from csr_hf.codes import decode_codes, encode_embeddings, head_fingerprint
from csr_hf.evaluation.baselines import Baseline, make_baselines
from csr_hf.evaluation.neighbors import unit_rows
from csr_hf.evaluation.searchers import DenseSearcher, InvertedSearcher, Searcher
from csr_hf.search.copies import COPIES, make_copies

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_NORM_BYTES = 4


class CodesMatrix(scipy.sparse.csr_matrix):
    """Sparse rows that estimators fit on as they are; `np.asarray` makes them dense, for those that cannot."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.toarray().astype(dtype or self.dtype, copy=False)


class Method(ABC):
    """A way to store and compare embeddings.

    Attributes:
        name: as tables show it.
        k: active latents of a document; None where a method has none.
        bytes_per_vector: stored of a document, all that a search needs of it.
        retrieval_only: whether it is a way to search, and nothing to fit an estimator on.
    """

    name: str
    k: int | None = None
    bytes_per_vector: int
    retrieval_only = False

    @abstractmethod
    def vectors(self, embeddings: np.ndarray) -> np.ndarray | CodesMatrix:
        """What is stored, as rows to fit on or to compare by cosine, from embeddings of shape (n, input_dim)."""

    @abstractmethod
    def index(self, documents: np.ndarray) -> Searcher:
        """Store documents, shape (n, input_dim)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What tells results of this method from those of another."""
        return {"method": self.name, **({"k": self.k} if self.k else {"bytes": self.bytes_per_vector})}


class DenseMethod(Method):
    """The backbone's own float32 embeddings, compared by cosine."""

    name = "dense"

    def __init__(self, dim: int) -> None:
        self.bytes_per_vector = 4 * dim

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings themselves."""
        return embeddings

    def index(self, documents: np.ndarray) -> Searcher:
        """All of them, exactly."""
        return DenseSearcher(unit_rows(documents), unit_rows)

    @property
    def settings(self) -> dict[str, Any]:
        """None: this is the model itself."""
        return {}


class BaselineMethod(Method):
    """A `Baseline`: fewer dimensions, or fewer bits for each.

    Args:
        baseline: how vectors are stored.
        fit: identifies the embeddings it was fitted on.
    """

    def __init__(self, baseline: Baseline, fit: str | None = None) -> None:
        self.baseline, self.fit = baseline, fit
        self.name = baseline.name
        self.bytes_per_vector = baseline.bytes_per_vector

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Both sides as they are stored."""
        return self.baseline.documents(unit_rows(embeddings))

    def index(self, documents: np.ndarray) -> Searcher:
        """Stored documents, float queries."""
        return DenseSearcher(
            self.baseline.documents(unit_rows(documents)), lambda rows: self.baseline.queries(unit_rows(rows))
        )

    @property
    def settings(self) -> dict[str, Any]:
        """With what it was fitted on."""
        return {**super().settings, **({"fit": self.fit} if self.fit else {})}


class CSRMethod(Method):
    """Sparse codes, compared with sparse codes by cosine, or in a search with the largest projections of the query.

    Args:
        head: the CSR head.
        k: active latents of a document.
        query_k_factor: a query keeps this many times k, at no cost in storage.
        refine: how documents of a search are encoded, see `CSRModel.encode`; all else is encoded plainly. False also
            searches by cosine of plain codes, as sentence-transformers does with the head.
    """

    name = "CSR"
    k: int

    def __init__(
        self, head: CSRModel, k: int, *, query_k_factor: int = 1, refine: bool | Literal["pursuit"] = True
    ) -> None:
        self.head, self.k, self.refine = head, k, refine
        self.query_k = min(k * query_k_factor, head.config.hidden_dim)
        code = encode_embeddings(head, np.zeros((1, head.config.input_dim), np.float32), k, dtype="float16")
        # A search divides by the norm of the code or of the decoded document, and keeps it.
        self.bytes_per_vector = code.nbytes + _NORM_BYTES

    def vectors(self, embeddings: np.ndarray) -> np.ndarray | CodesMatrix:
        """Codes of unit norm, sparse."""
        codes = encode_embeddings(self.head, embeddings, self.k, dtype="float16")
        return CodesMatrix(codes.astype("float32").normalize().to_scipy())

    def index(self, documents: np.ndarray) -> Searcher:
        """An inverted index."""
        return InvertedSearcher(self.head, documents, self.k, self.query_k, refine=self.refine)

    @property
    def settings(self) -> dict[str, Any]:
        """With what changes a score."""
        return {
            **super().settings,
            "query_k": self.query_k,
            "query": "projections" if self.refine else "codes",
            "refine": str(self.refine),
            "head": head_fingerprint(self.head),
        }


class DecodedCSRMethod(CSRMethod):
    """Sparse codes that are decoded to be compared; in a search the dense query rescores the best candidates.

    Args:
        head: the CSR head.
        k: active latents of a document.
        query_k_factor: of the first stage, see `CSRMethod`.
        candidates: documents that the first stage hands to the second.
    """

    name = "CSR, decoded"

    def __init__(self, head: CSRModel, k: int, *, query_k_factor: int = 1, candidates: int = 300) -> None:
        super().__init__(head, k, query_k_factor=query_k_factor, refine="pursuit")
        self.candidates = candidates

    def vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Decoded codes of unit norm, dense."""
        codes = encode_embeddings(self.head, embeddings, self.k, refine=self.refine, dtype="float16")
        return unit_rows(decode_codes(self.head, codes))

    def index(self, documents: np.ndarray) -> Searcher:
        """An inverted index with a second stage."""
        return InvertedSearcher(
            self.head,
            documents,
            self.k,
            self.query_k,
            refine=self.refine,
            rescore="self",
            candidates=self.candidates,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """With what changes a score."""
        return {**super().settings, "candidates": self.candidates}


class TwoStageMethod(CSRMethod):
    """An inverted index finds candidates; a compact copy of their embeddings ranks them.

    Args:
        head: the CSR head.
        k: active latents of a document.
        copy: what the index keeps beside the codes, see `InvertedIndex.build`.
        query_k_factor: of the first stage, see `CSRMethod`.
        candidates: documents that the first stage hands to the second.
    """

    retrieval_only = True

    def __init__(
        self,
        head: CSRModel,
        k: int,
        copy: Literal["binary", "int8", "float16"],
        *,
        query_k_factor: int = 1,
        candidates: int = 300,
    ) -> None:
        super().__init__(head, k, query_k_factor=query_k_factor)
        self.copy: Literal["binary", "int8", "float16"] = copy
        self.candidates = candidates
        self.name = f"CSR + {copy}"
        copied = make_copies([copy], np.zeros((1, head.config.input_dim), np.float32))
        self.bytes_per_vector += sum(array.nbytes for array in copied.values())

    def index(self, documents: np.ndarray) -> Searcher:
        """Both stages."""
        return InvertedSearcher(
            self.head,
            documents,
            self.k,
            self.query_k,
            refine=self.refine,
            rescore=self.copy,
            candidates=self.candidates,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """With what changes a score."""
        return {**super().settings, "candidates": self.candidates}


def all_methods(
    head: CSRModel,
    train: np.ndarray | None,
    *,
    ks: Sequence[int],
    baselines: Sequence[str] = ("truncate", "pca", "int8", "binary"),
    two_stage: Sequence[str] = ("int8",),
    query_k_factor: int = 4,
    candidates: int = 300,
) -> list[Method]:
    """The dense model, CSR at every k in its variants, and the baselines at the same bytes.

    Truncation, PCA and product quantization get the bytes of "CSR, decoded" at each k.

    Args:
        head: the CSR head.
        train: embeddings that baselines are fitted on, shape (n, input_dim); None leaves out those that need them.
        ks: active latents of a document; those beyond hidden_dim are left out.
        baselines: of `baselines.NAMES`.
        two_stage: "binary", "int8" or "float16": copies of the embeddings that rank what CSR finds.
        query_k_factor: queries of a search keep this many times k.
        candidates: of the first stage of a search.

    Raises:
        ValueError: for an unknown name.
        ImportError: if product quantization is wanted and scikit-learn is missing.
    """
    dim, train = head.config.input_dim, None if train is None else unit_rows(train)
    methods: list[Method] = [DenseMethod(dim)]
    budgets = []
    for name in two_stage:
        if name not in COPIES:
            raise ValueError(f"two-stage copy {name!r} is unknown. Known: {', '.join(COPIES)}.")
    fit = None if train is None else hashlib.blake2b(np.ascontiguousarray(train).tobytes(), digest_size=6).hexdigest()
    for k in [k for k in ks if k <= head.config.hidden_dim]:
        decoded = DecodedCSRMethod(head, k, query_k_factor=query_k_factor, candidates=candidates)
        budgets.append(decoded.bytes_per_vector)
        methods += [CSRMethod(head, k, query_k_factor=query_k_factor), decoded]
        methods += [
            TwoStageMethod(head, k, cast(Any, copy), query_k_factor=query_k_factor, candidates=candidates)
            for copy in two_stage
        ]
    return methods + [BaselineMethod(baseline, fit) for baseline in make_baselines(baselines, train, dim, budgets)]
