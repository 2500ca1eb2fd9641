import numpy as np
import pytest

from csr_hf.training.neighbors import nearest_rows
from csr_hf.training.rows import RowOrder, TrainingRows, TrainingSource


@pytest.fixture
def sources():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 3)).astype(np.float16) for n in (5, 5, 5, 4, 6)]
    return [
        TrainingSource(arrays[0], positives=arrays[1], negatives=arrays[2]),
        TrainingSource(arrays[3], labels=np.array([7, 7, 2, -1])),
        TrainingSource(arrays[4].astype(np.float32), labels=np.array([2, 2, 0, 0, 0, 0])),
    ], arrays


def test_every_embedding_is_a_row(sources):
    given, arrays = sources
    rows = TrainingRows(given)
    assert len(rows) == 25
    wanted = np.array([24, 0, 14, 15, 5, 0])
    assert np.array_equal(rows.rows(wanted), np.concatenate(arrays)[wanted].astype(np.float32))


def test_examples_keep_what_belongs_together(sources):
    given, arrays = sources
    rows = TrainingRows(given, paired=True)
    assert len(rows) == 15
    wanted = np.array([3, 5, 14, 0])
    own = np.concatenate([arrays[0], arrays[3], arrays[4]])
    assert np.array_equal(rows.rows(wanted), own[wanted].astype(np.float32))
    positives = np.concatenate([arrays[1], arrays[3], arrays[4]])
    assert np.array_equal(rows.positives(wanted), positives[wanted].astype(np.float32))
    negatives = np.concatenate([arrays[2], arrays[3], arrays[4]])
    assert np.array_equal(rows.negatives(wanted), negatives[wanted].astype(np.float32))


def test_classes_of_different_sources_differ(sources):
    labels = TrainingRows(sources[0], paired=True).labels(np.arange(15))
    assert list(labels[:5]) == [-1] * 5
    assert labels[5] == labels[6] != labels[7]
    assert labels[8] == -1
    assert labels[9] == labels[10] != labels[11] == labels[12]
    assert not set(labels[5:9]) & set(labels[9:])


def test_fingerprint_tells_data_apart(sources):
    given, arrays = sources
    prints = {
        TrainingRows(given).fingerprint,
        TrainingRows(given, paired=True).fingerprint,
        TrainingRows(given[::-1]).fingerprint,
        TrainingRows([TrainingSource(arrays[0])]).fingerprint,
        TrainingRows([TrainingSource(arrays[0], weight=2.0), TrainingSource(arrays[3])]).fingerprint,
        TrainingRows([TrainingSource(arrays[0]), TrainingSource(arrays[3])]).fingerprint,
    }
    assert len(prints) == 6
    assert TrainingRows(given).fingerprint == TrainingRows(list(given)).fingerprint


def test_unusable_sources_are_refused():
    rows = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="source 0 has 4 embeddings and 3 positives"):
        TrainingRows([TrainingSource(rows, positives=rows[:3])])
    with pytest.raises(ValueError, match="source 0 has 4 embeddings and 2 labels"):
        TrainingRows([TrainingSource(rows, labels=np.zeros(2))])
    with pytest.raises(ValueError, match=r"`weight` \(-1\) of source 0 must be above 0"):
        TrainingRows([TrainingSource(rows, weight=-1)])
    with pytest.raises(ValueError, match="the data set is empty"):
        TrainingRows([])


def test_an_epoch_holds_every_row_once():
    order = RowOrder([60, 40], [60, 40], seed=0)
    seen = order.rows(np.arange(1000))
    assert all(sorted(seen[epoch * 100 : epoch * 100 + 100]) == list(range(100)) for epoch in range(10))
    assert list(seen[:100]) != list(seen[100:200])
    assert list(RowOrder([60, 40], [60, 40], seed=1).rows(np.arange(100))) != list(seen[:100])


def test_any_part_of_the_order_is_the_same_as_the_whole():
    order, places = RowOrder([7, 30], [3, 1], seed=3), np.arange(300)
    whole = order.rows(places)
    for start in (270, 3, 140):
        assert np.array_equal(order.rows(places[start : start + 30]), whole[start : start + 30])


def test_weights_share_the_places():
    seen = RowOrder([10, 90], [3.0, 1.0], seed=0).rows(np.arange(1200))
    assert [(seen[at : at + 100] < 10).sum() for at in range(0, 1200, 100)] == [75] * 12
    # Each source is gone through evenly: no row comes twice before all have come once.
    assert set(np.bincount(seen[seen < 10])) == {90}
    rare = np.bincount(seen[seen >= 10] - 10, minlength=90)
    assert rare.max() - rare.min() <= 1


def test_nearest_row_is_the_most_similar_other_one():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((40, 5)).astype(np.float32)
    data[11] = 2 * data[10]  # The same direction is not another text.
    unit = data / np.linalg.norm(data, axis=1, keepdims=True)
    similarities = unit @ unit.T
    similarities[similarities > 1 - 1e-5] = -2
    assert np.array_equal(nearest_rows(TrainingRows([TrainingSource(data)]), seed=0), similarities.argmax(1))
    alone = TrainingRows([TrainingSource(np.ones((3, 2), np.float32))])
    assert np.array_equal(nearest_rows(alone, seed=0), [0, 1, 2])
