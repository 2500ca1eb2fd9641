import numpy as np

from csr_hf.evaluation.adapter import AdapterMaps, fit_adapter
from csr_hf.evaluation.neighbors import neighbor_recall, top_neighbors
from csr_hf.evaluation.prefixes import Adapter, Truncation, choose_format
from tests.evaluation.conftest import unit


def rotated_rows(n, seed):
    """Rows whose variance lies in few directions that no dimension shows."""
    rotation = np.linalg.qr(np.random.default_rng(7).standard_normal((32, 32)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, 32)) / np.arange(1, 33)
    return unit((rows @ rotation).astype(np.float32))


def recall_of(method, queries, documents):
    true = top_neighbors(queries, documents, 10)
    return neighbor_recall(method.index(documents).search(queries, 10).positions, true).mean()


def test_prefixes_of_an_adapter_keep_neighbors_that_truncation_loses():
    train, queries, documents = rotated_rows(800, 0), rotated_rows(50, 1), rotated_rows(500, 2)
    maps = fit_adapter(train, steps=60, batch_size=128)
    for size in (8, 16):
        form = choose_format(size, 32, "cosine")
        adapter = Adapter(maps.best_for(form), form)
        assert recall_of(adapter, queries, documents) > recall_of(Truncation(form), queries, documents) + 0.2
    assert recall_of(Adapter(maps.trained, form), queries, documents) > 0.6


def test_training_lowers_the_nested_loss():
    train = rotated_rows(600, 0)
    maps = fit_adapter(train, steps=80, batch_size=128)

    def loss(weight):
        """Divergences of the distributions over all other rows, summed over the widths of the ladder, written out."""
        target = np.exp((train @ train.T - 2 * np.eye(600)) / 0.05)
        target /= target.sum(axis=1, keepdims=True)
        total = 0
        for width in (8, 16, 24, 32):
            prefix = unit(train @ weight[:, :width])
            found = np.exp((prefix @ prefix.T - 2 * np.eye(600)) / 0.05)
            found /= found.sum(axis=1, keepdims=True)
            total += (target * np.log((target + 1e-30) / (found + 1e-30))).sum() / 600
        return total

    assert loss(maps.trained) < 0.99 * loss(maps.start)


def test_a_fit_gives_the_same_twice_and_holds_a_tenth_out():
    train = rotated_rows(300, 0)
    one, same, other = (fit_adapter(train, steps=5, batch_size=64, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.trained, same.trained)
    assert not np.array_equal(one.trained, other.trained)
    assert (one.held_out.shape, one.fitted.shape) == ((30, 32), (270, 32))
    np.testing.assert_allclose(one.start.T @ one.start, np.eye(32), atol=1e-5)


def test_the_better_map_is_taken():
    rows = rotated_rows(300, 0)
    good, bad = np.linalg.eigh(rows.T @ rows)[1][:, ::-1], np.random.default_rng(0).standard_normal((32, 32))
    form = choose_format(8, 32, "cosine")
    assert AdapterMaps(good, bad, rows[:50], rows[50:], "cosine").best_for(form) is good
    assert AdapterMaps(bad, good, rows[:50], rows[50:], "cosine").best_for(form) is good
    assert AdapterMaps(bad, good, rows[:0], rows, "cosine").best_for(form) is good


def test_dot_products_are_kept_where_the_backbone_compares_by_them():
    train = rotated_rows(600, 0) * np.linspace(5, 9, 600, dtype=np.float32)[:, None]
    maps = fit_adapter(train, "dot", steps=60, batch_size=128)
    form = choose_format(20, 32, "dot")
    method = Adapter(maps.best_for(form), form, "dot")
    true = train[:20] @ train.T
    found = method.query(train[:20]) @ method.store(train).T
    assert np.corrcoef(true.ravel(), found.ravel())[0, 1] > 0.99
