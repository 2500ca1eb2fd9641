import numpy as np
import pytest

from csr_hf.data.sources import Source
from csr_hf.training.rows import RowOrder, TrainingRows


def single(rows, **more):
    return Source.from_arrays({"embedding": rows}, **more)


@pytest.fixture
def sources():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 3)).astype(np.float16) for n in (5, 5, 5, 4, 6)]
    return [
        Source.from_arrays({"anchor": arrays[0], "positive": arrays[1], "negative": arrays[2]}),
        single(arrays[3], labels=np.array([7, 7, 2, -1])),
        single(arrays[4].astype(np.float32), labels=np.array([2, 2, 0, 0, 0, 0])),
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
        TrainingRows([single(arrays[0])]).fingerprint,
        TrainingRows([single(arrays[0], weight=2.0), single(arrays[3])]).fingerprint,
        TrainingRows([single(arrays[0]), single(arrays[3])]).fingerprint,
    }
    assert len(prints) == 6
    assert TrainingRows(given).fingerprint == TrainingRows(list(given)).fingerprint


def test_unusable_sources_are_refused():
    rows = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="arrays has 4 rows, but 3 of 'positive'"):
        Source.from_arrays({"anchor": rows, "positive": rows[:3]})
    with pytest.raises(ValueError, match="arrays has 4 rows, but 2 of 'labels'"):
        single(rows, labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"`weight` \(-1\) of arrays must be above 0"):
        single(rows, weight=-1)
    with pytest.raises(ValueError, match="the data set is empty"):
        TrainingRows([])
    with pytest.raises(ValueError, match="differ in width"):
        TrainingRows([single(rows), single(rows[:, :2])])
    broken = np.ones((70_000, 3), np.float32)
    broken[65_541, 1] = np.nan
    with pytest.raises(ValueError, match="mine, row 65541 holds NaN or infinity"):
        TrainingRows([single(rows), single(broken, name="mine")])


def test_held_out_rows_are_left_where_they_are():
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    held_out = np.arange(10) % 3 == 0
    source = Source("mine", ("anchor", "positive"), held_out, vectors={"anchor": rows, "positive": -rows})
    every, paired = TrainingRows([source]), TrainingRows([source], paired=True)
    assert (len(every), len(paired)) == (12, 6)
    kept = rows[~held_out]
    assert np.array_equal(every.rows(np.arange(12)), np.concatenate([kept, -kept]))
    assert np.array_equal(paired.positives(np.arange(6)), -kept)
    with pytest.raises(ValueError, match="the data set is empty"):
        TrainingRows([Source("none", ("embedding",), np.ones(10, bool), vectors={"embedding": rows})])


def test_modality_means_are_subtracted():
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((2, 8, 3)).astype(np.float32)
    means = {"image": np.float32([1, 2, 3]), "text": np.float32([0, 0, -1])}
    rows = TrainingRows([Source.from_arrays({"image": images, "text": texts})], modality_means=means, paired=True)
    chosen = np.array([3, 0])
    assert np.array_equal(rows.rows(chosen), images[chosen] - means["image"])
    assert np.array_equal(rows.positives(chosen), texts[chosen] - means["text"])
    assert list(rows.modalities(chosen)) == [0, 0] and list(rows.positive_modalities(chosen)) == [1, 1]


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
