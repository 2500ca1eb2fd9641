"""Whether a latent is found again: latents of two heads, matched by their atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csr_hf.codes import read_atoms
from csr_hf.evaluation.similarity import unit_rows

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


class Matches(NamedTuple):
    """The partner of each latent of one head in another."""

    partners: np.ndarray
    """Latents of the other head, each at most once, int64, shape (hidden_dim,); -1 where it has fewer."""
    cosines: np.ndarray
    """Of the two atoms, float32, shape (hidden_dim,); 0 without a partner."""


def match_latents(head: CSRModel, other: CSRModel) -> Matches:
    """Match the latents of two heads one to one, so that the cosines of their atoms are largest in sum.

    Args:
        head: whose latents are looked for.
        other: of the same backbone, trained from another seed, for example.

    Raises:
        ValueError: if the heads take embeddings of different widths.
    """
    from scipy.optimize import linear_sum_assignment

    widths = head.config.input_dim, other.config.input_dim
    if widths[0] != widths[1]:
        raise ValueError(f"`other` takes `input_dim` {widths[1]}, `head` {widths[0]}. Match heads of one backbone.")
    first, second = (unit_rows(read_atoms(each)) for each in (head, other))
    likeness = first @ second.T
    rows, columns = linear_sum_assignment(-likeness)
    partners, cosines = np.full(len(first), -1, np.int64), np.zeros(len(first), np.float32)
    partners[rows], cosines[rows] = columns, likeness[rows, columns]
    return Matches(partners, cosines)
