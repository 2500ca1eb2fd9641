"""Encode embeddings into sparse codes with a head, and decode codes into embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.plumbing.float_rows import as_float_rows
from csr_hf.sparse_codes import QueryProjections, SparseCodes, index_dtype

if TYPE_CHECKING:
    import torch

    from csr_hf.modeling_csr import CSRModel

QUERY_K_FACTOR = 4
"""A query keeps so many times the latents of a document: it is not stored, and the ranking is closer for it."""
_BLOCK_ROWS = 2048
# From about so many embeddings on, compiled pursuit is faster although it first multiplies all pairs of atoms.
_COMPILED_ROWS = 64


def subtract_modality_mean(head: CSRModel, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
    """Subtract the mean of a modality from embeddings; see `CSRModel.subtract_modality_mean`.

    Args:
        head: a head of several modalities; one of a single modality returns the embeddings unchanged.
        embeddings: shape (n, input_dim).
        modality: of the embeddings.

    Returns:
        float32, shape (n, input_dim).
    """
    import torch

    if not head.config.modalities:
        return embeddings
    shifted = np.empty(embeddings.shape, np.float32)
    with torch.inference_mode():
        # One pass even without rows: the head checks the modality.
        for start in range(0, max(len(embeddings), 1), _BLOCK_ROWS):
            rows = _writable(embeddings[start : start + _BLOCK_ROWS])
            block = head.subtract_modality_mean(torch.from_numpy(rows).to(head.modality_bias.device), modality)
            shifted[start : start + _BLOCK_ROWS] = block.float().cpu().numpy()
    return shifted


def subtract_modality_means(head: CSRModel, embeddings: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Subtract from each embedding the mean of its own modality.

    Args:
        head: as for `subtract_modality_mean`.
        embeddings: shape (n, input_dim).
        kinds: modality of each.

    Returns:
        float32, shape (n, input_dim).

    Raises:
        ValueError: for another number of modalities than embeddings, or a modality that the head does not know.
    """
    if len(kinds) != len(embeddings):
        raise ValueError(f"`inputs` has {len(kinds)} inputs for {len(embeddings)} embeddings: give one for each.")
    if not head.config.modalities:
        return embeddings
    own, shifted = np.array(kinds, object), np.empty(embeddings.shape, np.float32)
    for kind in dict.fromkeys(kinds):
        shifted[own == kind] = subtract_modality_mean(head, embeddings[own == kind], kind)
    return shifted


def modality_means(head: CSRModel) -> dict[str, np.ndarray]:
    """Return what `subtract_modality_mean` subtracts, by modality, float32; empty for a head of one modality."""
    if not head.config.modalities:
        return {}
    return dict(zip(head.config.modalities, head.modality_bias.float().cpu().numpy(), strict=True))


def read_atoms(head: CSRModel) -> np.ndarray:
    """Return the atoms of the decoder, float32, shape (hidden_dim, input_dim)."""
    return head.dictionary.detach().float().cpu().numpy()


def choose_query_k(k: int, hidden_dim: int) -> int:
    """Return how many latents a query keeps: four times those of a document, as far as there are so many."""
    return min(QUERY_K_FACTOR * k, hidden_dim)


def head_fingerprint(head: CSRModel) -> str:
    """Return the fingerprint of a head's weights, 16 hexadecimal digits; codes are comparable if it is equal.

    It is that of the weights as they were saved, whatever type and device the head was moved to since; any other
    change of a weight changes it.
    """
    return head.fingerprint


def encode_embeddings(
    head: CSRModel,
    embeddings: Any,
    k: int | None = None,
    *,
    refine: bool | Literal["pursuit"] = False,
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int = 2048,
) -> SparseCodes:
    """Encode dense embeddings into sparse codes, in batches.

    Args:
        head: the CSR head.
        embeddings: an array, a tensor or a list of vectors, shape (n, input_dim), any float type, without the mean of
            their modality.
        k: active latents; default the head's.
        refine: True or "pursuit" for more exact codes of documents, see `CSRModel.encode`.
        dtype: of the values; an index stores float16.
        batch_size: rows in one pass.

    Raises:
        ValueError: if they are no floats, one is NaN or infinite (the first such row is named), the width is wrong,
            `k` exceeds hidden_dim, or a value overflows `dtype`.
    """
    import torch

    config, embeddings = head.config, as_float_rows(embeddings, "`embeddings`")
    k = config.k if k is None else k
    # The head checks k and the width before arrays of width k are allocated.
    with torch.inference_mode():
        head.encode(head.encoder.weight.new_zeros(0, embeddings.shape[1]), k, refine=refine)
    indices = np.empty((len(embeddings), k), index_dtype(config.hidden_dim))
    values = np.empty((len(embeddings), k), np.dtype(dtype))
    encode = _choose_encoder(head, len(embeddings), refine)
    for start in range(0, len(embeddings), batch_size):
        block = _to_tensor(head, embeddings, start, batch_size)
        with torch.inference_mode():
            block_values, block_indices = encode(block, k)
        with np.errstate(over="ignore"):
            values[start : start + batch_size] = block_values.float().cpu().numpy()
        indices[start : start + batch_size] = block_indices.cpu().numpy()
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the code of embeddings[{int(np.argmin(finite))}] overflows {np.dtype(dtype)} or the head's type. "
            'Use dtype="float32" and a float32 head, or normalize the embeddings.'
        )
    return SparseCodes(indices, values, config.hidden_dim, head_fingerprint(head), check=False)


def decode_codes(head: CSRModel, codes: SparseCodes) -> np.ndarray:
    """Decode codes into dense embeddings, float32, shape (n, input_dim)."""
    blocks = list(_decoded_blocks(head, codes))
    if not blocks:
        return np.zeros((0, head.config.input_dim), np.float32)
    return np.concatenate([block.cpu().numpy() for block in blocks])


def decoded_norms(head: CSRModel, codes: SparseCodes, batch_size: int = 2048) -> np.ndarray:
    """Compute ||decode(z)|| of every code, float32, shape (n,); an index divides by it to get cosines."""
    blocks = [block.norm(dim=-1).cpu().numpy() for block in _decoded_blocks(head, codes, batch_size)]
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _choose_encoder(
    head: CSRModel, count: int, refine: bool | Literal["pursuit"]
) -> Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]:
    """Return what encodes batches of `count` embeddings: the head, or its compiled pursuit, which does the same."""
    if refine == "pursuit" and count >= _COMPILED_ROWS:
        from csr_hf.coding.pursuit import Pursuit

        if Pursuit.takes(head):
            return Pursuit(head.dictionary.detach(), head.pre_bias.detach()).encode
    return functools.partial(head.encode, refine=refine)


def _decoded_blocks(head: CSRModel, codes: SparseCodes, batch_size: int = 2048) -> Iterator[torch.Tensor]:
    """Decode codes in float32, some rows at a time: the dense latents of all rows might not fit into memory."""
    import torch

    weight = head.encoder.weight
    for start in range(0, len(codes), batch_size):
        part = codes[start : start + batch_size]
        values = torch.from_numpy(part.values.astype(np.float32)).to(weight)
        indices = torch.from_numpy(part.indices.astype(np.int64)).to(weight.device)
        with torch.inference_mode():
            yield head.decode(values, indices).float()


def project_queries(head: CSRModel, embeddings: Any) -> QueryProjections:
    """Compute the inner products of dense queries with the decoder, for an index with decoded norms.

    Args:
        head: of the index.
        embeddings: as for `encode_embeddings`, shape (n, input_dim), without the mean of their modality.
    """
    import torch

    embeddings = as_float_rows(embeddings, "`embeddings`")
    with torch.inference_mode():
        latents, offset = head.project(_to_tensor(head, embeddings, 0, len(embeddings)))
    return QueryProjections(latents.float().cpu().numpy(), offset.float().cpu().numpy(), head_fingerprint(head))


def encode_queries(head: CSRModel, embeddings: Any, k: int, batch_size: int = _BLOCK_ROWS) -> SparseCodes:
    """Encode dense queries as their k largest inner products with the decoder; negative ones become 0.

    The inner product of such a query with the code of a document estimates that of query and document.

    Args:
        head: of the documents.
        embeddings: as for `encode_embeddings`, shape (n, input_dim).
        k: latents to keep.
        batch_size: rows in one pass.

    Raises:
        ValueError: if `k` is not between 1 and hidden_dim, or as `encode_embeddings` does.
    """
    rows = as_float_rows(embeddings, "`embeddings`")
    # One pass even without rows: the width and k are checked.
    starts = range(0, max(len(rows), 1), batch_size)
    return SparseCodes.concatenate(
        [project_queries(head, rows[start : start + batch_size]).codes(k) for start in starts]
    )


def scale_documents(head: CSRModel, codes: SparseCodes) -> SparseCodes:
    """Divide each code by the norm of what it decodes to, so that inner products with queries estimate cosines."""
    norms = decoded_norms(head, codes)[:, None]
    values = codes.values / np.where(norms > 0, norms, 1)
    return SparseCodes(codes.indices, values, codes.dim, codes.head_fingerprint, check=False)


def to_finite_rows(embeddings: np.ndarray | torch.Tensor, start: int, size: int) -> np.ndarray:
    """Return some rows of `as_float_rows` in float32, contiguous and writable, copied only if need be.

    Args:
        embeddings: shape (n, dim).
        start: the first of the rows.
        size: how many, or as many as there are.

    Raises:
        ValueError: if one is NaN or infinite; its number is named.
    """
    import torch

    rows = embeddings[start : start + size]
    # What is beyond float32 becomes infinite.
    with np.errstate(over="ignore"):
        block = _writable(rows.float().cpu().numpy() if isinstance(rows, torch.Tensor) else rows)
    finite = np.isfinite(block).all(axis=-1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise ValueError(f"embeddings[{row}] holds NaN or infinity. Check that text, or embed it in float32.")
    return block


def _to_tensor(head: CSRModel, embeddings: np.ndarray | torch.Tensor, start: int, size: int) -> torch.Tensor:
    """Move some rows to the head's device and type; raise ValueError for rows that are not finite."""
    import torch

    return torch.from_numpy(to_finite_rows(embeddings, start, size)).to(head.encoder.weight)


def _writable(rows: np.ndarray) -> np.ndarray:
    """Return rows as contiguous float32, copied only if need be: PyTorch warns of arrays that are read-only."""
    return np.require(rows, np.float32, ["C_CONTIGUOUS", "WRITEABLE", "ENSUREARRAY"])
