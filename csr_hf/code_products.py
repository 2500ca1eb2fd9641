"""Inner products of codes, as `SparseCodes`, tensors or arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    import torch


def multiply_codes(codes1: Any, codes2: Any) -> torch.Tensor:
    """Compute the inner products of all pairs of codes, float32, shape (n, m).

    Args:
        codes1: n `SparseCodes`, or a tensor or array of shape (n, hidden_dim).
        codes2: m of them.

    Raises:
        ValueError: for anything else than codes, or codes of different widths.
    """
    from sentence_transformers.util import dot_score

    return dot_score(*_as_tensors(codes1, codes2)).to_dense()


def multiply_rows(codes1: Any, codes2: Any) -> torch.Tensor:
    """Compute the inner products of row i with row i, float32, shape (n,); arguments as for `multiply_codes`.

    Raises:
        ValueError: as `multiply_codes` does, and for different numbers of rows.
    """
    from sentence_transformers.util import pairwise_dot_score

    first, second = _as_tensors(codes1, codes2)
    if first.ndim == second.ndim == 2 and len(first) != len(second):
        raise ValueError(
            f"`embeddings1` has {len(first)} rows, `embeddings2` {len(second)}: pairs need as many of both. "
            "`similarity` compares all with all."
        )
    return pairwise_dot_score(first, second).to_dense()


def _as_tensors(codes1: Any, codes2: Any) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = _as_tensor(codes1, "embeddings1"), _as_tensor(codes2, "embeddings2")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"`embeddings1` has {first.shape[-1]} latents, `embeddings2` {second.shape[-1]}: "
            "compare codes of one head."
        )
    return first, second


def _as_tensor(codes: Any, name: str) -> torch.Tensor:
    import torch

    if isinstance(codes, SparseCodes):
        return codes.to_torch()
    if isinstance(codes, list | tuple) and codes and isinstance(codes[0], torch.Tensor):
        codes = torch.stack(list(codes))
    try:
        tensor = torch.as_tensor(codes)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"`{name}` ({type(codes).__name__}) holds no codes. Encode first: encoder.similarity("
            "encoder.encode_query(queries), encoder.encode_document(documents))."
        ) from None
    if tensor.ndim not in (1, 2):
        raise ValueError(f"`{name}` has the shape {tuple(tensor.shape)}: pass codes of shape (n, hidden_dim).")
    return tensor
