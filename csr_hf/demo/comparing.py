"""Compare two texts: what their embeddings and codes say, and the latents that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.demo.run_view import LONGEST, RunView


class Pair(NamedTuple):
    """A latent that both texts have."""

    latent: int
    first: float
    second: float
    share: float
    """Part of the product of both codes, from 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """What two texts have in common."""

    dense: float
    """Cosine of their embeddings."""
    sparse: float
    """Cosine of what their codes decode to."""
    k: int
    shared: list[Pair]
    """Latents of both, those that count most first."""
    only_first: dict[int, float]
    """Latents of the first alone, the strongest first."""
    only_second: dict[int, float]
    is_cut: bool
    """Whether a text was longer than what is read of it."""


def compare(view: RunView, first: str, second: str, k: int) -> Comparison:
    """Compare two texts by embeddings, and by codes of k latents.

    Args:
        view: the run.
        first: a text.
        second: a text.
        k: active latents of a code, brought between 1 and the head's.

    Raises:
        ValueError: for an empty text.
    """
    if not first.strip() or not second.strip():
        raise ValueError("Write two texts to compare.")
    asked = [view.embed(text[:LONGEST], "document") for text in (first, second)]
    k = min(max(int(k), 1), view.head.config.k)
    codes = encode_embeddings(view.head, np.stack([each.row for each in asked]), k, refine=True)
    decoded = decode_codes(view.head, codes)
    values = [
        {int(latent): float(value) for latent, value in zip(indices, row, strict=True) if value > 0}
        for indices, row in zip(codes.indices, codes.values, strict=True)
    ]
    products = {latent: values[0][latent] * values[1][latent] for latent in values[0] if latent in values[1]}
    total = sum(products.values())
    shared = [
        Pair(latent, values[0][latent], values[1][latent], products[latent] / total)
        for latent in sorted(products, key=lambda each: -products[each])
    ]
    alone = [{latent: value for latent, value in each.items() if latent not in products} for each in values]
    return Comparison(
        dense=_cosine(asked[0].raw, asked[1].raw),
        sparse=_cosine(decoded[0], decoded[1]),
        k=k,
        shared=shared,
        only_first=alone[0],
        only_second=alone[1],
        is_cut=max(len(first), len(second)) > LONGEST,
    )


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norms if norms > 0 else 0.0
