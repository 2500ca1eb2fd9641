"""Queries as the kernels take them: unit-norm values, integer steps, and the error bound of the integer scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from csr_hf.search import kernels
from csr_hf.search.building import LEVELS
from csr_hf.search.copies import COPIES
from csr_hf.sparse_codes import QueryProjections, SparseCodes
from csr_hf.threads import available_threads

_MAX_QUERY_K = 16_384


class PreparedQueries(NamedTuple):
    """Read-only arrays of the queries' codes."""

    latents: np.ndarray
    """uint16 or int32, shape (n, query_k)."""
    values: np.ndarray
    """Of unit norm, float32, shape (n, query_k)."""
    steps: np.ndarray
    """What a posting of full weight adds, times 256 / 255; uint16, shape (n, query_k); 0 for latents not active."""
    units: np.ndarray
    """Accumulator units of a score of 1, float32, shape (n,)."""
    slack: np.ndarray
    """Units by which an accumulator may exceed the true score, int64, shape (n,)."""
    norms: np.ndarray
    """Of the codes as they came, float32, shape (n,)."""


def prepare_queries(codes: SparseCodes, query_k: int | None) -> PreparedQueries:
    """Normalise and check the codes of queries.

    A posting holds ceil(255 u) for a component u of a vector no longer than 1, and adds floor(step * that / 256) + 1
    where step = ceil(w * units * 256 / 255). That is more than w * u * units and at most w * units / 255 + 2 above it.
    Summed over the latents of a query: the slack. `units` is the largest scale at which 16 bits cannot overflow,
    given that no score is above 1.

    Args:
        codes: of the queries.
        query_k: latents to keep; None keeps all.

    Raises:
        ValueError: for a `query_k` out of range, values that are negative or not finite, latents out of range, or a
            query that names a latent twice.
    """
    codes = codes if query_k is None else _truncated(codes, query_k)
    if codes.k > _MAX_QUERY_K:
        raise ValueError(f"a query may keep {_MAX_QUERY_K} latents, not {codes.k}. Pass a smaller `query_k`.")
    raw = codes.values.astype(np.float64)
    if not (np.isfinite(raw) & (raw >= 0)).all():
        raise ValueError("`codes.values` of the queries must be finite and not negative. Encode them again.")
    _check_latents(codes.indices, raw > 0, codes.dim)
    norms = np.sqrt(np.square(raw).sum(axis=1, keepdims=True))
    values = (raw / np.where(norms > 0, norms, 1)).astype(np.float32)
    spread = values.sum(axis=1, dtype=np.float64) / LEVELS
    units = np.floor((kernels.ACCUMULATORS - 1 - 2 * codes.k - 8) / (1 + spread))
    # Two more than the bound above, for the rounding of float32.
    slack = np.ceil(units * spread) + 2 * codes.k + 2
    steps = np.ceil(values * units[:, None] * (LEVELS + 1) / LEVELS)
    prepared = PreparedQueries(
        np.array(codes.indices, order="C"),
        np.ascontiguousarray(values),
        np.ascontiguousarray(steps, np.uint16),
        units.astype(np.float32),
        slack.astype(np.int64),
        norms[:, 0].astype(np.float32),
    )
    for array in prepared:
        array.flags.writeable = False
    return prepared


def checked_depth(top_k: int, rescore: str | None, candidates: int, copies: Sequence[str]) -> int:
    """Validate a search; returns how many documents the first stage has to find.

    Raises:
        ValueError: for numbers out of range, or a second stage that there is not.
    """
    if top_k < 1:
        raise ValueError(f"`top_k` ({top_k}) must be at least 1.")
    if rescore is None:
        return top_k
    if rescore != "self" and rescore not in COPIES:
        raise ValueError(f"`rescore` ({rescore!r}) is unknown. Choose one of {('self', *COPIES)} or None.")
    if rescore != "self" and rescore not in copies:
        raise ValueError(
            f'`rescore="{rescore}"` needs such copies of the embeddings, and the index has '
            f'{", ".join(copies) or "none"}. Build it with `embeddings=..., copies=["{rescore}"]`.'
        )
    if candidates < top_k:
        raise ValueError(f"`candidates` ({candidates}) must be at least `top_k` ({top_k}). Raise `candidates`.")
    return candidates


def checked_threads(threads: int | None) -> int:
    """The number of threads, by default that of the cores.

    Raises:
        ValueError: if it is below 1.
    """
    if threads is None:
        return available_threads()
    if threads < 1:
        raise ValueError(f"`threads` ({threads}) must be at least 1.")
    return threads


def checked_dense(embeddings: np.ndarray | None, n: int, input_dim: int | None) -> np.ndarray:
    """Dense queries as the kernels take them.

    Raises:
        ValueError: if they are missing, of another shape or not finite.
    """
    if embeddings is None:
        raise ValueError("a copy is compared with the dense queries. Pass `embeddings`.")
    if np.shape(embeddings) != (n, input_dim):
        raise ValueError(f"`embeddings` has the shape {np.shape(embeddings)} instead of ({n}, {input_dim}).")
    if not np.isfinite(embeddings).all():
        raise ValueError("`embeddings` holds NaN or infinity. Check the queries.")
    return frozen(embeddings, np.float32)


def checked_projections(projections: QueryProjections | None, n: int, dim: int, has_norms: bool) -> QueryProjections:
    """Verify what `rescore="self"` needs; gives the projections back.

    Raises:
        ValueError: if the projections are missing, of another shape or not finite, or the index has no decoded norms.
    """
    if not has_norms:
        raise ValueError(
            '`rescore="self"` needs the norms of the decoded documents. '
            "Build the index with `decoded_norms=csr_hf.encoder.decoded_norms(head, codes)`."
        )
    if projections is None:
        raise ValueError(
            '`rescore="self"` needs `projections` of the dense queries. '
            "Pass `csr_hf.encoder.project_queries(head, embeddings)`."
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


def frozen(array: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """A read-only contiguous view, so that kernels see one type of array whoever made it."""
    view: np.ndarray = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def _truncated(codes: SparseCodes, query_k: int) -> SparseCodes:
    if not 1 <= query_k <= codes.k:
        raise ValueError(
            f"`query_k` ({query_k}) must be between 1 and the k of the query codes ({codes.k}). "
            "Encode the queries with a larger k."
        )
    return codes.truncate(query_k)


def _check_latents(indices: np.ndarray, active: np.ndarray, dim: int) -> None:
    if not indices.size:
        return
    if not 0 <= int(indices.min()) <= int(indices.max()) < dim:
        raise ValueError(f"`codes.indices` must lie in [0, {dim}); found {indices.min()} to {indices.max()}.")
    # Places that are not active may repeat an index, so each gets a number of its own below zero.
    own = np.where(active, indices.astype(np.int64), -1 - np.arange(indices.shape[1]))
    repeated = (np.diff(np.sort(own, axis=1), axis=1) == 0).any(axis=1)
    if repeated.any():
        raise ValueError(
            f"query {int(np.argmax(repeated))} names a latent twice. Every latent may appear once in a row."
        )
