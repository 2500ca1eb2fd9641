"""Queries as the kernels take them: checked, and with integers for values."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.search.rounding import COARSE_K, NOT_FINITE, OUT_OF_RANGE, find_fault, round_queries, sign_tables
from csr_hf.sparse_codes import QueryProjections, SparseCodes

_MAX_QUERY_K = 16_384


class SignQueries(NamedTuple):
    """Dense queries as a scan of signs takes them."""

    tables: np.ndarray
    """What documents' signs are looked up in, see `rounding.fill_tables`."""
    dense: np.ndarray
    """The queries, float32, shape (n, input_dim), read-only."""


class PreparedQueries(NamedTuple):
    """Arrays of the queries' codes, nobody else's."""

    latents: np.ndarray
    """uint16 or int32, shape (n, query_k)."""
    steps: np.ndarray
    """Values as integers, int32, shape (n, query_k); 0 for latents not active."""
    coarse: np.ndarray
    """The largest values for summaries of blocks, uint8, shape (n, up to 32)."""
    factors: np.ndarray
    """What sums are multiplied by, once they are by the document's scale; float32, shape (n,)."""
    signs: SignQueries | None = None
    """What a scan of signs takes; None where posting lists are searched."""

    def by_signs(self, embeddings: np.ndarray) -> PreparedQueries:
        """The same for a scan of signs, given the dense queries, as `checked_dense` gives them."""
        signs = SignQueries(sign_tables(embeddings), embeddings)
        return PreparedQueries(self.latents, self.steps, self.coarse, np.ones(len(embeddings), np.float32), signs)


def prepare_queries(codes: SparseCodes, query_k: int | None, decoded: bool) -> PreparedQueries:
    """Check the codes of queries and round their values to integers, see `rounding.round_queries`.

    Args:
        codes: of the queries.
        query_k: latents to keep; None keeps all.
        decoded: whether scores are of the values as they are, or of those of a unit-norm query.

    Raises:
        ValueError: for a `query_k` out of range, values that are negative or not finite, latents out of range, or a
            query that names a latent twice.
    """
    latents, values = _checked(codes, query_k)
    n, k = latents.shape
    steps, factors = np.empty((n, k), np.int32), np.empty(n, np.float32)
    coarse = np.empty((n, min(k, COARSE_K)), np.uint8)
    round_queries(latents, values, decoded, steps, coarse, factors)
    return PreparedQueries(latents, steps, coarse, factors)


def unit_queries(codes: SparseCodes, query_k: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the codes of queries and scale them to unit norm; arguments and errors as for `prepare_queries`.

    Returns:
        latents, values (float64, of unit norm), both (n, query_k), and what they were divided by, (n, 1): not 0.
    """
    latents, values = _checked(codes, query_k)
    raw = values.astype(np.float64)
    norms = np.sqrt(np.square(raw).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    return latents, raw / norms, norms


def _checked(codes: SparseCodes, query_k: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Copies of latents and values: what was checked nobody changes, and kernels see one type of array."""
    if query_k is not None and not 1 <= query_k <= codes.k:
        raise ValueError(
            f"`query_k` ({query_k}) must be between 1 and the k of the query codes ({codes.k}). "
            "Encode the queries with a larger k."
        )
    codes = codes if query_k is None else codes.truncate(query_k)
    if codes.k > _MAX_QUERY_K:
        raise ValueError(f"a query may keep {_MAX_QUERY_K} latents, not {codes.k}. Pass a smaller `query_k`.")
    latents, values = np.array(codes.indices, order="C"), np.array(codes.values, order="C")
    row, problem = find_fault(latents, values, codes.dim)
    if problem:
        _refuse(codes, row, problem)
    return latents, values


def _refuse(codes: SparseCodes, row: int, problem: int) -> NoReturn:
    if problem == NOT_FINITE:
        raise ValueError("`codes.values` of the queries must be finite and not negative. Encode them again.")
    if problem == OUT_OF_RANGE:
        found = f"found {codes.indices.min()} to {codes.indices.max()}"
        raise ValueError(f"`codes.indices` must lie in [0, {codes.dim}); {found}. Encode them again.")
    raise ValueError(f"query {row} names a latent twice. Every latent may appear once in a row.")


def checked_positions(positions: np.ndarray, n: int) -> np.ndarray:
    """Positions of candidates among `n` documents.

    Raises:
        ValueError: if they are no integers, not a row a query, or out of range.
    """
    positions = np.asarray(positions)
    if positions.ndim != 2 or positions.dtype.kind not in "iu":
        raise ValueError(f"`positions` must be integers of the shape (n_queries, candidates): {positions.shape}.")
    if positions.size and not -1 <= positions.min() <= positions.max() < n:
        raise ValueError(f"`positions` must lie in [-1, {n}); found {positions.min()} to {positions.max()}.")
    return positions


def checked_dense(embeddings: np.ndarray | None, n: int, input_dim: int | None) -> np.ndarray:
    """Dense queries as the kernels take them.

    Raises:
        ValueError: if they are missing, of another shape or not finite.
    """
    if embeddings is None:
        raise ValueError("a copy is compared with the dense queries. Pass `embeddings`.")
    if np.shape(embeddings) != (n, input_dim):
        raise ValueError(f"`embeddings` has the shape {np.shape(embeddings)} instead of ({n}, {input_dim}).")
    # What is beyond float32 becomes infinite.
    with np.errstate(over="ignore"):
        dense = frozen(embeddings, np.float32)
    if not np.isfinite(dense).all():
        row = int(np.argmin(np.isfinite(dense).all(axis=1)))
        raise ValueError(f"`embeddings[{row}]` holds NaN or infinity. Check that query.")
    return dense


def checked_projections(
    projections: QueryProjections | None, n: int, dim: int, has_norms: bool, head: str | None
) -> QueryProjections:
    """Verify what `rescore="self"` needs; gives the projections back.

    Raises:
        ValueError: if the projections are missing, of another head or shape or not finite, or the index has no decoded
            norms.
    """
    if not has_norms:
        raise ValueError(
            '`rescore="self"` needs the norms of the decoded documents. '
            "Build the index with `decoded_norms=csr_hf.codes.decoded_norms(head, codes)`."
        )
    if projections is None:
        raise ValueError(
            '`rescore="self"` needs `projections` of the dense queries. '
            "Pass `csr_hf.codes.project_queries(head, embeddings)`."
        )
    if None not in (projections.head_fingerprint, head) and projections.head_fingerprint != head:
        raise ValueError(
            f"`projections.head_fingerprint` ({projections.head_fingerprint}) is not the head the index was built "
            f"with ({head}). "
            "Project the queries with that head."
        )
    for name, array, shape in (("latents", projections.latents, (n, dim)), ("offset", projections.offset, (n,))):
        if np.shape(array) != shape:
            raise ValueError(
                f"`projections.{name}` has the shape {np.shape(array)} instead of {shape}. "
                "Project the embeddings of the same queries with the index's head."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"`projections.{name}` holds NaN or infinity. Check the query embeddings.")
    return QueryProjections(frozen(projections.latents, np.float32), frozen(projections.offset, np.float32))
