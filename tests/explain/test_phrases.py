"""Words and phrases of texts against counts written out by hand, and BM25 against its formula."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.explain.phrases import count_phrases, split_words, stem

TEXTS = [
    "Blood sugar rises.",
    "The blood sugar of cats",
    "blood, sugar and of cats",
    "Cats' U.S. state-of CATS",
]


def holds(phrases, name):
    (column,) = np.flatnonzero(phrases.names == name)
    return phrases.present[:, [column]].toarray().ravel().tolist()


def test_phrases_are_found_where_they_stand():
    phrases = count_phrases(TEXTS, fewest=2)
    assert sorted(phrases.names) == ["blood", "blood sugar", "cats", "sugar"]
    # Twice in a text counts once, and a comma inside a phrase is no hindrance.
    assert holds(phrases, "cats") == [0, 1, 1, 1]
    assert holds(phrases, "blood sugar") == [1, 1, 1, 0]


def test_phrases_may_hold_stop_words_but_not_end_with_them():
    phrases = count_phrases(["house of cards"] * 3 + ["the house of the"], fewest=3)
    assert sorted(phrases.names) == ["cards", "house", "house of cards"]


def test_phrases_do_not_say_a_word_twice():
    phrases = count_phrases(["dict dict of keys"] * 4)
    assert sorted(phrases.names) == ["dict", "dict of keys", "keys"]


def plain_phrases(texts, longest, fewest):
    """Phrases with the numbers of texts that hold them, counted one by one; no stop words among these words."""
    found = {}
    for text in texts:
        words = text.split()
        held = {" ".join(words[a : a + n]) for n in range(1, longest + 1) for a in range(len(words) - n + 1)}
        for phrase in held:
            found[phrase] = found.get(phrase, 0) + 1
    kept = {phrase: count for phrase, count in found.items() if count >= fewest}
    return {phrase: count for phrase, count in kept.items() if len(set(phrase.split())) == len(phrase.split())}


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(["red", "blue", "cat", "dog"]), max_size=7).map(" ".join), max_size=9),
    fewest=st.integers(1, 3),
)
def test_phrases_equal_those_counted_one_by_one(texts, fewest):
    phrases = count_phrases(texts, fewest=fewest)
    counts = dict(zip(phrases.names, phrases.present.getnnz(axis=0), strict=True))
    assert counts == plain_phrases(texts, 4, fewest)
    assert set(phrases.present.data) <= {1.0}


def test_words_keep_what_stands_inside_them():
    assert split_words("Don't use 17q23.1, e-mail A/B; Ünïcode_x") == [
        "don't",
        "use",
        "17q23.1",
        "e-mail",
        "a/b",
        *("ünïcode", "x"),
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cats", "cat"),
        ("ponies", "pony"),
        ("houses", "house"),
        ("glass", "glass"),
        ("virus", "virus"),
        ("is", "is"),
        ("dress", "dress"),
    ],
)
def test_plurals_lose_their_ending(word, expected):
    assert stem(word) == expected


def test_scores_are_bm25():
    texts = ["cat cats dog", "dog", "bird bird bird bird", "cat"]
    phrases = count_phrases(texts, fewest=1)
    n, mean = 4, 9 / 4
    expected = []
    for text in texts:
        words = [stem(word) for word in text.split()]
        score = 0.0
        for asked in ("cat", "dog"):
            frequency = sum(asked in [stem(word) for word in other.split()] for other in texts)
            rarity = math.log(1 + (n - frequency + 0.5) / (frequency + 0.5))
            count = words.count(asked)
            score += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(words) / mean))
        expected.append(score)
    found = phrases.score("Cats, dogs cat unknown", np.arange(4))
    assert found == pytest.approx(expected, rel=1e-5)
    assert phrases.take(np.array([2, 0])).score("cat dog", np.arange(2)) == pytest.approx([0, expected[0]], rel=1e-5)
    assert phrases.score("unknown", np.arange(4)).tolist() == [0, 0, 0, 0]


def test_texts_without_words_have_no_phrases():
    phrases = count_phrases(["", "... !"], fewest=1)
    assert len(phrases.names) == 0
    assert phrases.score("cat", np.arange(2)).tolist() == [0, 0]
