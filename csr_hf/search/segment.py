"""Documents that were indexed together: codes, posting lists and copies of embeddings, none of which ever changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.plumbing.threads import available_threads, run
from csr_hf.search import rescoring
from csr_hf.search.building import BLOCK
from csr_hf.search.clustering import similar_blocks
from csr_hf.search.copies import COPIES, make_copies, row_norms, score_copy
from csr_hf.search.documents import build_lists, checked_norms, inverse_norms, quantised
from csr_hf.search.settings import Settings
from csr_hf.search.sub_blocks import signs_of, sub_blocks
from csr_hf.sparse_codes import QueryProjections, SparseCodes

LISTS = ("bits", "ranks", "firsts", "offsets", "starts", "postings")
SIGNS = ("binary", "binary_rows", "binary_firsts", "binary_centers")
"""Arrays that kernels take together, by name."""
_BY_ROW = ("indices", "values", "steps", "scale", "binary_norm", "int8", "int8_scale", "float16")
_FIRST_STAGE = (*LISTS, "summary", "scale", "order", "rows")
_CHUNK = 16_384


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
        settings: Settings,
        *,
        decoded_norms: np.ndarray | None,
        embeddings: np.ndarray | None,
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
        unit, copies = settings.similarity == "cosine", settings.copies
        divisors = decoded_norms if unit else np.ones(len(codes), np.float32)
        norms = None if divisors is None else checked_norms(divisors, len(codes))
        stored = {
            "indices": indices,
            "values": values,
            "steps": steps,
            "scale": steps * inverse_norms(values, steps, norms),
        }
        dense = _checked_embeddings(embeddings, len(codes), settings.input_dim, copies)
        order, begins = similar_blocks(indices, values, codes.dim, BLOCK)
        copied: dict[str, np.ndarray] = {}
        if "binary" in copies:
            order, copied = _by_sub_block(make_copies(["binary"], dense, _inverse(order))["binary"], order, begins)
            copied |= {} if unit else {"binary_norm": row_norms(dense)[order]}
        others = [kind for kind in copies if kind != "binary"]
        if others:
            copied |= make_copies(others, dense, _inverse(order), unit=unit)
        stored = {name: _taken(stored.pop(name), order) for name in list(stored)}
        return cls._of({**stored, **copied, "order": order, "rows": begins}, codes.dim, norms is not None)

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray], dim: int, decoded: bool) -> Segment:
        """With lists of what is stored."""
        stored = arrays["indices"], arrays["values"], arrays["scale"]
        lists = build_lists(*stored, arrays["order"], arrays["rows"], dim)
        return cls({**arrays, **lists}, dim, decoded)

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
            order, copied = _by_sub_block(kept[order], order, begins)
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
    """The order of rows with sub-blocks, and the arrays that hold signs, given these by row."""
    made = sub_blocks(signs, begins)
    return order[made.order], dict(zip(SIGNS, (made.planes, made.rows, made.firsts, made.centers), strict=True))


def _checked_embeddings(embeddings: np.ndarray | None, n: int, width: int | None, copies: Sequence[str]) -> np.ndarray:
    for kind in copies:
        if kind not in COPIES:
            raise ValueError(f"`copies` names {kind!r}, which is unknown. Choose of {', '.join(COPIES)}.")
        if embeddings is None:
            raise ValueError(f"a copy {kind!r} needs the documents' `embeddings`. Pass what was encoded.")
        if embeddings.shape != (n, width):
            raise ValueError(f"`embeddings` has the shape {embeddings.shape} instead of ({n}, {width}).")
    return np.empty((n, 0), np.float32) if embeddings is None else embeddings
