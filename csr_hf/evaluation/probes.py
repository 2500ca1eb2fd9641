"""The paper's own measures of labeled embeddings: k-nearest-neighbor accuracy and a linear probe.

Both take dense rows or sparse codes, and compare by cosine as the paper's ImageNet tables do (arXiv 2503.01776,
section 4.1). `csr_hf.evaluation.metrics` has them as metrics of `evaluate`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse

from csr_hf.evaluation.neighbors import unit_rows

# Scores of one block of test rows against all training rows: 64 million floats, 256 MB.
_SCORES_IN_MEMORY = 1 << 26

Rows: TypeAlias = Any
"""numpy array or scipy matrix."""


def knn_accuracy(train: Rows, train_labels: np.ndarray, test: Rows, test_labels: np.ndarray, k: int = 1) -> float:
    """Share of test rows whose k most similar training rows vote for their label; exact.

    Args:
        train: shape (n, dim), dense or sparse.
        train_labels: integers, shape (n,).
        test: shape (m, dim), of the same kind.
        test_labels: integers, shape (m,).
        k: neighbors; of labels with equally many votes the one with the most similar neighbor wins.

    Raises:
        ValueError: for numbers of rows and labels that differ, or k out of range.
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check(train, train_labels, "train")
    _check(test, test_labels, "test")
    if not 1 <= k <= len(train_labels):
        raise ValueError(f"`k` ({k}) must be between 1 and the number of training rows ({len(train_labels)}).")
    train, test = unit_rows(train), unit_rows(test)
    block = max(1, _SCORES_IN_MEMORY // len(train_labels))
    correct = 0
    for start in range(0, len(test_labels), block):
        scores = test[start : start + block] @ train.T
        scores = scores.toarray() if scipy.sparse.issparse(scores) else scores
        nearest = (
            np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else np.argsort(-scores, axis=1)
        )
        order = np.argsort(-np.take_along_axis(scores, nearest, axis=1), axis=1, kind="stable")
        votes = train_labels[np.take_along_axis(nearest, order, axis=1)]
        # A vote each, and less than a vote for being nearer, which decides between equals.
        same = votes[:, :, None] == votes[:, None, :]
        winners = votes[np.arange(len(votes)), same.sum(axis=2).argmax(axis=1)]
        correct += int((winners == test_labels[start : start + block]).sum())
    return correct / len(test_labels)


def linear_probe_accuracy(
    train: Rows,
    train_labels: np.ndarray,
    test: Rows,
    test_labels: np.ndarray,
    *,
    regularization: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Accuracy on test rows of a logistic regression that is fitted on the training rows.

    Args:
        train: shape (n, dim), dense or sparse; sparse rows stay so.
        train_labels: integers, shape (n,).
        test: shape (m, dim).
        test_labels: integers, shape (m,).
        regularization: scikit-learn's C, the inverse of the L2 penalty.
        max_iter: of its L-BFGS.

    Raises:
        ValueError: for numbers of rows and labels that differ.
        ImportError: if scikit-learn is missing, with the line to type.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('the linear probe needs scikit-learn: pip install "csr_hf[eval]"') from error
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check(train, train_labels, "train")
    _check(test, test_labels, "test")
    probe = LogisticRegression(C=regularization, max_iter=max_iter).fit(unit_rows(train), train_labels)
    return float(probe.score(unit_rows(test), test_labels))


def _check(rows: Rows, labels: np.ndarray, name: str) -> None:
    if rows.shape[0] != len(labels) or len(labels) == 0:
        raise ValueError(f"`{name}` has {rows.shape[0]} rows and {len(labels)} labels. Give one label a row.")
