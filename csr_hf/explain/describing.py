"""Name the latents of a head, and measure the names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from csr_hf.codes import encode_embeddings, read_atoms, subtract_modality_mean
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.explain.activity import choose_examples, find_companions, tabulate_activity
from csr_hf.explain.candidates import embed_contexts, find_candidates, mark_strong
from csr_hf.explain.items import Items
from csr_hf.explain.latents import Example, Latent, Latents
from csr_hf.explain.naming import Embed, NamedTexts, center_rows, choose_names, measure_names, name_by_tfidf
from csr_hf.explain.phrases import count_phrases
from csr_hf.explain.samples import draw_samples, split_halves

if TYPE_CHECKING:
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)

STRONG_SHARE = 0.1
"""Of the texts in which a latent is active, those that count as texts with it: the strongest tenth."""
_SHOWN_CHARACTERS = 300
_BATCH = 256
_FEWEST_TEXTS = 8
# Phrases that are embedded themselves; where there are more, there are texts enough to tell by.
_MOST_EMBEDDED = 10_000
# Texts with a latent by which its name is chosen, where there are few.
_FEWEST_STRONG = 16


def embed_names_with(backbone: Backbone, head: CSRModel) -> Embed:
    """Return a function that embeds names as queries are embedded, less the mean of texts, of unit norm."""

    def embed(names: Sequence[str]) -> np.ndarray:
        rows = backbone.embed(list(names), batch_size=_BATCH, task="query")
        return np.asarray(unit_rows(subtract_modality_mean(head, rows, "text")), np.float32)

    return embed


def describe_latents(
    head: CSRModel, items: Items, embed: Embed, *, shares: Sequence[float] = (STRONG_SHARE,), seed: int = 0
) -> Latents:
    """Name every latent by the texts that activate it most, and measure on other texts what the names predict.

    Names are chosen on one half of the texts and measured on the other. Texts with a latent are a share of its active
    texts, the strongest; half of the texts without it are the nearest to those.

    Args:
        head: the CSR head.
        items: n texts, or pictures with captions, and their embeddings.
        embed: embeds names, see `embed_names_with`.
        shares: of the active texts that count as texts with a latent; names are chosen by the first, and measured by
            all.
        seed: chooses the texts without a latent.

    Raises:
        ValueError: if there are fewer than 8 texts in a half, or a share is not in (0, 1].
    """
    second = split_halves(items.embeddings)
    first, second = np.flatnonzero(~second), np.flatnonzero(second)
    if min(len(first), len(second)) < _FEWEST_TEXTS:
        raise ValueError(
            f"`items` has {len(items)} texts, too few to choose names by one half and measure them by the other. "
            "Give some hundreds."
        )
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"`shares` ({share}) must be above 0 and at most 1.")
    rng = np.random.default_rng(seed)
    activity = tabulate_activity(encode_embeddings(head, items.embeddings))
    logger.info("codes      of %s texts", f"{len(items):,}")
    phrases = count_phrases(items.texts)
    logger.info("phrases    %s words and phrases", f"{len(phrases.names):,}")
    texts = NamedTexts(phrases, unit_rows(items.embeddings))
    strong, known = mark_strong(activity[first], shares[0]), phrases.take(first)
    directions, embed = unit_rows(read_atoms(head)), _remember(embed)
    is_few = len(known.names) <= _MOST_EMBEDDED
    vectors = center_rows(embed(list(known.names))) if is_few else embed_contexts(known, texts.units[first])
    candidates = find_candidates(strong, known, vectors, directions, by_atom=16 if is_few else 5)
    fewest = _FEWEST_STRONG if is_few else _FEWEST_TEXTS
    drawn = draw_samples(activity, texts.units, first, shares[0], rng, fewest=fewest)
    names = choose_names(candidates, drawn, texts, embed, directions if is_few else None)
    logger.info("names      chosen on %s texts", f"{len(first):,}")
    samples = [draw_samples(activity, texts.units, second, share, rng) for share in shares]
    measured = [measure_names(names, drawn, texts, embed) for drawn in samples]
    rival = name_by_tfidf(strong, known)
    scores = _tabulate(shares, measured, [measure_names(rival, drawn, texts, embed) for drawn in samples])
    logger.info("measured   on %s texts", f"{len(second):,}")
    return Latents(
        latents=_describe(items, activity, names, measured[0]),
        head=head.fingerprint,
        texts=len(items),
        scores=scores,
    )


def _remember(embed: Embed) -> Embed:
    """Return the same function, but that it embeds every name once."""
    known: dict[str, np.ndarray] = {}

    def remembered(names: Sequence[str]) -> np.ndarray:
        if new := sorted(set(names) - known.keys()):
            known.update(zip(new, embed(new), strict=True))
        return np.array([known[name] for name in names], np.float32) if names else embed([])

    return remembered


def _describe(
    items: Items, activity: sp.csc_matrix, names: Sequence[str], measured: tuple[np.ndarray, np.ndarray]
) -> list[Latent]:
    fires = activity.getnnz(axis=0) / len(items)
    companions, strengths = find_companions(activity)
    return [
        Latent(
            number=number,
            name=names[number] if fires[number] else "",
            fires=round(float(fires[number]), 6),
            auc=_rounded(measured[0][number]),
            auc_words=_rounded(measured[1][number]),
            together=[
                (int(other), round(float(strength), 3))
                for other, strength in zip(companions[number], strengths[number], strict=True)
                if strength > 0
            ],
            examples=[_show(items, row, value) for row, value in choose_examples(activity, number)],
        )
        for number in range(len(names))
    ]


def _show(items: Items, row: int, value: float) -> Example:
    thumbnail = None if items.thumbnails is None else items.thumbnails[row]
    return Example(" ".join(items.texts[row].split())[:_SHOWN_CHARACTERS], round(value, 4), thumbnail)


def _rounded(score: float) -> float | None:
    return None if np.isnan(score) else round(float(score), 4)


def _tabulate(
    shares: Sequence[float],
    own: Sequence[tuple[np.ndarray, np.ndarray]],
    rival: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    """Say how well names predict: a row for each share of the texts, method and measure."""
    rows = []
    for method, measured in (("names", own), ("words of largest mean TF-IDF", rival)):
        for share, pair in zip(shares, measured, strict=True):
            for measure, scores in zip(("backbone", "BM25"), pair, strict=True):
                found = scores[~np.isnan(scores)].astype(np.float64)
                rows.append(
                    {
                        "names": method,
                        "by": measure,
                        "share": share,
                        "latents": len(found),
                        "median": round(float(np.median(found)), 4) if len(found) else None,
                        "at_least_0.8": round(float((found >= 0.8).mean()), 4) if len(found) else None,
                        "below_0.7": round(float((found < 0.7).mean()), 4) if len(found) else None,
                    }
                )
    return rows
