"""Documents that were indexed together: codes, posting lists and copies of embeddings, none of which ever changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr_hf.search import kernels, rescoring
from csr_hf.search.copies import COPIES, make_copy, score_copy
from csr_hf.search.documents import build_lists, checked_norms, norms_of, scales, storable
from csr_hf.search.queries import PreparedQueries, frozen
from csr_hf.sparse_codes import QueryProjections, SparseCodes
from csr_hf.threads import run

_ALL_ALLOWED = np.empty(0, np.uint8)


class Segment:
    """Documents that are searched together, by position.

    Args:
        arrays: indices, values (bits of float16), scale, starts, documents, weights, and those of copies.
        dim: length of the latents axis.
        block_size: documents of a block.
        decoded: whether scales are of the decoded documents, or of the codes.
        longest: the largest quotient of a code's norm and what scores divide by: 1 unless `decoded`. Lists hold codes
            divided by both.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], dim: int, block_size: int, decoded: bool, longest: float
    ) -> None:
        for array in arrays.values():
            array.flags.writeable = False
        # numba compiles anew for a subclass of ndarray, so memory maps are seen as plain arrays over the same pages.
        self.arrays = {name: array.view(np.ndarray) for name, array in arrays.items()}
        self.dim, self.block_size, self.decoded, self.longest = dim, block_size, decoded, longest

    @classmethod
    def build(
        cls,
        codes: SparseCodes,
        *,
        decoded_norms: np.ndarray | None,
        embeddings: np.ndarray | None,
        copies: Sequence[str],
        input_dim: int | None,
        block_size: int,
    ) -> Segment:
        """Index codes; see `InvertedIndex.build`.

        Raises:
            ValueError: as `InvertedIndex.build` does, but for ids.
        """
        if len(codes) > np.iinfo(np.int32).max:
            raise ValueError(
                f"`codes` holds {len(codes)} documents, a segment at most 2,147,483,647. Add the rest later."
            )
        indices, values = storable(codes)
        norms = None if decoded_norms is None else checked_norms(decoded_norms, len(codes))
        copied: dict[str, np.ndarray] = {}
        for kind in copies:
            copied |= make_copy(kind, _checked_embeddings(embeddings, len(codes), input_dim, kind))
        return cls._of(indices, values, scales(values, norms), copied, codes.dim, block_size, norms is not None)

    @classmethod
    def _of(
        cls,
        indices: np.ndarray,
        values: np.ndarray,
        scale: np.ndarray,
        copied: dict[str, np.ndarray],
        dim: int,
        block_size: int,
        decoded: bool,
    ) -> Segment:
        """With lists of what is stored."""
        longest = float((norms_of(values) * scale).max(initial=0)) or 1.0 if decoded else 1.0
        starts, documents, weights = build_lists(indices, values, scale / np.float32(longest), dim, block_size)
        arrays = {
            "indices": indices,
            "values": values,
            "scale": scale,
            "starts": starts,
            "documents": documents,
            "weights": weights,
        }
        return cls({**arrays, **copied}, dim, block_size, decoded, longest)

    def find(
        self, queries: PreparedQueries, depth: int, threads: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best `depth` documents by codes alone.

        Args:
            queries: prepared for this index.
            depth: documents wanted, no more than there are.
            threads: at work.
            allowed: bool, shape (n,): documents that may be found; None for all.

        Returns:
            float32 scores and int64 positions, shape (n_queries, depth), best first; -inf and -1 for none.
        """
        n_queries = len(queries.units)
        if not n_queries or not depth:
            return np.empty((n_queries, depth), np.float32), np.empty((n_queries, depth), np.int64)
        blocks = len(self.arrays["starts"])
        # Few queries cannot occupy the threads, so each is cut into parts of the blocks.
        parts = min(threads, blocks) if n_queries < 2 * threads else 1
        group = min(kernels.GROUP, -(-n_queries * parts // threads))
        keys = np.zeros((parts, n_queries, depth), np.uint64)
        lists = (self.arrays["starts"], self.arrays["documents"], self.arrays["weights"])
        stored = (self.arrays["indices"], self.arrays["values"], self.arrays["scale"])
        # Scores times this are what accumulators hold.
        units = frozen(queries.units / np.float32(self.longest))
        mask = frozen(_ALL_ALLOWED if allowed is None else allowed.view(np.uint8))

        def search(first: int, part: int) -> None:
            rows = slice(first, first + group)
            chosen = (
                queries.latents[rows],
                queries.values[rows],
                queries.steps[rows],
                units[rows],
                queries.slack[rows],
            )
            ends = part * blocks // parts, (part + 1) * blocks // parts
            kernels.search_blocks(lists, stored, chosen, mask, self.block_size, *ends, keys[part, rows])

        run(search, [(first, part) for first in range(0, n_queries, group) for part in range(parts)], threads)
        merged = keys[0]
        if parts > 1:
            merged = np.sort(keys.transpose(1, 0, 2).reshape(n_queries, -1), axis=1)[:, ::-1][:, :depth]
        scores, positions = kernels.split_keys(merged)
        if self.decoded:
            # A query of norm 0 finds nothing, and its scores stay -inf.
            scores *= np.where(queries.norms > 0, queries.norms, 1)[:, None]
        return scores, positions

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
        if isinstance(queries, np.ndarray):
            score_copy(kind, self.arrays, queries, positions, scores)
            return
        scale = self.arrays["scale"]
        rescoring.score_codes(
            self.arrays["indices"], self.arrays["values"], scale, queries.latents, queries.offset, positions, scores
        )

    @classmethod
    def joined(cls, segments: Sequence[Segment], rows: Sequence[np.ndarray], block_size: int) -> Segment:
        """One segment of some documents of several.

        Args:
            segments: at least one, of one index.
            rows: positions to keep of each.
            block_size: documents of a block.
        """
        pairs = list(zip(segments, rows, strict=True))

        def join(name: str) -> np.ndarray:
            return np.concatenate([segment.arrays[name][chosen] for segment, chosen in pairs])

        first = segments[0]
        copied = {name: join(name) for name in first.arrays if name.split("_")[0] in COPIES}
        stored = join("indices"), join("values"), join("scale")
        return cls._of(*stored, copied, first.dim, block_size, first.decoded)

    @property
    def codes(self) -> SparseCodes:
        """As they are stored."""
        values = self.arrays["values"].view(np.float16)
        return SparseCodes(self.arrays["indices"], values, self.dim, None, check=False)

    @property
    def uses(self) -> np.ndarray:
        """Documents that each latent is active in, shape (dim,)."""
        uses: np.ndarray = np.diff(self.arrays["starts"], axis=1).sum(axis=0)
        return uses

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def __len__(self) -> int:
        return len(self.arrays["scale"])


def _checked_embeddings(embeddings: np.ndarray | None, n: int, width: int | None, kind: str) -> np.ndarray:
    if kind not in COPIES:
        raise ValueError(f"`copies` names {kind!r}, which is unknown. Choose of {', '.join(COPIES)}.")
    if embeddings is None:
        raise ValueError(f"a copy {kind!r} needs the documents' `embeddings`. Pass what was encoded.")
    if embeddings.shape != (n, width):
        raise ValueError(f"`embeddings` has the shape {embeddings.shape} instead of ({n}, {width}).")
    return embeddings
