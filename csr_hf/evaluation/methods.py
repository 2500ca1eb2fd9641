"""All methods that an evaluation compares: the dense model, CSR in its variants, and the baselines at equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np

from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.baselines import DenseMethod, make_baselines
from csr_hf.evaluation.csr_methods import CSRMethod
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.names import Copy
from csr_hf.evaluation.similarity import rows_for

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


class Width(NamedTuple):
    """How much a search by CSR looks at."""

    query_k_factor: int = 4
    """Queries keep this many times k."""
    candidates: int = 300
    """Documents to rerank."""

    def describe(self) -> str:
        """Explain the methods and their bytes, for the note below a table."""
        return (
            f"In a search, queries keep {self.query_k_factor} k latents; CSR, decoded and CSR + a copy rerank the "
            f"best {self.candidates} documents. Bytes are those of a document's code or vector; the lists of an index "
            "come on top. Each method: recipes/evaluation.md."
        )


def all_methods(
    head: CSRModel,
    train: np.ndarray | None,
    *,
    ks: Sequence[int],
    baselines: Sequence[str] = ("truncate", "pca", "int8", "binary"),
    rerank: Sequence[str] = ("int8",),
    width: Width = Width(),
    similarity: Similarity = "cosine",
) -> list[Method]:
    """Make the dense model, CSR at every k in its variants, and the baselines at the same bytes.

    Truncation, PCA and product quantization get the bytes of "CSR, decoded" at each k.

    Args:
        head: the CSR head.
        train: embeddings that baselines are fitted on, shape (n, input_dim); None leaves out those that need a fit.
        ks: active latents of a document; those beyond hidden_dim are left out.
        baselines: truncate, pca, int8, binary, pq.
        rerank: copies of the embeddings that rerank what CSR finds: binary, int8, float16.
        width: of a search.
        similarity: what the backbone compares its embeddings by. The dense model is measured by it, and all others
            approximate it; CSR knows cosine and dot, see `CSRMethod`.

    Returns:
        The methods, the dense model first.

    Raises:
        ValueError: for an unknown name, or too few training embeddings for product quantization.
    """
    dim = head.config.input_dim
    for copy in rerank:
        if copy not in get_args(Copy):
            raise ValueError(f"`rerank` {copy!r} is unknown. Known: {', '.join(get_args(Copy))}.")
    csr = [
        CSRMethod(head, k, cast(Any, how), similarity=similarity, **width._asdict())
        for k in ks
        if k <= head.config.hidden_dim
        for how in (None, "decoded", *rerank)
    ]
    budgets = [method.bytes_per_vector for method in csr if method.rerank == "decoded"]
    rows = None if train is None else rows_for(train, similarity)
    return [DenseMethod(dim, similarity), *csr, *make_baselines(baselines, rows, dim, budgets, similarity)]
