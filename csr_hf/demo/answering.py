"""Answer a question from codes of k latents, reranked or not, and from dense embeddings beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from csr_hf.codes import encode_embeddings
from csr_hf.demo.run_view import LONGEST, CodesAt, Document, Query, RunView
from csr_hf.explain.steering import Steering, have_latents, steer_queries
from csr_hf.explain.why import Share, split_score
from csr_hf.search.params import SearchParams

Rerank = Literal["none", "codes", "float16", "index"]
RERANKS: tuple[Rerank, ...] = get_args(Rerank)
MOST_HITS = 50
_CANDIDATES = 100
_MORE = 0.4
_SHARES = 8
_ASKED = 10


@dataclass(frozen=True)
class Settings:
    """What a person chose on the page.

    Args:
        k: latents of a document's code that count.
        rerank: "none": the order by the code of k latents. "codes": its best 100, ranked by all that the index stores;
            "float16": by copies of the embeddings. "index": the search of `csr-hf search`, whatever k.
        top_k: hits.
        more: latents that the query is to have more of.
        without: latents that are taken out of the query.
        must: latents that the stored code of a document must have, whatever k.
    """

    k: int
    rerank: Rerank = "none"
    top_k: int = 10
    more: Sequence[int] = ()
    without: Sequence[int] = ()
    must: Sequence[int] = ()


@dataclass(frozen=True)
class Found:
    """One hit."""

    document: Document
    score: float
    other_rank: int | None
    """Its place in the other side's list, from 1 on; None where it is not in it."""
    shares: Sequence[Share] = ()
    """Latents of its code that add most to the score."""


@dataclass(frozen=True)
class Side:
    """Hits of one method, with what they cost."""

    hits: Sequence[Found]
    milliseconds: float
    bytes: float
    """Stored for a document."""


@dataclass(frozen=True)
class Answer:
    """Both sides of an answer."""

    question: str
    """Empty for a picture."""
    is_cut: bool
    """Whether the question was longer than what is read of it."""
    embedding: float
    """Milliseconds that embedding the question took; both sides need it."""
    asked: Mapping[int, float]
    """Latents of the question, the strongest first, and their values."""
    sparse: Side
    dense: Side | None
    picture: bytes | None = None
    """A small JPEG of a question that is a picture."""

    @property
    def common(self) -> int:
        """Hits that both sides have."""
        return sum(hit.other_rank is not None for hit in self.sparse.hits)


def answer(view: RunView, question: str | bytes, chosen: Settings) -> Answer:
    """Find the best documents for a question by codes, and by dense embeddings where there are some.

    Args:
        view: the run.
        question: in words, or the content of an image file.
        chosen: how to search; values out of range are brought into it. Latents steer the side of the codes alone.

    Raises:
        ValueError: for an empty question, a picture that cannot be read, a rerank that the index has not, or a latent
            wanted and unwanted at a time.
    """
    text = question[:LONGEST] if isinstance(question, str) else ""
    query = view.embed(text) if isinstance(question, str) else view.embed_picture(question)
    chosen = _check(view, chosen)
    row = _steer(view, query.row, chosen)
    # What is computed once for a k is no part of a search.
    codes = view.codes_at(chosen.k)
    start = time.perf_counter()
    positions, scores = _rank(view, row, codes, chosen)
    spent = 1000 * (time.perf_counter() - start)
    asked = encode_embeddings(view.head, row[None], view.head.config.k)
    known = {int(n): float(v) for n, v in zip(asked.indices[0][:_ASKED], asked.values[0][:_ASKED], strict=True) if v}
    dense = None if view.dense is None else _rank_dense(view, query, chosen.top_k)
    theirs = [] if dense is None else dense[0].tolist()
    shares = [
        split_score(view.head, row, codes.codes[int(at)], by_dot=view.by_dot, latents=view.latents).largest(_SHARES)
        for at in positions
    ]
    found = _describe(view, positions, scores, theirs, shares)
    sparse = Side(found, spent, _count_bytes(view, codes, chosen.rerank))
    other = None
    if dense is not None:
        hits = _describe(view, dense[0], dense[1], positions.tolist())
        other = Side(hits, dense[2], 4 * view.head.config.input_dim)
    is_cut = isinstance(question, str) and len(question) > LONGEST
    return Answer(text, is_cut, query.milliseconds, known, sparse, other, query.picture)


def reranks_of(view: RunView) -> list[Rerank]:
    """List the ways to rerank that the index of a run has."""
    return [name for name in RERANKS if name != "float16" or "float16" in view.index.copies]


def _check(view: RunView, chosen: Settings) -> Settings:
    if chosen.rerank not in reranks_of(view):
        raise ValueError(f"The index has no {chosen.rerank!r} to rerank by. Choose {', '.join(reranks_of(view))}.")
    both = {*chosen.more, *chosen.must} & set(chosen.without)
    if both:
        raise ValueError(f"{view.name(min(both))!r} is both wanted and unwanted. Take it out of one.")
    k, top_k = min(max(int(chosen.k), 1), view.k), min(max(int(chosen.top_k), 1), MOST_HITS)
    more, without, must = (
        [int(each) for each in given if 0 <= int(each) < view.index.dim]
        for given in (chosen.more, chosen.without, chosen.must)
    )
    return Settings(k, chosen.rerank, top_k, more, without, must)


def _steer(view: RunView, row: np.ndarray, chosen: Settings) -> np.ndarray:
    steering = Steering({latent: _MORE for latent in chosen.more}, tuple(chosen.without))
    return steer_queries(view.head, row[None], steering)[0] if steering.changes_query else row


def _rank(view: RunView, row: np.ndarray, codes: CodesAt, chosen: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and scores of the best documents, best first."""
    rerank, top_k = chosen.rerank, chosen.top_k
    if rerank == "index":
        params = view.searcher.index.params  # type: ignore[union-attr]
        found = view.index.search(row[None], top_k, params, must=chosen.must)
        return _only_found(found.positions[0], found.scores[0])
    allowed = view.alive & have_latents(view.codes, chosen.must) if chosen.must else view.alive
    wanted = top_k if rerank == "none" else max(top_k, _CANDIDATES)
    positions, scores = rank_codes(view, row, codes, wanted, allowed)
    if rerank == "none" or not len(positions):
        return positions, scores
    best = np.zeros(len(view.alive), bool)
    best[positions] = True
    params = SearchParams(nprobe=None, candidates=len(positions), rerank=rerank)
    found = view.index.search(row[None], top_k, params, allowed=best)
    return _only_found(found.positions[0], found.scores[0])


def _only_found(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return positions[positions >= 0], scores[positions >= 0]


def rank_codes(
    view: RunView, row: np.ndarray, codes: CodesAt, top_k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank documents by their codes: positions and scores of the best, best first.

    Args:
        view: the run.
        row: query as the head takes it, shape (input_dim,).
        codes: of the documents.
        top_k: documents wanted.
        allowed: which documents may be found, bool, shape (n,).
    """
    if not len(allowed):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    scores = codes.matrix @ (view.atoms @ row) + view.bias @ row
    if not view.by_dot:
        scores /= codes.norms * max(float(np.linalg.norm(row)), 1e-12)
    return _take_best(scores, allowed, top_k)


def _rank_dense(view: RunView, query: Query, top_k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return positions and scores of the dense model's best documents, and milliseconds."""
    raw = query.raw if view.by_dot else query.raw / max(float(np.linalg.norm(query.raw)), 1e-12)
    start = time.perf_counter()
    scores = view.dense @ raw if view.dense is not None else np.zeros(0, np.float32)
    positions, best = _take_best(scores, view.alive, top_k)
    return positions, best, 1000 * (time.perf_counter() - start)


def _take_best(scores: np.ndarray, allowed: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.where(allowed, scores, -np.inf)
    count = min(top_k, int(allowed.sum()))
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    best = np.argpartition(-scores, count - 1)[:count]
    best = best[np.argsort(-scores[best], kind="stable")]
    return best, scores[best]


def _describe(
    view: RunView,
    positions: np.ndarray,
    scores: np.ndarray,
    others: Sequence[int],
    shares: Sequence[Sequence[Share]] = (),
) -> list[Found]:
    ranks = {position: rank for rank, position in enumerate(others, 1)}
    parts = shares or [()] * len(positions)
    return [
        Found(document, float(score), ranks.get(int(position)), part)
        for document, score, position, part in zip(
            view.read(positions.tolist()), scores, positions, parts, strict=True
        )
    ]


def _count_bytes(view: RunView, codes: CodesAt, rerank: Rerank) -> float:
    """Count what is stored of a document for a way to search it."""
    settings = view.index.settings
    if rerank == "index":
        return view.index_bytes
    if rerank == "codes":
        return float(settings["row_bytes"] + settings.get("residual_bytes", 0))
    return codes.row_bytes + (2 * view.head.config.input_dim if rerank == "float16" else 0)
