"""Names of latents that are planted: each fires in texts about its own words."""

import hashlib

import numpy as np
import pytest
import scipy.sparse as sp

from csr_hf.explain.candidates import compute_log_odds, embed_contexts, find_candidates, mark_strong
from csr_hf.explain.naming import NamedTexts, choose_names, measure_names, name_by_tfidf
from csr_hf.explain.phrases import count_phrases, split_words, stem
from csr_hf.explain.samples import Sample, draw_samples

TOPICS = [["guitar", "violin"], ["sugar"], ["rocket", "orbit", "moon"]]
FILLERS = ["table", "window", "river", "paper", "garden", "street"]


def embed(texts):
    """Embed by adding a random direction for each stem: texts with the same words are alike."""
    rows = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in split_words(text):
            seed = int.from_bytes(hashlib.blake2b(stem(word).encode(), digest_size=4).digest(), "big")
            rows[row] += np.random.default_rng(seed).standard_normal(64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


@pytest.fixture(scope="module")
def planted():
    """Texts, the activity of three latents in them, and their atoms."""
    rng = np.random.default_rng(0)
    texts, values = [], np.zeros((600, 4))
    for row in range(600):
        words = list(rng.choice(FILLERS, 4))
        topic = int(rng.integers(0, 4))
        if topic < 3:
            words += list(rng.choice(TOPICS[topic], 2))
            values[row, topic] = rng.uniform(0.5, 1)
        texts.append(" ".join(rng.permutation(words)))
    atoms = np.stack([embed([" ".join(topic)])[0] for topic in TOPICS] + [np.zeros(64, np.float32)])
    return NamedTexts(count_phrases(texts), embed(texts)), sp.csc_matrix(values), atoms


@pytest.mark.parametrize("is_few", [False, True])
def test_names_are_what_was_planted_and_predict(planted, is_few):
    texts, activity, atoms = planted
    first, second = np.arange(0, 600, 2), np.arange(1, 600, 2)
    strong = mark_strong(activity[first], 0.5)
    known = texts.phrases.take(first)
    vectors = embed(list(known.names)) if is_few else embed_contexts(known, texts.units[first])
    candidates = find_candidates(strong, known, vectors, atoms, by_atom=16 if is_few else 5)
    rng = np.random.default_rng(0)
    drawn = draw_samples(activity, texts.units, first, 0.5, rng)
    names = choose_names(candidates, drawn, texts, embed, atoms if is_few else None)
    for name, topic in zip(names, TOPICS, strict=False):
        assert split_words(name)[0] in topic
        assert 1 <= len(split_words(name)) <= 4
    dense, sparse = measure_names(names, draw_samples(activity, texts.units, second, 0.5, rng), texts, embed)
    assert (dense[:3] > 0.95).all()
    assert (sparse[:3] > 0.85).all()
    # The last latent never fires: nothing is known of it.
    assert np.isnan([dense[3], sparse[3]]).all()


def test_where_texts_tell_nothing_names_lie_near_the_atom(planted):
    texts, _, atoms = planted
    rng = np.random.default_rng(0)
    sample = Sample(rng.permutation(600)[:2], rng.permutation(600)[:2])
    every = [np.arange(len(texts.phrases.names))] * 3
    names = choose_names(every, [sample] * 3, texts, embed, atoms[:3])
    for name, topic in zip(names, TOPICS, strict=False):
        assert set(split_words(name)) & set(topic)


def test_more_texts_are_drawn_where_a_tenth_are_few(planted):
    texts, activity, _ = planted
    for fewest in (8, 16):
        drawn = draw_samples(activity, texts.units, np.arange(600), 0.01, np.random.default_rng(0), fewest=fewest)
        assert [len(sample.having) for sample in drawn[:3]] == [fewest] * 3


def test_the_obvious_names_are_words_of_largest_mean_tfidf(planted):
    texts, activity, _ = planted
    names = name_by_tfidf(mark_strong(activity, 0.5), texts.phrases, words=1)
    assert [name in topic for name, topic in zip(names, TOPICS, strict=False)] == [True] * 3
    assert names[3] == ""


def test_names_without_candidates_are_empty_and_by_chance(planted):
    texts, activity, _ = planted
    samples = draw_samples(activity, texts.units, np.arange(600), 0.5, np.random.default_rng(0))
    names = choose_names([np.empty(0, np.int64)] * 4, samples, texts, lambda names: np.zeros((0, 64), np.float32))
    assert names == [""] * 4
    dense, sparse = measure_names(names, samples, texts, embed)
    assert dense[:3].tolist() == sparse[:3].tolist() == [0.5] * 3


def test_strong_texts_are_the_largest_values():
    values = np.array([[0.1, 0], [0.9, 0], [0.5, 0], [0, 0.3], [0.7, 0]])
    marked = mark_strong(sp.csc_matrix(values), 0.5, fewest=1).toarray()
    assert marked[:, 0].tolist() == [0, 1, 0, 0, 1]
    assert marked[:, 1].tolist() == [0, 0, 0, 1, 0]


def test_log_odds_are_zero_where_a_phrase_is_as_frequent_as_elsewhere():
    odds = compute_log_odds(np.array([5, 9, 1.0]), 10, np.array([50, 50, 50.0]), 100)
    assert odds[0] == pytest.approx(0, abs=1e-3)
    assert odds[1] > 1
    assert odds[2] < -1
