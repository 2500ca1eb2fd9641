"""The paper's measures of labeled embeddings: k-nearest-neighbor accuracy and a linear probe.

Both take dense rows or sparse codes, and compare by cosine as the paper's ImageNet tables do (arXiv 2503.01776,
section 4.1). `csr_hf.evaluation.metrics` has them as metrics of `evaluate`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from csr_hf.evaluation.similarity import unit_rows

Rows: TypeAlias = Any
"""numpy array or scipy matrix."""


def knn_accuracy(train: Rows, train_labels: np.ndarray, test: Rows, test_labels: np.ndarray, k: int = 1) -> float:
    """Compute the share of test rows whose k most similar training rows vote for their label; exact.

    Args:
        train: shape (n, dim), dense or sparse.
        train_labels: integers, shape (n,).
        test: shape (m, dim), of the same kind.
        test_labels: integers, shape (m,).
        k: neighbors. Of labels with equally many votes the one with the most similar neighbor wins, while
            scikit-learn's `KNeighborsClassifier` takes the smallest label.

    Raises:
        ValueError: for numbers of rows and labels that differ, or k out of range.
    """
    from sklearn.neighbors import NearestNeighbors

    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check(train, train_labels, "train")
    _check(test, test_labels, "test")
    if not 1 <= k <= len(train_labels):
        raise ValueError(f"`k` ({k}) must be between 1 and the number of training rows ({len(train_labels)}).")
    nearest = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(train)
    votes = train_labels[nearest.kneighbors(test, return_distance=False)]
    # Neighbors come by similarity, and argmax takes the first of the labels with most votes.
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    winners = votes[np.arange(len(votes)), counts.argmax(axis=1)]
    return float((winners == test_labels).mean())


def linear_probe_accuracy(
    train: Rows,
    train_labels: np.ndarray,
    test: Rows,
    test_labels: np.ndarray,
    *,
    regularization: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Compute the accuracy on test rows of a logistic regression that is fitted on the training rows.

    Args:
        train: shape (n, dim), dense or sparse; sparse rows stay sparse.
        train_labels: integers, shape (n,).
        test: shape (m, dim).
        test_labels: integers, shape (m,).
        regularization: scikit-learn's C, the inverse of the L2 penalty.
        max_iter: iterations of L-BFGS at most.

    Raises:
        ValueError: for numbers of rows and labels that differ.
    """
    test_labels = np.asarray(test_labels)
    _check(test, test_labels, "test")
    predicted = predict_by_linear_probe(train, train_labels, test, regularization=regularization, max_iter=max_iter)
    return float((predicted == test_labels).mean())


def predict_by_linear_probe(
    train: Rows, train_labels: np.ndarray, test: Rows, *, regularization: float = 1.0, max_iter: int = 1000
) -> np.ndarray:
    """Predict the labels of test rows by the classifier of `linear_probe_accuracy`, shape (m,)."""
    from sklearn.linear_model import LogisticRegression

    train_labels = np.asarray(train_labels)
    _check(train, train_labels, "train")
    probe = LogisticRegression(C=regularization, max_iter=max_iter).fit(unit_rows(train), train_labels)
    return probe.predict(unit_rows(test))


def _check(rows: Rows, labels: np.ndarray, name: str) -> None:
    if rows.shape[0] != len(labels) or len(labels) == 0:
        raise ValueError(f"`{name}` has {rows.shape[0]} rows and {len(labels)} labels. Give one label a row.")
