import numpy as np
import pytest
import scipy.sparse

from csr_hf.evaluation.probes import knn_accuracy, linear_probe_accuracy


def written_out(train, train_labels, test, test_labels, k):
    correct = 0
    for row, label in zip(test, test_labels, strict=True):
        similarity = train @ row / np.linalg.norm(train, axis=1) / np.linalg.norm(row)
        votes = list(train_labels[np.argsort(-similarity)[:k]])
        correct += max(votes, key=lambda vote: (votes.count(vote), -votes.index(vote))) == label
    return correct / len(test_labels)


@pytest.mark.parametrize("k", [1, 3, 10, 300])
def test_neighbors_vote(labeled, k):
    assert knn_accuracy(*labeled, k=k) == written_out(*labeled, k)
    assert knn_accuracy(*labeled, k=1) > 0.5


def test_of_equal_votes_the_nearest_wins():
    train = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0.7, 0.5]], np.float32)
    for labels in ([0, 1, 1, 0], [1, 0, 0, 1]):
        test = train[:1], np.array(labels[:1])
        assert knn_accuracy(train, np.array(labels), *test, k=4) == 1
        assert knn_accuracy(train, np.array(labels), *test, k=3) == 0


def test_sparse_rows_give_the_same(labeled):
    train, train_labels, test, test_labels = labeled
    train, test = train * (train > 0.5), test * (test > 0.5)
    sparse = scipy.sparse.csr_matrix(train), train_labels, scipy.sparse.csr_matrix(test), test_labels
    dense = train, train_labels, test, test_labels
    assert knn_accuracy(*sparse, k=3) == knn_accuracy(*dense, k=3)
    assert linear_probe_accuracy(*sparse) == pytest.approx(linear_probe_accuracy(*dense), abs=0.02)


def test_probe_is_a_logistic_regression_on_unit_rows(labeled):
    from sklearn.linear_model import LogisticRegression

    train, train_labels, test, test_labels = labeled
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
    expected = LogisticRegression(max_iter=1000).fit(unit[0], train_labels).score(unit[1], test_labels)
    assert linear_probe_accuracy(*labeled) == expected > 0.5


def test_wrong_inputs_are_named(labeled):
    train, train_labels, test, test_labels = labeled
    with pytest.raises(ValueError, match=r"`train` has 300 rows and 299 labels"):
        knn_accuracy(train, train_labels[1:], test, test_labels)
    with pytest.raises(ValueError, match=r"`test` has 0 rows and 0 labels"):
        linear_probe_accuracy(train, train_labels, test[:0], test_labels[:0])
    with pytest.raises(ValueError, match=r"`k` \(301\) must be between 1 and the number of training rows \(300\)"):
        knn_accuracy(*labeled, k=301)
