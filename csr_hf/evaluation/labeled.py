"""Labeled rows by every method: the label of the nearest neighbor, and a classifier on what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.codes import subtract_modality_mean
from csr_hf.evaluation.methods import CSRMethod, Method
from csr_hf.evaluation.probes import linear_probe_accuracy
from csr_hf.evaluation.results import Row

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

NEAREST = "1-NN accuracy"
PROBE = "linear probe"
# A classifier is fitted for every method and k: more rows would take longer than the training.
_MOST_ROWS = 10_000


def evaluate_labeled(
    methods: Sequence[Method],
    head: CSRModel,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    data: str,
    modality: str | None = None,
) -> list[Row]:
    """Measure whether codes tell classes apart, as the paper does on ImageNet (arXiv 2503.01776, section 4.1).

    The dense model and the baselines take embeddings as they are, the methods of the head centered ones. Of more than
    10,000 rows on either side as many are chosen at random, the same for all methods.

    Args:
        methods: of `all_methods`; the first is the dense model.
        head: theirs.
        train: dense, shape (n, input_dim), and classes as integers, shape (n,): what a neighbor is looked for in, and
            what a classifier learns from. Rows of a class below 0 have none and are left out.
        test: the same of other rows.
        data: its name, for that of the task in the rows.
        modality: of the embeddings, for a head of several.

    Returns:
        For each method, accuracy of the label of the first document that its search finds, and of a logistic
        regression on the vectors it stores (searches in two stages have none). No rows if there are fewer than two
        classes on the training side, or no labels on the other.
    """
    train, test = _chosen(train), _chosen(test)
    if len(np.unique(train[1])) < 2 or len(test[1]) == 0:
        return []
    task = f"{data}, labels of {len(test[1]):,} held-out rows"
    rows: list[Row] = []
    dense: dict[str, float] = {}
    for method in methods:
        sides = [embeddings for embeddings, _ in (train, test)]
        if isinstance(method, CSRMethod):
            sides = [subtract_modality_mean(head, embeddings, modality) for embeddings in sides]
        for metric, accuracy in _accuracies(method, sides[0], train[1], sides[1], test[1]):
            kept = accuracy / dense.setdefault(metric, accuracy) if dense.get(metric, accuracy) else 0.0
            rows.append(Row(task, metric, method.name, method.k, method.bytes_per_vector, accuracy, kept))
    return rows


def _accuracies(
    method: Method, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> Iterator[tuple[str, float]]:
    found = method.index(train).search(test, 1).positions[:, 0]
    # A code without any latent in common finds nothing.
    yield NEAREST, float(((train_labels[found] == test_labels) & (found >= 0)).mean())
    if not method.retrieval_only:
        stored = method.vectors(train), method.vectors(test)
        yield PROBE, linear_probe_accuracy(stored[0], train_labels, stored[1], test_labels)


def _chosen(rows: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = rows
    places = np.flatnonzero(labels >= 0)
    if len(places) > _MOST_ROWS:
        places = np.sort(np.random.default_rng(0).choice(places, _MOST_ROWS, replace=False))
    return embeddings[places].astype(np.float32), labels[places]
