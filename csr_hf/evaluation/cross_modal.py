"""Retrieval across modalities: which images a text finds, and which texts an image finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.results import Row

CUTOFFS = (1, 5, 10)
"""Ranks up to which an answer counts as found."""


def evaluate_cross_modal(
    methods: Sequence[Method], images: np.ndarray, texts: np.ndarray, captions: Sequence[str], *, task: str
) -> list[Row]:
    """Measure recall at 1, 5 and 10 in both directions.

    Equal captions are one text: an image is answered by its caption, and a text by any image with that caption. Each
    method centers the embeddings as it needs them: those of a head subtract its modality means.

    Args:
        methods: of `all_methods`; the first is the dense model.
        images: dense, shape (n, input_dim).
        texts: dense, row i the caption of image i, shape (n, input_dim).
        captions: the texts themselves.
        task: name of the task in the rows.

    Returns:
        For each direction, method and rank the share of the queries with an answer up to that rank.
    """
    _, first, caption_of = np.unique(np.array(captions, object).astype(str), return_index=True, return_inverse=True)
    # Embeddings, and the number of the caption of each row.
    sides = {
        "image": (images.astype(np.float32), caption_of),
        "text": (texts[first].astype(np.float32), np.arange(len(first))),
    }
    rows: list[Row] = []
    for asked, stored in (("text", "image"), ("image", "text")):
        (queries, wanted), (documents, answers) = sides[asked], sides[stored]

        def measure(method: Method) -> dict[str, np.ndarray]:
            searcher = method.index(method.center(documents, stored))
            found = searcher.search(method.center(queries, asked), CUTOFFS[-1]).positions
            is_answer = answers[found] == wanted[:, None]
            return {f"R@{cutoff}": is_answer[:, :cutoff].any(axis=1) for cutoff in CUTOFFS}

        name = f"{task}, {asked} to {stored}"
        rows += compare_methods(name, methods, measure, n_documents=len(documents))
    return rows
