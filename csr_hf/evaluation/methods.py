"""All methods that an evaluation compares: the dense model, CSR in its variants, and the baselines at equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.codes import QUERY_K_FACTOR
from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.baselines import make_baselines
from csr_hf.evaluation.coder_method import make_coder_methods
from csr_hf.evaluation.csr_methods import CSRMethod, DecodedMethod
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.names import DEFAULT_BASELINES
from csr_hf.evaluation.similarity import rows_for
from csr_hf.evaluation.vector_method import DenseMethod

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


def describe_methods(budgets: Sequence[int] = ()) -> str:
    """Explain the methods and their bytes, for the note below a table.

    Args:
        budgets: bytes that methods were asked to keep within; none where they follow from k.
    """
    if budgets:
        shown = ", ".join(f"{budget:,}" for budget in budgets)
        return (
            f"Each method has its largest setting within {shown} bytes; bytes are those that a document takes, "
            "everything counted. All read back what they store and compare it with a float query. "
            "Each method: recipes/evaluation.md."
        )
    return (
        f"In a search by CSR queries keep {QUERY_K_FACTOR} k latents; all documents are ranked. Bytes are those of a "
        "document's code or vector; what an index adds comes on top. Each method: recipes/evaluation.md."
    )


def all_methods(
    head: CSRModel,
    train: np.ndarray | None,
    *,
    ks: Sequence[int] = (),
    budgets: Sequence[int] = (),
    baselines: Sequence[str] = DEFAULT_BASELINES,
    similarity: Similarity = "cosine",
) -> list[Method]:
    """Make the dense model, CSR, and the baselines at the same bytes.

    With `budgets`, every method gets its largest setting within each: CSR is packed, see `csr_hf.coding`, and int8
    and sign bits are left out where they do not fit. Without, baselines of any size get the bytes of "CSR, decoded" at
    each k.

    Args:
        head: the CSR head.
        train: embeddings that baselines are fitted on, shape (n, input_dim); None leaves out those that need a fit.
        ks: active latents of a document, for CSR as sparse codes; those beyond hidden_dim are left out.
        budgets: bytes of a document, for all methods.
        baselines: of `Baseline`.
        similarity: what the backbone compares its embeddings by. The dense model is measured by it, and all others
            approximate it; sparse codes know cosine and dot, see `CSRMethod`.

    Returns:
        The methods, the dense model first.

    Raises:
        ValueError: for an unknown name, or too few training embeddings for a fit.
        ImportError: if faiss is missing for what it fits, with the line to type.
    """
    dim = head.config.input_dim
    csr: list[Method] = [
        make(head, k, similarity=similarity)
        for k in ks
        if k <= head.config.hidden_dim
        for make in (CSRMethod, DecodedMethod)
    ]
    packed = make_coder_methods(head, train, sorted(set(budgets)), similarity) if budgets else []
    sizes = budgets or [method.bytes_per_vector for method in csr if isinstance(method, DecodedMethod)]
    rows = None if train is None else rows_for(train, similarity)
    rivals = make_baselines(baselines, rows, dim, sizes, similarity, always_whole=not budgets)
    return [DenseMethod(dim, similarity), *packed, *csr, *rivals]
