"""Choose the name of each latent among candidates: the one that best tells texts with the latent from others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from csr_hf.evaluation.similarity import unit_rows
from csr_hf.explain.phrases import LONGEST_PHRASE, Phrases, split_words, stem
from csr_hf.explain.samples import Sample, compute_auc

Embed = Callable[[Sequence[str]], np.ndarray]
"""Embeds names as the texts were embedded, float32, of unit norm, shape (n, input_dim)."""

# What BM25 says counts half of what the backbone says, and a further part of a name must raise both by so much.
_WORDS_COUNT = 0.5
_LEAST_GAIN = 0.005
# So much counts the cosine of a name with the atom, where few texts have a latent and tell names apart by chance.
_ATOM_COUNTS = 2.0


@dataclass(frozen=True)
class NamedTexts:
    """Texts that names are compared with."""

    phrases: Phrases
    units: np.ndarray
    """Their embeddings, of unit norm, shape (n, input_dim)."""


class Nearness(NamedTuple):
    """What tells how near candidates lie to an atom."""

    centered: np.ndarray
    """Candidates less the mean of all, of unit norm, shape (m, input_dim)."""
    direction: np.ndarray
    """Of the atom, of unit norm, shape (input_dim,)."""


def choose_names(
    candidates: Sequence[np.ndarray],
    samples: Sequence[Sample | None],
    texts: NamedTexts,
    embed: Embed,
    directions: np.ndarray | None = None,
) -> list[str]:
    """Choose a name of at most four words for each latent: parts are added as long as they make it predict better.

    Args:
        candidates: numbers of phrases for each latent.
        samples: of the half of the texts by which names are chosen; a latent without one is named by its first
            candidate.
        texts: all texts.
        embed: embeds candidates.
        directions: of the atoms, of unit norm, shape (latents, input_dim), which names are to lie near too; for few
            texts.

    Returns:
        Names, their parts separated by commas; empty where there are no candidates.
    """
    phrases = texts.phrases
    needed = np.unique(np.concatenate([np.empty(0, np.int64), *candidates])).astype(np.int64)
    vectors = embed(list(phrases.names[needed]))
    centered = center_rows(vectors)
    chosen = []
    if directions is None:
        directions = np.zeros((len(samples), vectors.shape[1]), np.float32)
    for numbers, sample, direction in zip(candidates, samples, directions, strict=True):
        names = list(phrases.names[numbers])
        if sample is None or not names:
            chosen.append(names[0] if names else "")
            continue
        at = np.searchsorted(needed, numbers)
        near = Nearness(centered[at], direction)
        chosen.append(", ".join(names[part] for part in _choose_parts(names, vectors[at], near, sample, texts)))
    return chosen


def center_rows(rows: np.ndarray) -> np.ndarray:
    """Subtract the mean of rows, shape (n, dim), which says nothing of an atom, and scale them to unit norm."""
    return unit_rows(rows - rows.mean(axis=0)) if len(rows) else rows


def _choose_parts(
    names: list[str], vectors: np.ndarray, near: Nearness, sample: Sample, texts: NamedTexts
) -> list[int]:
    """Choose candidates one by one, each the one that helps most beside those before it."""
    rows = np.concatenate(sample)
    having = len(sample.having)
    likeness = texts.units[rows] @ vectors.T
    stems = [list(dict.fromkeys(map(stem, split_words(name)))) for name in names]
    matches = _weigh_words(stems, texts.phrases, rows)
    parts: list[int] = []
    best, dense, sparse, whole = -np.inf, np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(near.direction))
    while len(parts) < LONGEST_PHRASE:
        open_ = [number for number in range(len(names)) if _fits(number, parts, stems)]
        if not open_:
            break
        # The embedding of a name of several parts is close to the sum of theirs; its norm changes no order.
        summed = dense[:, None] + likeness[:, open_]
        matched = sparse[:, None] + matches[:, open_]
        gains = compute_auc(summed[:having], summed[having:])
        gains = gains + _WORDS_COUNT * compute_auc(matched[:having], matched[having:])
        sums = whole + near.centered[open_]
        gains = gains + _ATOM_COUNTS * (sums @ near.direction) / np.maximum(np.linalg.norm(sums, axis=1), 1e-9)
        winner = int(np.argmax(gains))
        if gains[winner] < best + _LEAST_GAIN:
            break
        number = open_[winner]
        best, dense, sparse = float(gains[winner]), dense + likeness[:, number], matched[:, winner]
        whole = sums[winner]
        parts.append(number)
    return parts


def _fits(number: int, parts: list[int], stems: list[list[str]]) -> bool:
    """Tell whether a candidate adds words to parts without making the name longer than four words."""
    used = [word for part in parts for word in stems[part]]
    return len(used) + len(stems[number]) <= LONGEST_PHRASE and not set(used) & set(stems[number])


def _weigh_words(stems: list[list[str]], phrases: Phrases, rows: np.ndarray) -> np.ndarray:
    """Score texts by BM25 of the stems of each candidate, shape (len(rows), candidates)."""
    columns = sorted({phrases.stems[word] for words in stems for word in words if word in phrases.stems})
    weights = phrases.weights[rows][:, columns].toarray()
    place = {column: position for position, column in enumerate(columns)}
    scores = np.zeros((len(rows), len(stems)), np.float32)
    for number, words in enumerate(stems):
        scores[:, number] = weights[:, [place[phrases.stems[word]] for word in words if word in phrases.stems]].sum(1)
    return scores


def measure_names(
    names: Sequence[str], samples: Sequence[Sample | None], texts: NamedTexts, embed: Embed
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how well names tell texts with a latent from texts without it.

    Args:
        names: one for each latent; an empty one scores 0.5.
        samples: of the half of the texts that names were not chosen by.
        texts: all texts.
        embed: embeds names, whole as they are shown.

    Returns:
        AUC by the backbone and by BM25 for each latent, float32; NaN without a sample.
    """
    given = sorted({name for name in names if name})
    vectors = dict(zip(given, embed(given), strict=True)) if given else {}
    scores = np.full((2, len(names)), np.nan, np.float32)
    for latent, (name, sample) in enumerate(zip(names, samples, strict=True)):
        if sample is None:
            continue
        if not name:
            scores[:, latent] = 0.5
            continue
        rows, having = np.concatenate(sample), len(sample.having)
        for kind, found in enumerate((texts.units[rows] @ vectors[name], texts.phrases.score(name, rows))):
            scores[kind, latent] = compute_auc(found[:having], found[having:])
    return scores[0], scores[1]


def name_by_tfidf(strong: sp.csc_matrix, phrases: Phrases, words: int = LONGEST_PHRASE) -> list[str]:
    """Name each latent the obvious way: the words of largest mean TF-IDF in its texts.

    Args:
        strong: of `mark_strong`, shape (n, hidden_dim).
        phrases: of the same n texts.
        words: of a name.
    """
    single = np.flatnonzero([" " not in name for name in phrases.names])
    present = phrases.present[:, single].tocsr()
    texts = present.shape[0]
    rarity = np.log((1 + texts) / (1 + present.getnnz(axis=0))) + 1
    weighted = present @ sp.diags(rarity.astype(np.float32))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    means = (strong.T.tocsr() @ (sp.diags(1 / np.maximum(lengths, 1e-9)) @ weighted)).tocsr()
    names = []
    for latent in range(strong.shape[1]):
        part = slice(means.indptr[latent], means.indptr[latent + 1])
        best = means.indices[part][np.argsort(-means.data[part], kind="stable")[:words]]
        names.append(" ".join(phrases.names[single[best]]))
    return names
