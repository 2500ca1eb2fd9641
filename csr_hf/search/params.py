"""How a search is done: its defaults, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from csr_hf.plumbing.threads import available_threads

COPIES = ("float16",)
"""Copies of the embeddings that an index may keep beside its codes."""
RERANKS = ("auto", "none", "codes", *COPIES)
# Scores are float32.
_LARGEST_MARGIN = 2.0**127


class Measured(NamedTuple):
    """What an index measured when it was built: how to find a share of the nearest documents."""

    goal: float
    """The share that is wanted."""
    recall: float
    """That was found, of the ten nearest documents, when documents asked."""
    nprobe: int
    """Partitions that are visited on average."""
    margin: float
    """See `kernels.probing.choose_partitions`."""
    candidates: int
    """Documents that are reranked."""


@dataclass(frozen=True)
class SearchParams:
    """How an index is searched.

    Raises:
        ValueError: for values out of range or unknown ones, naming them.
    """

    nprobe: int | Literal["auto"] | None = "auto"
    """Partitions to visit, the most promising first. "auto": those that score nearly as high as a query's best four;
    how nearly is what the index measured when it was built, to find `recall`. None: all."""
    recall: float = 0.95
    """Share of the ten nearest documents that "auto" is to find on average. The index measured it for ten shares from
    0.8 to 0.99, and takes the next of these; where that cannot be reached, nearly the most it finds."""
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
        if isinstance(self.recall, bool) or not isinstance(self.recall, (int, float)) or not 0 < self.recall < 1:
            raise ValueError(f"`recall` ({self.recall!r}) must be a number between 0 and 1, such as 0.95.")
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
    counts |= {"fitted": 0} if "fitted" in settings else {}
    for name, least in counts.items():
        value = settings.get(name)
        if type(value) is not int or not least <= value < 2**48:
            raise ValueError(f"its setting {name!r} ({value!r:.40}) is no number from {least} on")
    measured = settings.get("measured", [])
    if not isinstance(measured, list) or not all(isinstance(row, list) and _is_measured(row) for row in measured):
        raise ValueError(f"its setting 'measured' ({measured!r:.80}) is not what an index measures")
    if settings["k"] > settings["dim"]:
        raise ValueError(f"its setting 'k' ({settings['k']}) is above the {settings['dim']} latents that there are")
    if settings.get("similarity") not in ("cosine", "dot") or not isinstance(settings.get("head"), str):
        raise ValueError("its settings name no similarity or no head")
    check_copies(settings.get("copies", [None]))


def _is_measured(row: list[Any]) -> bool:
    if [type(value) for value in row] != [float, float, int, float, int]:
        return False
    found = Measured(*row)
    counts = min(found.nprobe, found.candidates) >= 1 and max(found.nprobe, found.candidates) < 2**48
    return counts and 0 < found.goal < 1 and 0 <= found.recall <= 1 and 0 <= found.margin < _LARGEST_MARGIN


def find_measured(settings: dict[str, Any], recall: float) -> Measured | None:
    """Find in the settings of an index how to find a share of the nearest documents; None if nothing was measured."""
    found = None
    for row in settings.get("measured", []):
        found = row
        if row[0] >= recall:
            break
    return None if found is None else Measured(*found)
