"""How a search is done: its defaults, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from csr_hf.plumbing.threads import available_threads

COPIES = ("float16",)
"""Copies of the embeddings that an index may keep beside its codes."""
RERANKS = ("auto", "none", "codes", *COPIES)
# Scores are float32.
_LARGEST_MARGIN = 2.0**127


@dataclass(frozen=True)
class SearchParams:
    """How an index is searched.

    Raises:
        ValueError: for values out of range or unknown ones, naming them.
    """

    nprobe: int | Literal["auto"] | None = "auto"
    """Partitions to visit, the most promising first. "auto": those that score nearly as high as a query's best four;
    how nearly is what the index measured when it was built, to find 0.95 of the ten nearest documents on average.
    None: all."""
    candidates: int | None = None
    """Documents to rerank; never fewer than hits are asked for. Default: what the index measured."""
    rerank: Literal["auto", "none", "codes", "float16"] = "auto"
    """What candidates are ranked by: "codes", what is stored of every document; "float16", copies of the embeddings,
    where the index keeps them; "none", the scan alone. "auto": float16 copies where there are some, else codes."""
    exact: bool = False
    """Rank all documents by their sparse codes alone, without residuals, through inverted lists, as engines do."""
    threads: int | None = None
    """Default as many as there are cores. 1 stays on the calling thread."""

    def __post_init__(self) -> None:
        if self.nprobe != "auto":
            _check_count("nprobe", self.nprobe, '"auto", or None for all partitions')
        _check_count("candidates", self.candidates, "or None for what the index measured")
        if self.rerank not in RERANKS:
            raise ValueError(f"`rerank` ({self.rerank!r}) is unknown. Choose one of {RERANKS}.")
        if not isinstance(self.exact, bool):
            raise ValueError(f"`exact` ({self.exact!r}) must be True or False.")
        count_threads(self.threads)


def check_top_k(top_k: Any) -> int:
    """Return the number of hits a query may have.

    Raises:
        ValueError: if it is no integer of at least 1.
    """
    if isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k.__index__() < 1:
        raise ValueError(f"`top_k` ({top_k!r}) must be an integer of at least 1.")
    return int(top_k.__index__())


def check_copies(copies: Any) -> tuple[str, ...]:
    """Return the copies that an index is to keep.

    Raises:
        ValueError: for an unknown one.
    """
    names = (copies,) if isinstance(copies, str) else tuple(copies)
    for name in names:
        if name not in COPIES:
            raise ValueError(f"`copies` names {name!r}, which is unknown. Choose from {COPIES}.")
    return tuple(dict.fromkeys(names))


def count_threads(threads: int | None) -> int:
    """Return the number of threads, by default that of the cores.

    Raises:
        ValueError: if it is below 1.
    """
    _check_count("threads", threads, "or None for as many as there are cores")
    return available_threads() if threads is None else threads


def _check_count(name: str, value: Any, others: str) -> None:
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < 1):
        raise ValueError(f"`{name}` ({value!r}) must be an integer of at least 1, {others}.")


def check_settings(settings: dict[str, Any]) -> None:
    """Check what the manifest of an index says of all its documents.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    counts = {"dim": 1, "input_dim": 1, "k": 1, "partitions": 1, "row_bytes": 1, "bits": 1, "residual_bytes": 0}
    counts |= {name: 1 for name in ("nprobe", "candidates") if name in settings}
    counts |= {"fitted": 0} if "fitted" in settings else {}
    for name, least in counts.items():
        value = settings.get(name)
        if type(value) is not int or not least <= value < 2**48:
            raise ValueError(f"its setting {name!r} ({value!r:.40}) is no number from {least} on")
    margin = settings.get("margin", 0.0)
    if type(margin) is not float or not 0 <= margin < _LARGEST_MARGIN:
        raise ValueError(f"its setting 'margin' ({margin!r:.40}) is no number from 0 on")
    if settings["k"] > settings["dim"]:
        raise ValueError(f"its setting 'k' ({settings['k']}) is above the {settings['dim']} latents that there are")
    if settings.get("similarity") not in ("cosine", "dot") or not isinstance(settings.get("head"), str):
        raise ValueError("its settings name no similarity or no head")
    check_copies(settings.get("copies", [None]))
