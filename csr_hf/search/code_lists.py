"""Inverted lists over the codes of a segment: made in memory when they are first asked for, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import run
from csr_hf.search.kernels.lists import fill_lists, measure_norms, search_lists
from csr_hf.search.kernels.topk import split_keys
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.searcher import starts_of
from csr_hf.search.segment import Segment
from csr_hf.sparse_codes import SparseCodes


class CodeLists(NamedTuple):
    """Documents by latent."""

    begins: np.ndarray
    """Where the lists begin and the last ends, int64, shape (dim + 1,)."""
    documents: np.ndarray
    """Positions, int32."""
    values: np.ndarray
    """float32."""
    inverse: np.ndarray
    """One by the norm of every decoded code, for dot 1, float32, shape (n,)."""

    @classmethod
    def of(cls, segment: Segment, encoder: QueryEncoder, *, unit: bool) -> CodeLists:
        """List the codes of a segment."""
        codes = segment.packed.unpack()
        latents = codes.indices.astype(np.int64)
        counts = np.bincount(latents[codes.values > 0], minlength=codes.dim)
        begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        documents, values = np.empty(begins[-1], np.int32), np.empty(begins[-1], np.float32)
        moved = begins.copy()
        fill_lists(latents, codes.values, moved, documents, values)
        inverse = np.ones(len(codes), np.float32)
        if unit:
            with_bias = np.append(encoder.atoms @ encoder.bias, encoder.bias @ encoder.bias)
            norms = np.empty(len(codes), np.float32)
            measure_norms(latents, codes.values, encoder.atoms @ encoder.atoms.T, with_bias, norms)
            inverse = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0).astype(np.float32)
        return cls(*(frozen(array) for array in (begins, documents, values, inverse)))


def find_having(lists: CodeLists, latents: Sequence[int]) -> np.ndarray:
    """Tell which documents of a segment have all of some latents, by position, bool, shape (n,).

    Args:
        lists: of the segment.
        latents: their numbers.
    """
    found = np.ones(len(lists.inverse), bool)
    for latent in latents:
        own = np.zeros(len(found), bool)
        own[lists.documents[lists.begins[latent] : lists.begins[latent + 1]]] = True
        found &= own
    return found


def require(
    lists: Sequence[CodeLists], masks: Sequence[np.ndarray | None], latents: Sequence[int]
) -> list[np.ndarray | None]:
    """Narrow masks to documents that have all of some latents.

    Args:
        lists: of each segment.
        masks: which documents of each segment may be found, bool; None for all.
        latents: their numbers.

    Raises:
        ValueError: for a number that no latent has.
    """
    dim = len(lists[0].begins) - 1 if lists else 0
    for latent in latents:
        if lists and not 0 <= latent < dim:
            raise ValueError(f"`must` names the latent {latent}. Give numbers from 0 to {dim - 1:,}.")
    having = [find_having(own, latents) for own in lists]
    return [own if mask is None else own & mask for own, mask in zip(having, masks, strict=True)]


def find_strongest(
    segments: Sequence[Segment], lists: Sequence[CodeLists], latent: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the documents in which a latent is strongest.

    Args:
        segments: of the index.
        lists: of each.
        latent: its number.
        count: documents wanted.

    Returns:
        Positions, int64, and what the latent is worth in their codes, float32, the largest first.
    """
    positions, values = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for segment, own, start in zip(segments, lists, starts_of(segments)[:-1], strict=True):
        part = slice(own.begins[latent], own.begins[latent + 1])
        alive = segment.mask[own.documents[part]]
        positions.append(own.documents[part][alive] + start)
        values.append(own.values[part][alive])
    every = np.concatenate(values)
    order = np.argsort(-every, kind="stable")[:count]
    return np.concatenate(positions)[order], every[order]


def find_sparse(
    segments: Sequence[Segment],
    lists: Sequence[CodeLists],
    codes: SparseCodes,
    masks: Sequence[np.ndarray | None],
    top_k: int,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best documents for sparse queries.

    Args:
        segments: of the index.
        lists: of each.
        codes: of the queries.
        masks: which documents of each segment may be found, bool; None for all.
        top_k: documents wanted.
        threads: most queries at a time.

    Returns:
        scores and positions, shape (n, up to top_k).
    """
    starts = starts_of(segments)
    width = min(top_k, int(starts[-1]))
    keys = np.zeros((len(codes), len(segments), width), np.uint64)
    latents, values = codes.indices.astype(np.int64), codes.values.astype(np.float32)

    def search(i: int) -> None:
        for at, (own, mask) in enumerate(zip(lists, masks, strict=True)):
            allowed = np.empty(0, np.uint8) if mask is None else mask.view(np.uint8)
            arrays = own.begins, own.documents, own.values
            search_lists(arrays, own.inverse, latents[i], values[i], frozen(allowed), int(starts[at]), keys[i, at])

    run(search, [(i,) for i in range(len(codes) if width else 0)], threads)
    best = np.sort(keys.reshape(len(codes), -1), axis=1)[:, ::-1][:, :width]
    return split_keys(best)
