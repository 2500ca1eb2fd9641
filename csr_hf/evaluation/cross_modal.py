"""Retrieval across modalities by every method: what a text finds among images, and an image among texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.codes import subtract_modality_mean
from csr_hf.evaluation.methods import CSRMethod, Method
from csr_hf.evaluation.results import Row

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

CUTOFFS = (1, 5, 10)
"""Ranks among which the answer is looked for."""


def evaluate_cross_modal(
    methods: Sequence[Method],
    head: CSRModel,
    images: np.ndarray,
    texts: np.ndarray,
    captions: Sequence[str],
    *,
    task: str,
) -> list[Row]:
    """Measure recall at 1, 5 and 10 in both directions.

    Equal captions are one text: an image is answered by its caption, and a text by any image with that caption. The
    dense model and the baselines compare embeddings as they are, the methods of the head centered ones.

    Args:
        methods: of `all_methods`; the first is the dense model.
        head: theirs.
        images: dense, shape (n, input_dim).
        texts: dense, row i the caption of image i, shape (n, input_dim).
        captions: the texts themselves.
        task: name of the task in the rows.

    Returns:
        For each direction, method and rank the share of the queries with an answer up to that rank.
    """
    _, firsts, numbers = np.unique(np.array(captions, object).astype(str), return_index=True, return_inverse=True)
    texts = texts[firsts]
    rows = []
    for direction, kinds in (("text to image", ("text", "image")), ("image to text", ("image", "text"))):
        given = {"image": (images, numbers), "text": (texts, np.arange(len(texts)))}
        (queries, wanted), (documents, groups) = given[kinds[0]], given[kinds[1]]
        dense: dict[int, float] = {}
        for method in methods:
            asked, stored = queries, documents
            if isinstance(method, CSRMethod):
                asked, stored = (
                    subtract_modality_mean(head, queries, kinds[0]),
                    subtract_modality_mean(head, documents, kinds[1]),
                )
            found = method.index(stored.astype(np.float32)).search(asked.astype(np.float32), CUTOFFS[-1]).positions
            right = (groups[found] == wanted[:, None]) & (found >= 0)
            for cutoff in CUTOFFS:
                recall = float(right[:, :cutoff].any(axis=1).mean())
                # The dense model comes first, and is what the others are compared with.
                kept = recall / dense.setdefault(cutoff, recall) if dense.get(cutoff, recall) else 0.0
                described = f"{task}, {direction}", f"R@{cutoff}", method.name, method.k, method.bytes_per_vector
                rows.append(Row(*described, recall, kept))
    return rows
