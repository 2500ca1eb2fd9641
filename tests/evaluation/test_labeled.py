import numpy as np
import pytest
import torch

from csr_hf.evaluation.csr_methods import CSRMethod, DecodedMethod
from csr_hf.evaluation.labeled import NEAREST, PROBE, evaluate_labeled
from csr_hf.evaluation.probes import knn_accuracy, linear_probe_accuracy
from csr_hf.evaluation.vector_method import DenseMethod
from tests.conftest import make_head


@pytest.fixture
def classes():
    """Three classes around directions that differ, 60 rows to learn from and 30 to ask for."""
    rng = np.random.default_rng(0)
    middles, labels = rng.standard_normal((3, 12)), np.arange(90) % 3
    rows = (middles[labels] + 0.8 * rng.standard_normal((90, 12))).astype(np.float32)
    return (rows[:60], labels[:60]), (rows[60:], labels[60:])


def scores(rows, metric):
    return {row.method: row.score for row in rows if row.metric == metric}


def test_the_dense_model_has_the_accuracies_of_the_metrics(classes):
    train, test = classes
    head = make_head()
    methods = [DenseMethod(12), CSRMethod(head, 8), DecodedMethod(head, 8)]
    rows = evaluate_labeled(methods, train, test, data="t")
    assert scores(rows, NEAREST)["dense"] == knn_accuracy(*train, *test) < 1
    assert scores(rows, PROBE)["dense"] == linear_probe_accuracy(*train, *test)
    assert scores(rows, NEAREST).keys() == {"dense", "CSR", "CSR, decoded"}
    assert scores(rows, PROBE).keys() == {"dense", "CSR", "CSR, decoded"}
    kept = {row.method: row.retention for row in rows if row.metric == PROBE}
    assert kept["CSR"] == scores(rows, PROBE)["CSR"] / scores(rows, PROBE)["dense"]


def test_rows_without_a_class_count_on_neither_side(classes):
    (rows, labels), test = classes
    blank = np.where(np.arange(60) < 30, -1, labels)
    methods = [DenseMethod(12)]
    with_blank = evaluate_labeled(methods, (rows, blank), test, data="t")
    assert with_blank == evaluate_labeled(methods, (rows[30:], labels[30:]), test, data="t")
    asked = (np.concatenate([test[0], test[0]]), np.concatenate([test[1], np.full(30, -1)]))
    plain = evaluate_labeled(methods, (rows, labels), test, data="t")
    assert evaluate_labeled(methods, (rows, labels), asked, data="t") == plain
    assert evaluate_labeled(methods, (rows, np.zeros(60, int)), test, data="t") == []
    assert evaluate_labeled(methods, (rows, labels), (test[0], np.full(30, -1)), data="t") == []


def test_a_head_of_two_modalities_compares_centered_embeddings(classes):
    """Far from the origin all cosines are near 1; less their mean, classes differ again."""
    (rows, labels), (asked, wanted) = classes
    head = make_head(modalities=["image", "text"], k=12)
    head.latent_bias.data.zero_()
    bias = np.full(12, 30, np.float32)
    head.modality_bias[0] = torch.from_numpy(bias)
    method = CSRMethod(head, 12, plain=True)
    (near,) = (
        row.score
        for row in evaluate_labeled(
            [method], (rows + bias, labels), (asked + bias, wanted), data="t", modality="image"
        )
        if row.metric == NEAREST
    )
    head.modality_bias.zero_()
    (same,) = (
        row.score
        for row in evaluate_labeled([method], (rows, labels), (asked, wanted), data="t", modality="text")
        if row.metric == NEAREST
    )
    assert near == same > 0.5


def test_of_many_rows_the_same_are_chosen_for_every_method(monkeypatch, classes):
    monkeypatch.setattr("csr_hf.evaluation.labeled.MAX_ROWS", 20)
    train, test = classes
    rows = evaluate_labeled([DenseMethod(12), DenseMethod(12)], train, test, data="t")
    assert rows[:2] == rows[2:]
    assert rows[0].task == "t, labels of 20 held-out rows"
    assert len({row.score * 20 for row in rows} - set(range(21))) == 0
