"""Write questions of the kind "about A but not B", made of real labels, and how they are answered without steering.

    python recipes/explain/steering_questions.py data/reuters21578.parquet

A document is relevant if it has the topic A and has not B. Where texts have several topics, B is each that enough
documents with A have as well. Where they have one, B is the topic whose examples share most words with those of A: the
largest cosine of their mean TF-IDF. No embedding chooses a question.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from steering_data import Part, Topics, read_topics

OUTPUT = Path(__file__).with_name("steering_questions.json")
_FEWEST = 10

ANSWERS = {
    "measure": "nDCG at 10, mean over questions",
    "plain": "cosine with the words of A",
    "said": "cosine with the words `A, but not B`",
    "filter": {
        "what": "the 200 nearest to the words of A, less the share of them that is most similar to the words of B",
        "pool": 200,
        "share": [0.05, 0.1, 0.25, 0.5],
        "also": "less those that are more similar to the words of B than to the words of A",
    },
    "negative prompt": {"what": "cosine with A - weight B, of unit norm", "weight": [0.25, 0.5, 0.75, 1.0]},
    "examples": {
        "what": "the same two, with the mean of so many examples of B, of unit norm, in place of its words",
        "count": 20,
    },
    "choice": "of shares and weights the one that is best over all questions of a data set, known afterwards",
}
"""How the dense model answers."""


def main(reuters: str) -> None:
    """Write the questions of all data sets."""
    found = {}
    for name, topics in read_topics(Path(reuters)).items():
        single = all(len(each) == 1 for each in topics.documents.topics)
        pairs = sorted(_pair_by_words(topics) if single else _pair_by_overlap(topics.documents))
        found[name] = {
            "documents": len(topics.documents.texts),
            "examples": len(topics.examples.texts),
            "hash": hashlib.sha256("\n".join(topics.documents.texts).encode()).hexdigest()[:16],
            "questions": [
                {"about": about, "not": other, "words": [topics.words[about], topics.words[other]],
                 "relevant": _count(topics.documents, about, other)}
                for about, other in pairs
            ],
        }  # fmt: skip
    content = {"answers without steering": ANSWERS, "data": found}
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, each in found.items():
        sys.stdout.write(f"{name}: {len(each['questions'])} questions, {each['documents']:,} documents\n")


def _count(part: Part, about: str, other: str) -> int:
    return sum(about in topics and other not in topics for topics in part.topics)


def _pair_by_overlap(part: Part) -> Iterator[tuple[str, str]]:
    """Pair topics that enough documents have both of, and enough the first alone."""
    both = Counter(pair for topics in part.topics for pair in itertools.permutations(sorted(topics), 2))
    for (about, other), count in both.items():
        if count >= _FEWEST and _count(part, about, other) >= _FEWEST:
            yield about, other


def _pair_by_words(topics: Topics) -> Iterator[tuple[str, str]]:
    """Pair each topic with the one whose examples share most words with its own."""
    counts = Counter(topic for each in topics.documents.topics for topic in each)
    names = sorted(topic for topic, count in counts.items() if count >= _FEWEST)
    words = TfidfVectorizer(stop_words="english").fit_transform(topics.examples.texts)
    own = [np.array([name in each for each in topics.examples.topics]) for name in names]
    means = np.vstack([np.asarray(words[rows].mean(axis=0)) for rows in own])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -1)
    for name, nearest in zip(names, likeness.argmax(axis=1), strict=True):
        yield name, names[nearest]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
