"""Learn from the codes of training embeddings how probable codes are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from csr_hf.coding.prior import MOST_ACTIVE, LatentPrior, PriorArrays
from csr_hf.coding.pursuit import Pursuit

_MOST_ROWS = 100_000
_FEWEST_ACTIVE = 8
_EPOCHS, _BATCH, _RATE, _FEWEST_STEPS = 2, 512, 0.02, 120
# How strongly links are held to 0: what few rows say is not believed.
_DECAY = 2.0
_MOST_LINKED = 2048
"""Latents of which it is learned which are active together: all pairs of more take too long."""
# Of unseen latents, so that none is impossible.
_FEW = 0.5
# Shares of latents that are replaced by others, by mode: embeddings of other texts are as surprising.
_NOISE = (0.0, 0.25, 0.5, 1.0)
_MEASURED = 2048
"""Rows whose symbols are counted."""
# How far numbers of other texts may be from those that were seen, and how much more often they need another mode.
_WIDTH = 8
_OTHER_MODES = 1 / 6
_KINDS, _ROUNDS = 6, 20
_USUAL = 16
"""Active latents that links have their own strength for."""
_BITS_OF_A_LATENT = 5
"""At least, with its level."""


class LatentLinks(NamedTuple):
    """What was learned of which latents are active together."""

    order: np.ndarray
    """Latents, those that are active most often first, int16, shape (dim,)."""
    bias: torch.Tensor
    """Logits by mode, shape (modes, dim)."""
    links: torch.Tensor
    """What an active latent adds to the logits of those behind it, shape (dim, dim)."""
    strengths: torch.Tensor
    """Of the links of 16 active latents, and the power of their number that it falls by, by mode, shape (modes, 2)."""
    weights: torch.Tensor
    """Of the logarithm of the number of latents still to come, by mode, shape (modes,)."""


def most_active(row_bytes: int) -> int:
    """Return how many latents a row of so many bytes may hold."""
    return max(1, min(8 * row_bytes // _BITS_OF_A_LATENT, MOST_ACTIVE))


def fit_links(pursuit: Pursuit, embeddings: np.ndarray, row_bytes: int) -> LatentLinks:
    """Learn which latents pursuit chooses together, for rows of up to so many bytes.

    Args:
        pursuit: of the head.
        embeddings: for training, float32, shape (n, input_dim); 100,000 of them are used.
        row_bytes: of the largest rows.
    """
    dim, rng = len(pursuit.gram), np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(embeddings))[:_MOST_ROWS])
    most = min(most_active(row_bytes), dim)
    chosen = pursuit.choose(torch.from_numpy(embeddings[rows]), most)
    # Rows of fewer bytes hold the first of these.
    counts = np.exp(rng.uniform(math.log(min(_FEWEST_ACTIVE, most)), math.log(most + 1), len(rows))).astype(int)
    at, place = np.nonzero(np.arange(most) < np.minimum(counts, chosen.counts)[:, None])
    active = np.zeros((len(rows), dim), bool)
    active[at, chosen.indices[at, place]] = True
    order = np.argsort(-active.sum(axis=0), kind="stable").astype(np.int16)
    return LatentLinks(order, *_descend(torch.from_numpy(active[:, order])))


def fit_prior(
    learned: LatentLinks, pursuit: Pursuit, embeddings: np.ndarray, row_bytes: int, bits: int
) -> LatentPrior:
    """Measure how often each level, scale and number of latents is written in rows of a given size.

    Args:
        learned: by `fit_links`, for rows of at least this size.
        pursuit: of the head.
        embeddings: for training, float32, shape (n, input_dim); 2,048 of them are used.
        row_bytes: of a row.
        bits: of a level.
    """
    most = min(most_active(row_bytes), len(learned.order))
    rows = np.sort(np.random.default_rng(1).permutation(len(embeddings))[:_MEASURED])
    chosen = pursuit.choose(torch.from_numpy(embeddings[rows]), most)
    largest = float(chosen.values.max(initial=0))
    left = torch.cat([torch.zeros(1), torch.arange(1, most + 1).log()])
    modes = len(learned.bias)
    arrays = PriorArrays(
        order=learned.order,
        bias=_sixteenths(learned.bias, np.int16),
        links=_sixteenths(learned.links, np.int8),
        strengths=_sixteenths(_strengths(learned.strengths, torch.arange(most + 1.0)[None]), np.int16),
        left=_sixteenths(learned.weights[:, None] * left, np.int16),
        modes=np.ones(modes, np.uint32),
        counts=np.ones(most + 1, np.uint32),
        kinds=np.ones(1, np.uint32),
        levels=np.ones((1, 2**bits), np.uint32),
        scales=np.ones(256, np.uint32),
        # Twice what was seen, and any power of two.
        base=np.array([2.0 ** math.ceil(math.log2(2 * largest)) if largest else 1], np.float32),
    )
    # What is written follows from what is probable.
    for _ in range(2):
        prior = LatentPrior(arrays)
        arrays = _count_symbols(prior, prior.write(pursuit, chosen, row_bytes))
    return LatentPrior(arrays)


def _count_symbols(prior: LatentPrior, rows: np.ndarray) -> PriorArrays:
    """Count how often each symbol stands in rows, and spread that to what other texts may need."""
    (_, levels, scales), modes = prior.read_modes(rows)
    often = np.stack([(levels == level).sum(axis=1) for level in range(1, 2**prior.bits + 1)], axis=1)
    kinds, shares = _find_kinds(often)
    seen = {
        "modes": np.bincount(modes, minlength=len(prior.arrays.modes)) + _OTHER_MODES * len(modes),
        "counts": _spread(np.bincount(often.sum(axis=1), minlength=prior.most + 1)),
        "kinds": kinds * 2**16,
        "levels": shares * 2**16,
        "scales": _spread(np.bincount(scales, minlength=len(prior.arrays.scales))),
    }
    return prior.arrays._replace(**{name: np.rint(count).astype(np.uint32) for name, count in seen.items()})


def _find_kinds(often: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a mixture of distributions to the levels of rows, by expectation and maximization.

    Args:
        often: each level of each row, shape (n, levels).

    Returns:
        share of each kind, shape (kinds,), and of its levels, shape (kinds, levels).
    """
    means = often @ np.arange(often.shape[1]) / np.maximum(often.sum(axis=1), 1)
    member = np.eye(_KINDS)[np.argsort(np.argsort(means, kind="stable"), kind="stable") * _KINDS // len(often)]
    for _ in range(_ROUNDS):
        kinds = (member.sum(axis=0) + 1) / (len(often) + _KINDS)
        shares = member.T @ often + 1
        shares /= shares.sum(axis=1, keepdims=True)
        chances = often @ np.log(shares).T + np.log(kinds)
        member = np.exp(chances - chances.max(axis=1, keepdims=True))
        member /= member.sum(axis=1, keepdims=True)
    return (kinds + 1 / _KINDS) / 2, shares


def _spread(seen: np.ndarray) -> np.ndarray:
    """Count every number that was seen as the numbers around it too."""
    return np.convolve(seen.astype(float), np.bartlett(2 * _WIDTH + 1)[1:-1], mode="full")[_WIDTH - 1 : 1 - _WIDTH]


def _sixteenths(numbers: torch.Tensor, kind: type) -> np.ndarray:
    limit = min(np.iinfo(kind).max, 2**14)
    rounded: np.ndarray = np.clip(np.rint(16 * numbers.numpy()), -limit, limit).astype(kind)
    return rounded


def _descend(sets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fit biases, links, their strengths and weights to sets of active latents, by the bits that these take.

    Args:
        sets: bool, shape (n, dim), in the order of coding.
    """
    (n, dim), generator = sets.shape, torch.Generator().manual_seed(0)
    often, noise = (sets.sum(0) + _FEW) / (n + 2 * _FEW), torch.tensor(_NOISE)[:, None]
    often = (1 - noise) * often + noise * often.mean()
    # Latents that are to be expected at and behind each place.
    expected = often.flip(1).cumsum(1).flip(1).log()
    bias, weights = often.logit().requires_grad_(), torch.ones(len(noise), requires_grad=True)
    strengths = torch.cat([1 - noise, torch.full_like(noise, 0.5)], dim=1).requires_grad_()
    links, behind = torch.zeros(dim, dim, requires_grad=dim <= _MOST_LINKED), torch.ones(dim, dim).triu(1)
    learned = [bias, weights, *([strengths, links] if links.requires_grad else [])]
    optimizer = torch.optim.Adam(learned, _RATE)
    steps = max(_FEWEST_STEPS, _EPOCHS * n // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    mode = torch.arange(_BATCH) % len(noise)
    for _ in range(steps):
        batch = _replace(sets[torch.randint(n, (_BATCH,), generator=generator)].float(), noise[mode], generator)
        left = batch.flip(1).cumsum(1).flip(1)
        known = links * behind
        logits = bias[mode] + weights[mode, None] * (left.clamp_min(_FEW).log() - expected[mode])
        if links.requires_grad:
            logits = logits + _strengths(strengths[mode], left[:, :1]) * (batch @ known)
        # Nothing is asked behind the last active latent.
        bits = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch, reduction="none") * (left > 0)
        optimizer.zero_grad()
        (bits.sum() / _BATCH + _DECAY * known.square().sum() / n).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        bias = bias - weights[:, None] * expected
        return bias, (links * behind)[: dim if links.requires_grad else 0], strengths.detach(), weights.detach()


def _strengths(learned: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Compute the strength of links between so many active latents."""
    return learned[:, :1] * (active.clamp_min(1) / _USUAL).pow(-learned[:, 1:])


def _replace(sets: torch.Tensor, shares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Replace a share of the active latents of each set by any others."""
    lost = (torch.rand(sets.shape, generator=generator) < shares) & (sets > 0)
    chance = lost.sum(1, keepdim=True) / (sets == 0).sum(1, keepdim=True)
    found = (torch.rand(sets.shape, generator=generator) < chance) & (sets == 0)
    return torch.where(lost, 0.0, torch.where(found, 1.0, sets))
