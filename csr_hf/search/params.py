"""How a search is done: its defaults, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from csr_hf.plumbing.threads import available_threads
from csr_hf.search.copies import COPIES


@dataclass(frozen=True)
class SearchParams:
    """How an index is searched.

    Raises:
        ValueError: for values out of range or unknown ones, naming them.
    """

    query_k: int | None = None
    """Latents of a query to use; default all of its code."""
    rescore: Literal["self", "binary", "int8", "float16"] | None = None
    """None ranks by codes alone. Else the best `candidates` of that ranking are scored anew: "self" by
    <x_q, decode(z_d)> / ||decode(z_d)||, a copy by <x_q, x_d> with x_d as it is stored, of unit norm. Cosines, if the
    embeddings x_q are of unit norm; inner products in an index of those."""
    candidates: int = 100
    """Documents to rescore, at least as many as hits; unused without `rescore`."""
    scan: Literal["binary"] | None = None
    """Where candidates come from: None, the inverted lists of the codes; "binary", the signs that the copy of this
    name keeps of every document in the visited blocks. Blocks are chosen by the codes either way."""
    nprobe: int | None = None
    """Blocks of 256 similar documents to visit, the most promising first, in every segment; default all. Where blocks
    have sub-blocks, a scan reads as many of these, the most promising in the visited blocks."""
    threads: int | None = None
    """Default as many as there are cores. 1 stays on the calling thread."""

    def __post_init__(self) -> None:
        check_rescore(self.rescore)
        if self.scan not in (None, "binary"):
            raise ValueError(f'`scan` ({self.scan!r}) is unknown. Choose "binary", or None for inverted lists.')
        if self.scan and self.rescore is None:
            raise ValueError('`scan="binary"` finds candidates for a second stage. Pass `rescore`, for one "int8".')
        if self.nprobe is not None and self.nprobe < 1:
            raise ValueError(f"`nprobe` ({self.nprobe}) must be at least 1, or None for all blocks.")
        count_threads(self.threads)

    def depth(self, top_k: int, copies: Sequence[str]) -> int:
        """Count the documents that the first stage has to find, after checking that an index can be searched so.

        Args:
            top_k: hits of a query.
            copies: that the index keeps.

        Raises:
            ValueError: for copies that it does not keep, and for numbers out of range.
        """
        if top_k < 1:
            raise ValueError(f"`top_k` ({top_k}) must be at least 1.")
        if self.scan and self.scan not in copies:
            raise ValueError(
                f'`scan="binary"` needs such copies of the embeddings, and the index has '
                f'{", ".join(copies) or "none"}. Build it with `embeddings=..., copies=["binary", "int8"]`.'
            )
        if self.rescore is None:
            return top_k
        check_rescore(self.rescore, copies)
        if self.candidates < top_k:
            raise ValueError(
                f"`candidates` ({self.candidates}) must be at least `top_k` ({top_k}). Raise `candidates`."
            )
        return self.candidates


def check_rescore(kind: str | None, copies: Sequence[str] = COPIES) -> None:
    """Check that documents can be rescored.

    Args:
        kind: of the second stage; None for none.
        copies: that there are.

    Raises:
        ValueError: for an unknown kind, or copies that there are not.
    """
    if kind not in (None, "self", *COPIES):
        raise ValueError(f"`rescore` ({kind!r}) is unknown. Choose one of {('self', *COPIES)} or None.")
    if kind not in (None, "self", *copies):
        raise ValueError(
            f'`rescore="{kind}"` needs such copies of the embeddings, and the index has '
            f'{", ".join(copies) or "none"}. Build it with `embeddings=..., copies=["{kind}"]`.'
        )


def count_threads(threads: int | None) -> int:
    """Return the number of threads, by default that of the cores.

    Raises:
        ValueError: if it is below 1.
    """
    if threads is None:
        return available_threads()
    if threads < 1:
        raise ValueError(f"`threads` ({threads}) must be at least 1.")
    return threads
