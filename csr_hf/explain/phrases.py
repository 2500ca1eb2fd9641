"""Words and phrases of texts, counted: what names of latents are made of, and what names are compared with by BM25."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

LONGEST_PHRASE = 4
"""Words of a phrase at most."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019.\-&/][^\W_]+)*")
# Backbones cut texts at about so many words.
_WORDS_OF_A_TEXT = 200
# A phrase that fewer texts hold says too little; so many texts, or one of 10,000.
_FEWEST_TEXTS, _TEXTS_A_COUNT = 4, 10_000
_K1, _B = 1.2, 0.75
_STOP_WORDS = frozenset(
    "a about above after again against all also although am an and any are aren't as at be became because been "
    "before being below between both but by can can't cannot could couldn't did didn't do does doesn't doing "
    "don't done down during each either else ever every few for from further get got had hadn't has hasn't "
    "have haven't having he her here hers herself him himself his how however i i'm if in into is isn't it "
    "it's its itself just let like made make many may me might more most much must my myself neither no nor "
    "not of off often on once one only or other our ours ourselves out over own per quite rather really s said "
    "same say says she should shouldn't since so some such t than that that's the their theirs them themselves "
    "then there these they this those though through thus to too under until up upon us use used using very "
    "via was wasn't we well were weren't what when where whether which while who whom whose why will with "
    "within without won't would wouldn't yet you your yours yourself yourselves".split()
)


@dataclass(frozen=True)
class Phrases:
    """Words and phrases of n texts."""

    names: np.ndarray
    """Phrases of one to four words, lower case, without stop words at their ends; shape (m,)."""
    present: sp.csr_matrix
    """1 where a text holds a phrase, float32, shape (n, m)."""
    weights: sp.csr_matrix
    """BM25 weights of stems in texts, float32, shape (n, stems)."""
    stems: Mapping[str, int]
    """Stem -> column of `weights`."""

    def take(self, rows: np.ndarray) -> Phrases:
        """Return the counts of some of the texts."""
        return replace(self, present=self.present[rows], weights=self.weights[rows])

    def stem_columns(self, name: str) -> list[int]:
        """Return the columns of the stems of a name, each once; stems that no text has have none."""
        found = dict.fromkeys(self.stems.get(stem(word)) for word in split_words(name))
        return [column for column in found if column is not None]

    def score(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Score texts by BM25 of the words of a name, float32, shape (len(rows),)."""
        columns = self.stem_columns(name)
        if not columns:
            return np.zeros(len(rows), np.float32)
        return np.asarray(self.weights[rows][:, columns].sum(axis=1), np.float32).ravel()


def split_words(text: str) -> list[str]:
    """Split a text into words, lower case; words keep hyphens, dots and slashes inside."""
    return _WORD.findall(text.lower())


def stem(word: str) -> str:
    """Take the ending of an English plural from a word (Harman's S-stemmer)."""
    if word.endswith("ies") and len(word) > 4 and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and len(word) > 3 and word[-3] not in "aeo":
        return word[:-1]
    if word.endswith("s") and len(word) > 3 and word[-2] not in "us":
        return word[:-1]
    return word


def count_phrases(texts: Sequence[str], fewest: int | None = None) -> Phrases:
    """Count words and phrases of texts.

    Args:
        texts: n texts; of each the first 200 words are read.
        fewest: texts that hold a phrase, or it is left out; default 4, and one of 10,000 texts.
    """
    fewest = max(_FEWEST_TEXTS, len(texts) // _TEXTS_A_COUNT) if fewest is None else fewest
    tokens, texts_of, words = _number_words(texts)
    n, vocabulary = len(texts), np.array(words, object)
    is_name = np.array([_may_name(word) for word in words], bool)
    frequencies = _columns(texts_of, tokens, (n, len(words))).getnnz(axis=0)
    found = frequencies >= fewest
    names = list(vocabulary[found & is_name])
    parts = [_columns(texts_of, tokens, (n, len(words)))[:, np.flatnonzero(found & is_name)]]
    # Longer phrases begin with phrases that are frequent enough, found one word at a time.
    begun, spelled = np.where(found[tokens], tokens, -1), vocabulary
    for length in range(2, LONGEST_PHRASE + 1):
        starts = np.flatnonzero(_continues(begun, found[tokens], texts_of, length))
        last = tokens[starts + length - 1]
        keys, phrase_of = np.unique(begun[starts] * np.int64(len(words)) + last, return_inverse=True)
        held = _columns(texts_of[starts], phrase_of, (n, len(keys)))
        is_frequent, ends = held.getnnz(axis=0) >= fewest, np.ones(len(keys), bool)
        ends[phrase_of] = is_name[tokens[starts]] & is_name[last]
        spelled = spelled[keys // len(words)] + " " + vocabulary[keys % len(words)]
        # "dict dict" says no more than "dict".
        chosen = np.flatnonzero(is_frequent & ends)
        chosen = chosen[np.array([len(set(spelled[key].split(" "))) == length for key in chosen], bool)]
        names.extend(spelled[chosen])
        parts.append(held[:, chosen])
        begun = np.full(len(tokens), -1, np.int64)
        begun[starts] = np.where(is_frequent[phrase_of], phrase_of, -1)
    present = sp.hstack(parts, format="csr", dtype=np.float32)
    return Phrases(np.array(names, object), present, *_weigh_stems(tokens, texts_of, words, n))


def _number_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the number of every word, the text that it stands in, and the words by their numbers."""
    numbers: dict[str, int] = {}
    found: list[int] = []
    lengths = np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        words = split_words(text)[:_WORDS_OF_A_TEXT]
        lengths[row] = len(words)
        found.extend([numbers.setdefault(word, len(numbers)) for word in words])
    return np.array(found, np.int64), np.repeat(np.arange(len(texts)), lengths), list(numbers)


def _may_name(word: str) -> bool:
    return len(word) > 1 and word not in _STOP_WORDS and any(letter.isalpha() for letter in word)


def _columns(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Mark which columns stand in which rows."""
    marked = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    marked.data[:] = 1
    return marked


def _continues(begun: np.ndarray, found: np.ndarray, texts_of: np.ndarray, length: int) -> np.ndarray:
    """Tell at which words a phrase of `length` words may begin: its first part and its last word are frequent."""
    count = max(len(begun) - length + 1, 0)
    ends = slice(length - 1, length - 1 + count)
    return (begun[:count] >= 0) & found[ends] & (texts_of[:count] == texts_of[ends])


def _weigh_stems(
    tokens: np.ndarray, texts_of: np.ndarray, words: list[str], n: int
) -> tuple[sp.csr_matrix, dict[str, int]]:
    """Compute the BM25 weight of every stem in every text (Robertson and Zaragoza 2009), and number the stems."""
    stems: dict[str, int] = {}
    of_word = np.array([stems.setdefault(stem(word), len(stems)) for word in words], np.int64)
    counts = sp.csr_matrix(
        (np.ones(len(tokens), np.float32), (texts_of, of_word[tokens])), shape=(n, max(len(stems), 1))
    )
    counts.sum_duplicates()
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    frequencies = counts.getnnz(axis=0)
    rarity = np.log1p((n - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    expected = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if n else 0, 1e-9))
    rows = np.repeat(np.arange(n), np.diff(counts.indptr))
    counts.data = rarity[counts.indices] * counts.data * (_K1 + 1) / (counts.data + expected[rows].astype(np.float32))
    return counts, stems
