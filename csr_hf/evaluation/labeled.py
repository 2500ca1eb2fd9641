"""Labeled rows: the label of the nearest neighbor, and a classifier on what is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.probes import predict_by_linear_probe
from csr_hf.evaluation.results import Row

NEAREST = "1-NN accuracy"
PROBE = "linear probe"
# A classifier is fitted for every method and k: with more rows that would take longer than the training.
MAX_ROWS = 10_000


def evaluate_labeled(
    methods: Sequence[Method],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    data: str,
    modality: str | None = None,
) -> list[Row]:
    """Measure whether codes tell classes apart, as the paper does on ImageNet (arXiv 2503.01776, section 4.1).

    Of more than `MAX_ROWS` rows on either side as many are chosen at random, the same for all methods.

    Args:
        methods: of `all_methods`; the first is the dense model.
        train: dense, shape (n, input_dim), and classes as integers, shape (n,), to search for neighbors and to fit the
            classifier on. Rows of a class below 0 have no label and are left out.
        test: the same of other rows.
        data: its name, for that of the task in the rows.
        modality: of the embeddings, for a head that centers each modality by its mean.

    Returns:
        For each method, accuracy of the label of the first document that its search finds, and of a logistic
        regression on the vectors it stores. No rows if there are fewer than two classes to learn from, or no labels to
        test on.
    """
    (train_rows, train_labels), (test_rows, test_labels) = _choose_labeled(train), _choose_labeled(test)
    if len(np.unique(train_labels)) < 2 or len(test_labels) == 0:
        return []

    def measure(method: Method) -> dict[str, np.ndarray]:
        known, asked = (method.center(rows, modality) for rows in (train_rows, test_rows))
        nearest = method.index(known).search(asked, 1).positions[:, 0]
        predicted = predict_by_linear_probe(method.vectors(known), train_labels, method.vectors(asked))
        return {NEAREST: train_labels[nearest] == test_labels, PROBE: predicted == test_labels}

    task = f"{data}, labels of {len(test_labels):,} held-out rows"
    return compare_methods(task, methods, measure, n_documents=len(train_labels))


def _choose_labeled(side: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = side
    rows = np.flatnonzero(labels >= 0)
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_ROWS, replace=False))
    return embeddings[rows].astype(np.float32), labels[rows]
