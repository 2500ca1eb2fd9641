"""A map of latents: a circle each, as large as it fires often, beside those with similar atoms; and its texts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from csr_hf.demo.run_view import Document, RunView

MOST_BUBBLES = 300
"""Latents that a map shows, the most frequent; all others are found by name."""
WIDTH = 1000.0
_GROUPS = 12
_GROUP_SIZE = 12
_ROUNDS = 30
_GAP = 1.5
_GROUP_GAP = 16.0
_SMALLEST, _LARGEST = 7.0, 46.0
# Groups spread a little more to the sides than up and down.
_FLAT = 0.85


class Bubble(NamedTuple):
    """A latent on the map."""

    latent: int
    x: float
    y: float
    radius: float
    group: int


class Group(NamedTuple):
    """Similar latents, which stand together."""

    latent: int
    """The most frequent one."""
    x: float
    y: float
    """Of the highest point."""


class LatentMap(NamedTuple):
    """Circles within a width of 1000 and a height."""

    bubbles: list[Bubble]
    groups: list[Group]
    height: float


def draw_map(view: RunView) -> LatentMap:
    """Place the most frequent latents of a run: groups of similar atoms, alike ones near each other."""
    live = np.flatnonzero(view.fires > 0)
    chosen = live[np.argsort(-view.fires[live], kind="stable")][:MOST_BUBBLES]
    atoms = view.atoms[chosen].astype(np.float64)
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return place_bubbles(chosen, view.fires[chosen], atoms / np.where(norms > 0, norms, 1))


def place_bubbles(latents: np.ndarray, fires: np.ndarray, atoms: np.ndarray) -> LatentMap:
    """Place circles whose area grows with how often a latent fires, so that none overlap.

    Args:
        latents: their numbers, shape (n,).
        fires: above 0, shape (n,).
        atoms: of unit norm, shape (n, input_dim).
    """
    if not len(latents):
        return LatentMap([], [], 1.0)
    radii = np.maximum(_LARGEST * np.sqrt(fires / fires.max()), _SMALLEST)
    groups = _group(atoms)
    count = int(groups.max()) + 1
    inner: list[tuple[np.ndarray, np.ndarray]] = []
    sizes, centers = np.zeros(count), np.zeros((count, atoms.shape[1]))
    for group in range(count):
        members = np.flatnonzero(groups == group)
        members = members[np.argsort(-radii[members], kind="stable")]
        places = _pack(radii[members] + _GAP, atoms[members] @ atoms[members].T, 1.0)
        middle = (places.max(axis=0) + places.min(axis=0)) / 2
        places -= middle
        sizes[group] = (np.linalg.norm(places, axis=1) + radii[members]).max() + _GROUP_GAP
        centers[group] = atoms[members].mean(axis=0)
        inner.append((members, places))
    order = np.argsort(-sizes, kind="stable")
    around = np.zeros((count, 2))
    around[order] = _pack(sizes[order], centers[order] @ centers[order].T, _FLAT)
    positions = np.zeros((len(latents), 2))
    for group, (members, places) in enumerate(inner):
        positions[members] = around[group] + places
    low = (positions - radii[:, None]).min(axis=0) - [0, _GROUP_GAP]
    high = (positions + radii[:, None]).max(axis=0)
    scale = WIDTH / (high[0] - low[0])
    placed = (positions - low) * scale
    bubbles = [
        Bubble(int(latent), float(x), float(y), float(radius * scale), int(group))
        for latent, (x, y), radius, group in zip(latents, placed, radii, groups, strict=True)
    ]
    names = []
    for group in range(count):
        own = [bubble for bubble in bubbles if bubble.group == group]
        top = min(bubble.y - bubble.radius for bubble in own)
        middle = (min(each.x - each.radius for each in own) + max(each.x + each.radius for each in own)) / 2
        names.append(Group(max(own, key=lambda bubble: bubble.radius).latent, middle, top))
    return LatentMap(bubbles, names, float((high[1] - low[1]) * scale))


def _group(atoms: np.ndarray) -> np.ndarray:
    """Group similar atoms, by k-means."""
    from scipy.cluster.vq import kmeans2

    # There are no more groups than atoms that differ, of which a stranger's head may have few.
    count = max(1, min(_GROUPS, len(atoms) // _GROUP_SIZE, len(np.unique(atoms.round(6), axis=0))))
    groups = kmeans2(atoms, count, iter=_ROUNDS, minit="++", rng=0)[1]
    return np.unique(groups, return_inverse=True)[1]


def _pack(radii: np.ndarray, likeness: np.ndarray, flat: float) -> np.ndarray:
    """Place circles one by one where none overlap, near the middle and near those that are alike.

    Args:
        radii: shape (n,).
        likeness: of each to each, shape (n, n).
        flat: below 1: wider than high.

    Returns:
        Centers, shape (n, 2).
    """
    places = np.zeros((len(radii), 2))
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for new in range(1, len(radii)):
        before = places[:new]
        # Around each circle that is there, touching it.
        tried = (before[:, None] + (radii[:new] + radii[new])[:, None, None] * rays).reshape(-1, 2)
        gaps = np.linalg.norm(tried[:, None] - before, axis=2) - radii[:new] - radii[new]
        free = tried[gaps.min(axis=1) > -1e-6]
        weights = np.maximum(likeness[new, :new], 0) + 1e-3
        far = np.linalg.norm((free[:, None] - before) / [1, flat], axis=2) @ (weights / weights.sum())
        middle = np.linalg.norm(free / [1, flat], axis=1)
        places[new] = free[np.argmin(middle + 0.5 * far)]
    return places


class Text(NamedTuple):
    """A document in which a latent is active."""

    document: Document
    value: float
    """Of the latent."""


def find_texts(view: RunView, latent: int, count: int = 12) -> list[Text]:
    """Return the documents in which a latent is strongest, and others over its range.

    Args:
        view: the run.
        latent: its number.
        count: documents at most: two thirds the strongest, the others spread evenly over the rest.
    """
    rows, places = np.nonzero((view.codes.indices == latent) & (view.codes.values > 0) & view.alive[:, None])
    values = view.codes.values[rows, places]
    order = np.argsort(-values, kind="stable")
    strongest = min(len(order), count - count // 3)
    spread = np.linspace(strongest, len(order) - 1, min(count - strongest, len(order) - strongest)).astype(int)
    kept = order[np.concatenate([np.arange(strongest), np.unique(spread)]).astype(int)]
    documents = view.read(rows[kept].tolist())
    return [Text(document, float(value)) for document, value in zip(documents, values[kept], strict=True)]
