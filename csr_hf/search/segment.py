"""Documents that were indexed together: codes, posting lists and copies of embeddings, none of which ever changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from csr_hf.jit import frozen
from csr_hf.search import kernels, rescoring, scanning
from csr_hf.search.building import BLOCK
from csr_hf.search.clustering import similar_blocks
from csr_hf.search.copies import COPIES, make_copies, score_copy
from csr_hf.search.documents import build_lists, checked_norms, inverse_norms, quantised
from csr_hf.search.queries import PreparedQueries
from csr_hf.search.ranking import split_keys
from csr_hf.search.routing import group_size
from csr_hf.search.sub_blocks import signs_of, sub_blocks
from csr_hf.sparse_codes import QueryProjections, SparseCodes
from csr_hf.threads import available_threads, run

_ALL_ALLOWED = np.empty(0, np.uint8)
_LISTS = ("bits", "ranks", "firsts", "offsets", "starts", "postings")
_BY_ROW = ("indices", "values", "steps", "scale", "int8", "int8_scale", "float16")
_SIGNS = ("binary", "binary_rows", "binary_firsts", "binary_centers")
_FIRST_STAGE = (*_LISTS, "summary", "scale", "order", "rows")
_SHARE, _SCAN_SHARE = 128, 512
"""Blocks of a query that are worth a thread of their own: lists to add up, signs to scan."""
_CHUNK = 16_384
_ALONE = 8
"""Queries a thread from which they pass over the blocks together."""


class Segment:
    """Documents that are searched together, by position: the order they came in. Rows are in another order.

    Args:
        arrays: indices, values, steps, scale and order by row, rows (where blocks begin), those of `build_lists`, and
            those of copies.
        dim: length of the latents axis.
        decoded: whether scores are divided by norms of the decoded documents, or of the codes.
    """

    def __init__(self, arrays: dict[str, np.ndarray], dim: int, decoded: bool) -> None:
        for array in arrays.values():
            array.flags.writeable = False
        # numba compiles anew for a subclass of ndarray, so memory maps are seen as plain arrays over the same pages.
        self.arrays = {name: array.view(np.ndarray) for name, array in arrays.items()}
        self.dim, self.decoded = dim, decoded

    def __reduce__(self) -> tuple[type[Segment], tuple[dict[str, np.ndarray], int, bool]]:
        # Arrays that were pickled come back writable, and numba would compile for them anew.
        return type(self), (self.arrays, self.dim, self.decoded)

    @classmethod
    def build(
        cls,
        codes: SparseCodes,
        *,
        decoded_norms: np.ndarray | None,
        embeddings: np.ndarray | None,
        copies: Sequence[str],
        input_dim: int | None,
    ) -> Segment:
        """Index codes; see `InvertedIndex.build`.

        Raises:
            ValueError: as `InvertedIndex.build` does, but for ids.
        """
        if len(codes) > np.iinfo(np.int32).max:
            raise ValueError(
                f"`codes` holds {len(codes)} documents, a segment at most 2,147,483,647. Add the rest later."
            )
        indices, values, steps = quantised(codes)
        norms = None if decoded_norms is None else checked_norms(decoded_norms, len(codes))
        stored = {
            "indices": indices,
            "values": values,
            "steps": steps,
            "scale": steps * inverse_norms(values, steps, norms),
        }
        dense = _checked_embeddings(embeddings, len(codes), input_dim, copies)
        order, begins = similar_blocks(indices, values, codes.dim, BLOCK)
        copied: dict[str, np.ndarray] = {}
        if "binary" in copies:
            order, copied = _by_sub_block(make_copies(["binary"], dense)["binary"], order, begins)
        others = [kind for kind in copies if kind != "binary"]
        if others:
            copied |= make_copies(others, dense, _inverse(order))
        stored = {name: _taken(stored.pop(name), order) for name in list(stored)}
        return cls._of({**stored, **copied, "order": order, "rows": begins}, codes.dim, norms is not None)

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray], dim: int, decoded: bool) -> Segment:
        """With lists of what is stored."""
        stored = arrays["indices"], arrays["values"], arrays["scale"]
        lists = build_lists(*stored, arrays["order"], arrays["rows"], dim)
        return cls({**arrays, **lists}, dim, decoded)

    def find(
        self, queries: PreparedQueries, depth: int, threads: int, allowed: np.ndarray | None, nprobe: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `depth` documents by codes alone, or by their signs if the queries are prepared for these.

        Args:
            queries: prepared for this index.
            depth: documents wanted, no more than there are.
            threads: at work.
            allowed: bool, shape (n,): documents that may be found, by position; None for all.
            nprobe: blocks to visit; None for all.

        Returns:
            float32 scores and int64 positions, shape (n_queries, depth), best first; -inf and -1 for none.
        """
        n = len(queries.factors)
        if not n or not depth:
            return np.empty((n, depth), np.float32), np.empty((n, depth), np.int64)
        mask = frozen(_ALL_ALLOWED if allowed is None else allowed[self.arrays["order"]].view(np.uint8))
        documents = (self.arrays["rows"], self.arrays["scale"], mask, self.arrays["order"])
        summary = self.arrays["summary"]
        blocks = len(self.arrays["bits"])
        probes = min(nprobe or blocks, blocks)
        if queries.tables is None:
            one, many, share = kernels.search_query, kernels.search_group, _SHARE
            stored, values = tuple(self.arrays[name] for name in _LISTS), queries.steps
            group = group_size(depth, blocks, probes)
        else:
            one, many, share = scanning.scan_query, scanning.scan_group, _SCAN_SHARE
            stored, values = tuple(self.arrays[name] for name in _SIGNS), queries.tables
            group = group_size(depth, blocks, probes if probes < blocks else len(self.arrays["binary_rows"]))
        # Few queries cannot occupy the threads, so their blocks are shared out.
        parts = min(threads, -(-probes // share)) if n < 2 * threads else 1
        keys = np.zeros((parts, n, depth), np.uint64)

        def search_one(i: int, part: int) -> None:
            query = queries.latents[i], queries.coarse[i], values[i]
            one(stored, documents, summary, *query, probes, part, parts, keys[part, i])

        def search_many(first: int, stop: int) -> None:
            query = queries.latents[first:stop], queries.coarse[first:stop], values[first:stop]
            many(stored, documents, summary, *query, probes, keys[0, first:stop])

        if n < _ALONE * threads:
            run(search_one, [(i, part) for i in range(n) for part in range(parts)], threads)
        else:
            group = min(group, -(-n // threads))
            run(search_many, [(first, min(first + group, n)) for first in range(0, n, group)], threads)
        merged = keys[0]
        if parts > 1:
            merged = np.ascontiguousarray(
                np.sort(keys.transpose(1, 0, 2).reshape(n, -1), axis=1)[:, : -depth - 1 : -1]
            )
        return split_keys(merged, queries.factors)

    def rescore(
        self, kind: str, queries: QueryProjections | np.ndarray, positions: np.ndarray, scores: np.ndarray
    ) -> None:
        """Fill in the second-stage scores of candidates.

        Args:
            kind: "self", or a copy.
            queries: projections for "self", else dense queries, float32, shape (n_queries, input_dim).
            positions: int64, shape (n_queries, candidates); -1 for none of this segment.
            scores: float32, shape (n_queries, candidates); others are left as they are.
        """
        rows = frozen(np.where(positions >= 0, self._rows[positions], -1), np.int64) if len(self) else positions
        if isinstance(queries, np.ndarray):
            score_copy(kind, self.arrays, queries, rows, scores)
            return
        stored = self.arrays["indices"], self.arrays["values"], self.arrays["steps"], self.arrays["scale"]
        rescoring.score_codes(*stored, queries.latents, queries.offset, rows, scores)

    @classmethod
    def joined(cls, segments: Sequence[Segment], positions: Sequence[np.ndarray]) -> Segment:
        """One segment of some documents of several.

        Args:
            segments: at least one, of one index.
            positions: of the documents to keep of each, ascending.
        """
        first = segments[0]
        rows = [segment._rows[chosen] for segment, chosen in zip(segments, positions, strict=True)]

        def join(name: str) -> np.ndarray:
            return np.concatenate([segment.arrays[name][at] for segment, at in zip(segments, rows, strict=True)])

        order, begins = similar_blocks(join("indices"), join("values"), first.dim, BLOCK)
        copied: dict[str, np.ndarray] = {}
        if "binary" in first.arrays:
            signs = [signs_of(segment.arrays["binary"], segment.arrays["binary_rows"]) for segment in segments]
            kept = np.concatenate([signs[at] for signs, at in zip(signs, rows, strict=True)])
            order, copied = _by_sub_block(kept, order, begins)
        stored = {name: _taken(join(name), order) for name in _BY_ROW if name in first.arrays}
        return cls._of({**stored, **copied, "order": order, "rows": begins}, first.dim, first.decoded)

    @cached_property
    def _rows(self) -> np.ndarray:
        return _inverse(self.arrays["order"])

    @property
    def codes(self) -> SparseCodes:
        """As they are stored, by position."""
        indices, values, steps = (self.arrays[name][self._rows] for name in ("indices", "values", "steps"))
        return SparseCodes(indices, values * steps[:, None], self.dim, None, check=False)

    @property
    def uses(self) -> np.ndarray:
        """Documents that each latent is active in, shape (dim,)."""
        return np.bincount(self.arrays["indices"][self.arrays["values"] > 0], minlength=self.dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def first_stage_bytes(self) -> int:
        """Bytes of the arrays that a search without a second stage reads."""
        return sum(self.arrays[name].nbytes for name in _FIRST_STAGE)

    def __len__(self) -> int:
        return len(self.arrays["scale"])


def _inverse(order: np.ndarray) -> np.ndarray:
    rows = np.empty(len(order), np.int32)
    rows[order] = np.arange(len(order), dtype=np.int32)
    return rows


def _taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array, copied on all threads."""
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)

    def take(start: int) -> None:
        part = slice(start, start + _CHUNK)
        # `clip` because the other modes copy once more; no row is out of range.
        np.take(array, rows[part], axis=0, out=taken[part], mode="clip")

    run(take, [(start,) for start in range(0, len(rows), _CHUNK)], available_threads())
    return taken


def _by_sub_block(
    signs: np.ndarray, order: np.ndarray, begins: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The order of rows with sub-blocks, and the arrays that hold signs, given these by position."""
    made = sub_blocks(signs, order, begins)
    return made.order, dict(zip(_SIGNS, (made.planes, made.rows, made.firsts, made.centers), strict=True))


def _checked_embeddings(embeddings: np.ndarray | None, n: int, width: int | None, copies: Sequence[str]) -> np.ndarray:
    for kind in copies:
        if kind not in COPIES:
            raise ValueError(f"`copies` names {kind!r}, which is unknown. Choose of {', '.join(COPIES)}.")
        if embeddings is None:
            raise ValueError(f"a copy {kind!r} needs the documents' `embeddings`. Pass what was encoded.")
        if embeddings.shape != (n, width):
            raise ValueError(f"`embeddings` has the shape {embeddings.shape} instead of ({n}, {width}).")
    return np.empty((n, 0), np.float32) if embeddings is None else embeddings
