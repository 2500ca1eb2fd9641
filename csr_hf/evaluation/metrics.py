"""The measures of `probes` as metrics of the `evaluate` library; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from csr_hf.evaluation.probes import Rows, knn_accuracy, linear_probe_accuracy


class _Probe(evaluate.Metric):
    """A metric of test embeddings (`predictions`) and their labels (`references`)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").splitlines()[0],
            citation="arXiv 2503.01776",
            features=Features({"predictions": List(Value("float32")), "references": Value("int64")}),
        )


class KNNAccuracy(_Probe):
    """k-nearest-neighbor accuracy of embeddings, computed by `knn_accuracy`.

    `KNNAccuracy().compute(predictions=test, references=labels, train=train, train_labels=train_labels, k=1)`
    """

    def _compute(
        self, predictions: Any, references: Any, *, train: Rows, train_labels: np.ndarray, k: int = 1
    ) -> dict:
        test = np.asarray(predictions, np.float32)
        return {f"knn_accuracy@{k}": knn_accuracy(train, train_labels, test, np.asarray(references), k)}


class LinearProbeAccuracy(_Probe):
    """Accuracy of a logistic regression on embeddings, computed by `linear_probe_accuracy`.

    `LinearProbeAccuracy().compute(predictions=test, references=labels, train=train, train_labels=train_labels)`
    """

    def _compute(self, predictions: Any, references: Any, *, train: Rows, train_labels: np.ndarray) -> dict:
        test = np.asarray(predictions, np.float32)
        return {"linear_probe_accuracy": linear_probe_accuracy(train, train_labels, test, np.asarray(references))}
