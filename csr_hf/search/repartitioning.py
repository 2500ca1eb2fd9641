"""Make the partitions of an index anew when it has grown: those of its beginning are too few and too coarse."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from csr_hf.plumbing.jit import frozen
from csr_hf.search.build.partitions import assign, count_partitions, fit_partitions, unit_rows
from csr_hf.search.build.signs import SignCodes, make_signs
from csr_hf.search.build.tuning import Curve, Margins, choose_settings, find_nearest, measure_recall
from csr_hf.search.index_view import State
from csr_hf.search.params import Measured, SearchParams
from csr_hf.search.query_encoder import QueryEncoder
from csr_hf.search.searcher import find_dense
from csr_hf.search.segment import Documents, Segment, decode

_GROWTH = 2
_ASKED = 300
_MARGIN = 0.015
"""Documents find more of their neighbors than other queries, the more the finer partitions are that they were in."""
_CHUNK = 32_768


def has_outgrown(settings: dict[str, Any], n: int) -> bool:
    """Tell whether n documents are at least twice those that the partitions were made for."""
    return n >= _GROWTH * max(settings.get("fitted", n), 1)


def remake_partitions(state: State, seed: int = 0) -> State:
    """Make partitions and their signs anew for the documents of one segment, of which none is deleted.

    Embeddings are float16 copies where the index keeps them, else what is stored of them, decoded. As many partitions
    are visited as find what was found before, measured on documents.

    Args:
        state: of the index. Its codes, ids, texts and copies stay as they are.
        seed: of the partitions.
    """
    (segment,), settings = state.segments, state.settings
    documents, unit = segment.unarrange(), settings["similarity"] == "cosine"
    rows = _read_embeddings(documents, state.encoder, settings)
    n, before = len(rows), settings["partitions"]
    is_usual = before == count_partitions(settings["fitted"])
    centers = frozen(fit_partitions(rows, count_partitions(n) if is_usual else before, seed, unit=unit))
    encoder = state.encoder._replace(centers=centers)
    parts, own = [], np.empty(n, np.int64)
    for start in range(0, n, _CHUNK):
        chunk = unit_rows(rows[start : start + _CHUNK], start, unit=unit)
        own[start : start + _CHUNK] = assign(chunk, centers)
        parts.append(make_signs(chunk, own[start : start + _CHUNK], centers, encoder.rotation))
    signs = SignCodes(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    moved = Segment.arrange(documents._replace(own=own, signs=signs), segment.ids, len(centers))
    found = State(
        (moved._replace(documents=segment.documents),),
        encoder,
        encoder.make_tables(settings),
        {**settings, "partitions": len(centers), "fitted": n},
    )
    return found._replace(settings={**found.settings, **_tune(state, found, rows, seed, unit=unit)})


def _read_embeddings(documents: Documents, encoder: QueryEncoder, settings: dict[str, Any]) -> np.ndarray:
    """Return what is known of the embeddings, shape (n, input_dim): of unit norm where cosines count."""
    if documents.copies is not None:
        return documents.copies
    unit, n = settings["similarity"] == "cosine", len(documents.own)
    rows = np.empty((n, encoder.input_dim), np.float16 if unit else np.float32)
    for start in range(0, n, _CHUNK):
        decoded = decode(documents.packed[start : start + _CHUNK], encoder) / np.float32(settings["norm"])
        rows[start : start + _CHUNK] = unit_rows(decoded, start, unit=unit)
    return rows


def _tune(before: State, after: State, rows: np.ndarray, seed: int, *, unit: bool) -> dict[str, Any]:
    """Find how many of the new partitions a search visits to find as much as in the old ones.

    Codes alone do not tell how much of the embeddings' neighbors they find, but that new partitions find the same.
    """
    centers = after.encoder.centers
    if not before.settings.get("measured"):
        search = functools.partial(find_within, after)
        return {"measured": [list(row) for row in choose_settings(rows, search, centers, unit=unit, seed=seed)]}
    asked = np.sort(np.random.default_rng(seed).permutation(len(rows))[:_ASKED])
    queries = unit_rows(rows[asked], unit=True)
    nearest = find_nearest(rows, queries, asked, unit=unit)

    def recall(margin: float, candidates: int, state: State = after) -> float:
        found = find_within(state, queries, nearest.shape[1] + 1, margin, candidates)
        return measure_recall(found, nearest, asked)

    margins, curves, tuned = Margins(queries, centers), {}, []
    for row in before.settings["measured"]:
        old = Measured(*row)
        if old.candidates not in curves:
            curves[old.candidates] = Curve(margins, functools.partial(recall, candidates=old.candidates))
        curve = curves[old.candidates]
        nprobe = curve.find_least(min(recall(old.margin, old.candidates, before) + _MARGIN, curve.most))
        tuned.append(list(old._replace(nprobe=nprobe, margin=margins.at(nprobe))))
    return {"measured": tuned}


def find_within(state: State, queries: np.ndarray, top_k: int, margin: float, candidates: int) -> np.ndarray:
    """Return positions of hits, shape (n, up to top_k), for queries of unit norm that visit partitions by a margin."""
    settings = {**state.settings, "measured": [[1.0, 0.0, state.settings["partitions"], margin, candidates]]}
    params = SearchParams()
    return find_dense(state.segments, state.tables, queries, [None], top_k, params, settings)[1]
