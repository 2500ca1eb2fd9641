"""Answer the questions of steering_questions.json, by the dense model and by a search that is steered by latents.

    python recipes/explain/steering.py runs/all-MiniLM-L6-v2_general_k32 data/reuters21578.parquet \
        recipes/results/steering.json

Latents are chosen in two ways: those of the words of A and of B, as the head encodes them; and those that are typical
of 20 examples of A and of B, by their mean activation above that of all examples, as it is or by its standard
deviation. Embeddings are kept beside the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from steering_data import Topics, read_topics

from csr_hf import CSREncoder, CSRModel
from csr_hf.codes import encode_embeddings
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.intervals import resample_means
from csr_hf.explain.steering import Steering, have_latents, steer_queries
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.folder import RunFolder

QUESTIONS = Path(__file__).with_name("steering_questions.json")
TOP, _WORD_LATENTS = 10, 8
LEAST_SPREAD = 0.02
CHOSEN = {"count": 128, "against": 0.3, "total": 1.0}
"""Latents of A and of B, the weight of B's by that of A's, and the latter in norms of the query."""


class Question(NamedTuple):
    """One question, with what the methods may know of it."""

    about: np.ndarray
    """Embedding of the words of A; of unit norm, like all of these."""
    other: np.ndarray
    """Of the words of B."""
    said: np.ndarray
    """Of `A, but not B`."""
    examples: tuple[np.ndarray, np.ndarray]
    """Mean embeddings of examples of A and of B."""
    typical: tuple[np.ndarray, np.ndarray]
    """How much more each latent adds to examples of A, and of B, than to all examples, shape (hidden_dim,)."""
    spread: np.ndarray
    """Standard deviation of what each latent adds to all examples, and a little, shape (hidden_dim,)."""
    worded: np.ndarray
    """How much more each latent adds to the words of B than to those of A."""
    relevant: np.ndarray
    """Bool, shape (documents,)."""


def main(run: str, reuters: str, output: str) -> None:
    """Answer the questions of all data sets, and write mean nDCG with intervals."""
    fixed = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    encoder = CSREncoder.from_pretrained(run, device="cpu")
    cached = CachedBackbone(encoder.backbone, RunFolder.of(run).embeddings, batch_size=64)
    found = []
    for name, topics in read_topics(Path(reuters)).items():
        documents, questions = _read_questions(encoder, cached, topics, fixed["data"][name]["questions"])
        answered = {**_answer_densely(documents, questions, fixed["answers without steering"])}
        answered |= _answer_steered(encoder.head, documents, questions)
        for method, scores in answered.items():
            interval = resample_means([np.array(scores)])[0].interval()
            found.append({"data": name, "method": method, "questions": len(scores), "ndcg": float(np.mean(scores)),
                          "interval": interval})  # fmt: skip
            sys.stdout.write(f"{name:14} {method:40} {np.mean(scores):.3f}\n")
            sys.stdout.flush()
        # What is done stays where a later data set fails.
        content = {**provenance(), "head": encoder.fingerprint, "rows": found}
        Path(output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def to_unit(rows: np.ndarray) -> np.ndarray:
    """Bring rows to unit norm."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9), np.float32)


def _read_questions(
    encoder: CSREncoder, cached: CachedBackbone, topics: Topics, asked: list[dict[str, Any]]
) -> tuple[np.ndarray, list[Question]]:
    """Embed documents, and all that the methods may know of the questions."""
    documents = cached.embed(topics.documents.texts, None)
    chosen = choose_examples(topics, sorted({each[key] for each in asked for key in ("about", "not")}))
    rows = sorted({row for own in chosen.values() for row in own})
    examples = cached.embed([topics.examples.texts[row] for row in rows], None)
    places = {topic: [rows.index(row) for row in own] for topic, own in chosen.items()}
    norms = np.linalg.norm(encoder.head.dictionary.detach().numpy(), axis=1)
    adds = encode_embeddings(encoder.head, examples).to_scipy().toarray() * norms
    words = {word: row for row, word in enumerate(sorted({word for each in asked for word in each["words"]}))}
    embedded = cached.embed(list(words), None, task="query")
    worded = encode_embeddings(encoder.head, embedded, _WORD_LATENTS).to_scipy().toarray() * norms
    said = cached.embed(["{}, but not {}".format(*each["words"]) for each in asked], None, task="query")
    questions = []
    for each, sentence in zip(asked, said, strict=True):
        about, other = (words[word] for word in each["words"])
        pair = [places[each[key]] for key in ("about", "not")]
        relevant = [each["about"] in own and each["not"] not in own for own in topics.documents.topics]
        questions.append(
            Question(
                to_unit(embedded[about]), to_unit(embedded[other]), to_unit(sentence),
                tuple(to_unit(to_unit(examples[own]).mean(axis=0)) for own in pair),
                tuple(adds[own].mean(axis=0) - adds.mean(axis=0) for own in pair),
                adds.std(axis=0) + LEAST_SPREAD, worded[other] - worded[about], np.array(relevant),
            )
        )  # fmt: skip
    return documents, questions


def choose_examples(topics: Topics, names: list[str], count: int = 20) -> dict[str, list[int]]:
    """Choose examples of each topic by chance: their rows."""
    rng, found = np.random.default_rng(0), {}
    for name in names:
        rows = [row for row, own in enumerate(topics.examples.topics) if name in own]
        found[name] = [int(row) for row in rng.permutation(rows)[:count]]
    return found


def _score(found: np.ndarray, relevant: np.ndarray) -> float:
    """Compute nDCG at 10 of documents in the order in which they were found."""
    gains = 1 / np.log2(np.arange(2, TOP + 2))
    hits = relevant[found[:TOP]]
    return float((hits * gains[: len(hits)]).sum() / gains[: min(TOP, int(relevant.sum()))].sum())


def _answer_densely(documents: np.ndarray, questions: list[Question], fixed: dict[str, Any]) -> dict[str, list[float]]:
    """Answer as the file of questions says, and by the mean of the examples of A, which it does not name."""
    units, scores = to_unit(documents), {}
    pool_size, shares, weights = fixed["filter"]["pool"], fixed["filter"]["share"], fixed["negative prompt"]["weight"]
    for each in questions:
        alike = units @ each.about
        pool = np.argsort(-alike, kind="stable")[:pool_size]
        answers = {"dense": pool, "dense, asked for A, but not B": np.argsort(-(units @ each.said), kind="stable")}
        for kind, other in (("", each.other), (" by examples", each.examples[1])):
            against = (units @ other)[pool]
            for share in shares:
                cut = np.sort(against)[::-1][int(share * len(pool)) - 1]
                answers[f"dense, filter{kind}, {share}"] = pool[against < cut]
            answers[f"dense, filter{kind}, closer"] = pool[against <= alike[pool]]
            for weight in weights:
                turned = each.about - weight * other
                answers[f"dense, negative prompt{kind}, {weight}"] = np.argsort(-(units @ turned), kind="stable")
        answers["dense, examples of A"] = np.argsort(-(units @ each.examples[0]), kind="stable")
        both = each.about + each.examples[0] - 0.5 * each.examples[1]
        answers["dense, words and examples of A less half of B"] = np.argsort(-(units @ both), kind="stable")
        for method, found in answers.items():
            scores.setdefault(method, []).append(_score(found, each.relevant))
    return scores


def _answer_steered(head: CSRModel, documents: np.ndarray, questions: list[Question]) -> dict[str, list[float]]:
    """Search exactly, by cosines with the steered query: nothing differs from the dense model but the steering."""
    units, codes = to_unit(documents), encode_embeddings(head, documents)
    scores: dict[str, list[float]] = {}
    for each in questions:
        own, other = (_numbers(np.argsort(-rows, kind="stable")) for rows in each.typical)
        by_words = _numbers(np.argsort(-each.worded, kind="stable"))
        steers = {"latents of examples, must, 1": Steering({}, (), own[:1])}
        for count in (1, 2, 4):
            more = dict.fromkeys(own[:count], 1 / count)
            without = tuple(latent for latent in other[:count] if latent not in more)
            steers[f"latents of words, without, {count}"] = Steering({}, by_words[:count])
            steers[f"latents of examples, without, {count}"] = Steering({}, without)
            steers[f"latents of examples, more, {count}"] = Steering(more)
            steers[f"latents of examples, more and without, {count}"] = Steering(more, without)
        for count in (8, 16, 32):
            steers[f"latents of examples, weighted, {count}"] = Steering(_weigh(each.typical, count, (1.5, -0.9)))
        # As steering_choice.py chose on examples alone.
        steers["latents of examples, weighted by spread"] = Steering(_weigh_by_spread(each))
        for method, steering in steers.items():
            alike = units @ steer_queries(head, each.about[None], steering)[0]
            if steering.must:
                alike[~have_latents(codes, steering.must)] = -np.inf
            scores.setdefault(method, []).append(_score(np.argsort(-alike, kind="stable"), each.relevant))
    return scores


def _weigh_by_spread(question: Question) -> dict[int, float]:
    """Weigh latents by how far they stand out, in standard deviations, with the settings that were chosen."""
    typical = tuple(rows / question.spread for rows in question.typical)
    return _weigh(typical, CHOSEN["count"], (CHOSEN["total"], -CHOSEN["total"] * CHOSEN["against"]))


def _weigh(typical: tuple[np.ndarray, ...], count: int, totals: tuple[float, float]) -> dict[int, float]:
    """Weigh the latents most typical of A, and less so, against them, of B; a latent of both gets the sum."""
    weights: dict[int, float] = {}
    for rows, total in zip(typical, totals, strict=True):
        chosen = np.argsort(-rows, kind="stable")[:count]
        shares = np.maximum(rows[chosen], 0)
        for latent, share in zip(chosen, shares / max(float(np.linalg.norm(shares)), 1e-9), strict=True):
            weights[int(latent)] = weights.get(int(latent), 0.0) + total * float(share)
    return weights


def _numbers(latents: np.ndarray) -> tuple[int, ...]:
    return tuple(int(latent) for latent in latents[:32])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    record_command(" ".join(["python", *sys.argv]))
    main(*sys.argv[1:])
