import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.distributed import split_dataset_by_node

from csr_hf.data.given import make_sources
from csr_hf.data.sources import Source

ROWS = np.random.default_rng(0).standard_normal((2500, 4)).astype(np.float32)
PAIRS = {"anchor": ROWS[:90], "positive": ROWS[90:180], "negative": ROWS[180:270]}


def stream(**columns):
    """A stream that knows no types, as a generator of rows gives it."""

    def rows():
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))

    return IterableDataset.from_generator(rows)


def as_lists(columns):
    return {name: list(values) for name, values in columns.items()}


FORMS = {
    "array": lambda folder: ROWS,
    "double": lambda folder: ROWS.astype(np.float64),
    "tensor": lambda folder: torch.from_numpy(ROWS),
    "mapped": lambda folder: np.load(folder / "rows.npy", mmap_mode="r"),
    "by role": lambda folder: {"embedding": ROWS},
    "data set": lambda folder: Dataset.from_dict({"id": range(2500), "embedding": list(ROWS)}),
    "stream": lambda folder: stream(embedding=ROWS),
    "stream of a data set": lambda folder: Dataset.from_dict({"embedding": list(ROWS)}).to_iterable_dataset(3),
    "stream of lists": lambda folder: stream(text=["a"] * 2500, embedding=ROWS.tolist()),
    "stream of tensors": lambda folder: stream(embedding=list(torch.from_numpy(ROWS))),
    "source": lambda folder: Source.from_arrays({"embedding": torch.from_numpy(ROWS)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    given = FORMS[form](tmp_path)
    for sources in (make_sources(given, tmp_path / "streams"), make_sources([given], tmp_path / "streams")):
        (source,) = sources
        assert source.roles == ("embedding",) and not source.held_out.any()
        assert np.array_equal(source.vectors["embedding"][:], ROWS)
        assert source.vectors["embedding"].shape == (2500, 4) and source.dim == 4


@pytest.mark.parametrize("make", [dict, lambda c: Dataset.from_dict(as_lists(c)), lambda c: stream(**c)])
def test_columns_are_roles(make, tmp_path):
    (source,) = make_sources(make(PAIRS), tmp_path)
    assert source.roles == ("anchor", "positive", "negative")
    assert all(np.array_equal(source.vectors[role][:], PAIRS[role]) for role in PAIRS)
    labels = np.arange(90) % 3
    (source,) = make_sources(make({"label": labels, "text": ROWS[:90]}), tmp_path)
    assert source.roles == ("text",)
    assert np.array_equal(source.labels, labels)


def test_labels_of_data_sets_may_have_names(tmp_path):
    names = ["b", None, "a", "b"] * 500
    for given in (Dataset.from_dict, lambda columns: stream(**columns)):
        (source,) = make_sources(given({"text": list(ROWS[:2000]), "label": names}), tmp_path)
        assert source.labels.tolist() == [1, -1, 0, 1] * 500


def test_several_are_several_sources(tmp_path):
    sources = make_sources([ROWS[:5], stream(embedding=ROWS[5:7]), PAIRS], tmp_path)
    assert [len(source) for source in sources] == [5, 2, 90]
    assert [source.name for source in sources] == ["array 0", "data set 1", "array 2"]
    assert make_sources([], tmp_path) == []


def test_embeddings_are_preferred_to_texts(tmp_path):
    dataset = Dataset.from_dict(
        {"text": ["a", "b"], "anchor": ["c", "d"], "positive": ["e", "f"], "embedding": ROWS[:2]}
    )
    assert make_sources(dataset, tmp_path)[0].roles == ("embedding",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            Dataset.from_dict({"text": ["a", "b"]}),
            "column 'text' of data set 0 does not hold embeddings but string. Give",
        ),
        (Dataset.from_dict({"anchor": ["a"], "positive": ["b"]}), "column 'anchor' of data set 0 does not hold"),
        (Dataset.from_dict({"embedding": [[1, 2]]}), "column 'embedding' of data set 0 does not hold .* int64"),
        (
            Dataset.from_dict({"vector": [[1.0]], "x": [1]}),
            r"has none of the columns .*vector, x. Rename one: .*'vector'",
        ),
        (DatasetDict({"train": Dataset.from_dict({"embedding": [[1.0]]})}), r"is a DatasetDict.*dataset\['train'\]"),
        (["one text", "two"], r"array 0 does not hold embeddings but a text \('one text'\)"),
        (np.ones((3, 2), int), "embedding of array 0 does not hold embeddings but int64"),
        ({"label": [1, 2]}, "array 0 has no embeddings"),
        ({"embedding": ROWS[:2], "label": np.array([0.5, 1])}, "labels of array 0 are float64. Number the classes"),
        ({"embedding": ROWS[:2], "positive": ROWS[:2]}, r"`roles` \(embedding, positive\) of array 0 are no layout"),
        (stream(text=["a", "b"]), "column 'text' of data set 0 does not hold embeddings but string"),
        (stream(embedding=[[1.0, 2.0]] * 1500 + [[1.0]]), "row 1500 holds 1 floats"),
        (stream(embedding=[[1.0, 2.0]] * 1000 + [[1.0]]), "row 1000 holds 1 floats, earlier ones 2"),
        (stream(embedding=[[1.0], ["a"]]), "the rows of data set 0 differ in type: "),
        (stream(embedding=[]), "data set 0 is an empty stream"),
        (stream(anchor=ROWS[:3], positive=ROWS[:3, :2]), "the columns of data set 0 differ in width"),
        (
            split_dataset_by_node(stream(embedding=ROWS), 0, 2),
            "data set 0 is the share of one process. Give the whole",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_named(given, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        make_sources(given, tmp_path / "streams")
    assert "\n" not in str(caught.value)
    # Nothing half-written stays.
    assert not (tmp_path / "streams").exists() or not list((tmp_path / "streams").iterdir())


def test_streams_are_kept_once_by_what_they_hold(tmp_path):
    folder = tmp_path / "streams"
    first = make_sources(stream(embedding=ROWS[:30]), folder)[0].vectors["embedding"]
    again = make_sources(stream(embedding=ROWS[:30]), folder)[0].vectors["embedding"]
    other = make_sources(stream(embedding=ROWS[:30] + 1), folder)[0].vectors["embedding"]
    assert isinstance(first, np.memmap) and not first.flags.writeable
    assert first.filename == again.filename != other.filename
    assert len(list(folder.iterdir())) == 2
    half = make_sources(stream(embedding=ROWS[:30].astype(np.float16)), folder)[0].vectors["embedding"]
    assert half.dtype == np.float16 and np.array_equal(half, ROWS[:30].astype(np.float16))


def test_vectors_in_a_list_or_series_are_one_source(tmp_path):
    import pandas as pd

    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    series = pd.Series(list(rows), index=range(6, 0, -1))
    for given in (list(rows), tuple(torch.from_numpy(rows)), rows.tolist(), series, (row for row in rows)):
        (source,) = make_sources(given, tmp_path)
        np.testing.assert_array_equal(source.vectors["embedding"][:], rows)
    (source,) = make_sources({"anchor": iter(rows), "positive": series}, tmp_path)
    np.testing.assert_array_equal(source.vectors["positive"][:], rows)
    assert len(make_sources([rows, torch.from_numpy(rows)], tmp_path)) == 2
    with pytest.raises(ValueError, match=r"embedding of array 0 is a DataFrame, no embeddings. Give its numbers"):
        make_sources(pd.DataFrame(rows), tmp_path)
    with pytest.raises(ValueError, match=r"embedding of array 0 has the shape \(4,\).*one is vector\[None\]"):
        make_sources(rows[0], tmp_path)
