"""What a caller gives as inputs, in whatever holds it."""

from collections import OrderedDict, deque

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf import CSRConfig, CSREncoder, CSRModel, load_backbone
from csr_hf.embedding.cache import embed_dataset
from csr_hf.embedding.inputs import as_sequence, iter_texts
from tests.helpers.clip import picture

TEXTS = ["first", "the second text", "third", ""]


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    backbone = load_backbone(str(tiny_folder("dot")), device="cpu")
    return CSREncoder(backbone, CSRModel(CSRConfig(input_dim=backbone.dim, hidden_dim=96, k=4)))


def holders(texts):
    """The texts in everything that has them in an order."""
    shuffled = list(reversed(range(len(texts))))
    return {
        "list": texts,
        "tuple": tuple(texts),
        "deque": deque(texts),
        "generator": (text for text in texts),
        "map": map(str, texts),
        "values of a dict": dict(enumerate(texts)).values(),
        "array of str": np.array(texts),
        "array of objects": np.array(texts, object),
        "array reversed twice": np.array(texts[::-1])[::-1],
        "series": pd.Series(texts),
        "series by another index": pd.Series(texts, index=shuffled),
        "series of a filter": pd.Series(["dropped", *texts]).iloc[1:],
        "series of objects": pd.Series(texts, dtype=object),
        "series of categories": pd.Series(texts, dtype="category"),
        "index": pd.Index(texts),
        "polars": pl.Series(texts),
        "arrow": pa.chunked_array([texts[:1], texts[1:]]),
        "column": Dataset.from_dict({"text": texts})["text"],
    }


@pytest.mark.parametrize("kind", holders(TEXTS))
def test_inputs_are_taken_by_position(encoder, kind):
    expected = encoder.encode(TEXTS)
    found = encoder.encode(holders(TEXTS)[kind])
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(encoder.backbone.embed(holders(TEXTS)[kind]), encoder.backbone.embed(TEXTS))
    assert encoder.backbone.modalities_of(holders(TEXTS)[kind]) == ["text"] * len(TEXTS)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), min_size=1, max_size=5
    ),
    st.randoms(use_true_random=False),
)
def test_any_texts_come_out_of_a_series_as_they_went_in(texts, random):
    index = list(range(len(texts)))
    random.shuffle(index)
    for series in (pd.Series(texts, index=index), pl.Series(texts), np.array(texts, object)):
        assert list(iter_texts(as_sequence(series))) == texts


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 2001])
def test_columns_of_data_sets_come_row_by_row(count):
    texts = [f"text {number}" for number in range(count)]
    column = Dataset.from_dict({"text": texts, "n": range(count)})["text"]
    assert list(iter_texts(column)) == texts
    rows = list(reversed(range(count)))
    chosen = Dataset.from_dict({"text": texts}).select(rows)["text"]
    assert list(iter_texts(chosen)) == [texts[row] for row in rows]


def test_a_missing_text_of_a_column_is_named_by_its_row():
    texts: list[str | None] = ["a"] * 1500
    texts[1200] = None
    with pytest.raises(ValueError, match=r"inputs\[1200\] is missing"):
        list(iter_texts(Dataset.from_dict({"text": texts})["text"]))


def test_embeddings_are_kept_for_whatever_holds_the_texts(encoder, tmp_path):
    cache = embed_dataset(TEXTS, encoder.backbone, tmp_path, dtype="float32")
    for inputs in (pd.Series(TEXTS, index=[3, 1, 0, 2]), iter(TEXTS)):
        again = embed_dataset(inputs, encoder.backbone, tmp_path, dtype="float32")
        assert again.reused and again.folder == cache.folder
    with pytest.raises(ValueError, match=r"inputs\[1\] is missing \(None\)"):
        embed_dataset(["a", None], encoder.backbone, tmp_path)


FRAME = {"text": TEXTS, "n": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"b", "a"}, r"`inputs` is a set, which has no order: pass sorted\(texts\)"),
        (frozenset("ab"), "is a frozenset, which has no order"),
        ({"a": 1}.keys(), "is a dict_keys, which has no order"),
        ({"a": "b"}, r"is a dict: pass its texts as a list: list\(mapping.values\(\)\)"),
        (OrderedDict(a="b"), "is a OrderedDict: pass its texts as a list"),
        (pd.DataFrame(FRAME), r'is a DataFrame: pass one column: df\["text"\]. Its columns: text, n\.'),
        (pl.DataFrame(FRAME), r'is a DataFrame: pass one column: df\["text"\]'),
        (pl.DataFrame(FRAME).lazy(), r"is a LazyFrame: collect it, and pass one column"),
        (pa.table(FRAME), r'is a Table: pass one column: table\["text"\]'),
        (Dataset.from_dict({"title": ["a"]}), r'is a Dataset: pass one column: dataset\["title"\]'),
        (
            DatasetDict(train=Dataset.from_dict(FRAME)),
            r"is a DatasetDict: pass a column of a split: dataset\['tr",
        ),
        (bytearray(b"a text"), r"is bytearray: pass a list, of strings for texts: \[value.decode\(\)\]"),
        (
            np.zeros(8),
            r"array of numbers of shape \(8,\), no texts.*\(encoder.head, embedding\[None\]",
        ),
        (np.array([["a", "b"]]), r"array of shape \(1, 2\): pass one axis of texts"),
        (None, "is NoneType: pass a list of texts or images"),
        (3, "is int: pass a list of texts or images"),
    ],
)
def test_what_has_no_order_or_no_meaning_is_refused(encoder, inputs, said):
    for take in (encoder.encode, encoder.backbone.embed):
        with pytest.raises(ValueError, match=said) as caught:
            take(inputs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["a", None], r"inputs\[1\] is missing \(None\). Drop such rows, series.dropna\(\), or fill them"),
        (pd.Series(["a", None, "b"], index=[5, 6, 7]), r"inputs\[1\] is missing \(nan\)"),
        (pd.Series(["a", None], dtype="string"), r"inputs\[1\] is missing \(<NA>\)"),
        (pl.Series(["a", "b", None]), r"inputs\[2\] is missing \(None\)"),
        (Dataset.from_dict({"text": ["a", None]})["text"], r"inputs\[1\] is missing \(None\)"),
        (["a", 3], r"inputs\[1\] is int, neither a string nor an image. Make texts of numbers: str\(value\)"),
        (pd.Series([1.5, 2.5]), r"inputs\[0\] is float, neither"),
        (["a", b"b"], r"inputs\[1\] is bytes, neither a string nor an image. Decode texts: value.decode\(\)"),
        (np.array(["a", "b"], "S"), r"inputs\[0\] is bytes"),
        (["a", ["b"]], r"inputs\[1\] is list, neither"),
        (["a", "x\ud83d"], r"inputs\[1\] has half of a character, '\\ud83d', at place 1. Drop it: text.encode"),
        ([np.zeros((4, 4))], r"inputs\[0\] is an array of shape \(4, 4\), no text. Encode embeddings by csr_hf.codes"),
        (np.zeros((4, 8)), r"inputs\[0\] is an array of shape \(4, 8\), no text. Encode embeddings by csr_hf.codes"),
        ([torch.zeros(4)], r"inputs\[0\] is an array of shape \(4,\), no text"),
        ([picture(0)], r"inputs\[0\] is an image, and .* embeds text alone. Use a CLIP model"),
    ],
)
def test_what_is_no_text_is_named_by_its_position(encoder, inputs, said):
    with pytest.raises(ValueError, match=said) as caught:
        encoder.encode(inputs)
    assert "\n" not in str(caught.value)


def test_one_string_is_one_text_for_an_encoder_alone(encoder):
    assert len(encoder.encode("a text")) == len(encoder.encode(np.str_("a text"))) == 1
    with pytest.raises(ValueError, match="`inputs` is one string: pass a list of strings"):
        encoder.backbone.embed("a text")


def test_generators_are_read_once_where_modalities_have_means(modal_encoder):
    inputs = ["a text", picture(1), "another", np.asarray(picture(2))]
    expected = modal_encoder.encode(inputs)
    np.testing.assert_array_equal(modal_encoder.encode(value for value in inputs).values, expected.values)
    with pytest.raises(ValueError, match="`inputs` has 1 inputs for 2 embeddings"):
        modal_encoder.subtract_modality_means(np.zeros((2, 24), np.float32), ["a"])


def test_batches_of_images_are_taken_one_by_one(clip):
    batch = np.stack([np.asarray(picture(number)) for number in range(3)])
    expected = clip.embed([picture(number) for number in range(3)])
    np.testing.assert_allclose(clip.embed(batch), expected, atol=1e-6)
    np.testing.assert_allclose(clip.embed(torch.from_numpy(batch)), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"array of shape \(20, 20, 3\): pass one image as \[array\], several as"):
        clip.embed(batch[0])
