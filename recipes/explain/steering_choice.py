"""Choose how latents are weighed, on the examples of the questions alone: no document of a question is read.

    python recipes/explain/steering_choice.py runs/all-MiniLM-L6-v2_general_k32 data/reuters21578.parquet \
        recipes/results/steering_choice.json

Of the 20 examples of every topic, ten tell which latents are typical of it, and the other ten are searched. What is
best over the three data sets is CHOSEN in steering.py.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from steering import LEAST_SPREAD, QUESTIONS, TOP, choose_examples, to_unit
from steering_data import Topics, read_topics

from csr_hf import CSREncoder
from csr_hf.codes import encode_embeddings
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.folder import RunFolder

_COUNTS, _AGAINST, _TOTALS = (8, 16, 32, 64, 128, 512), (0.3, 0.6, 0.9, 1.2), (0.7, 1.0, 1.5, 2.0, 3.0)
_FEWEST, _KEPT = 3, 20


class Trial(NamedTuple):
    """The questions of one data set, asked of half of the examples."""

    documents: np.ndarray
    """Unit embeddings, shape (n, input_dim)."""
    about: np.ndarray
    """Unit embeddings of the words of A, shape (questions, input_dim)."""
    typical: tuple[np.ndarray, np.ndarray]
    """What each latent adds to A, and to B, above all, shape (questions, hidden_dim)."""
    spread: np.ndarray
    """As in `steering.Question`."""
    relevant: np.ndarray
    """Bool, shape (questions, n)."""


def main(run: str, reuters: str, output: str) -> None:
    """Score all settings on all data sets, and write the best."""
    encoder = CSREncoder.from_pretrained(run, device="cpu")
    fixed = json.loads(QUESTIONS.read_text(encoding="utf-8"))["data"]
    trials = {
        name: _read(encoder, run, topics, fixed[name]["questions"])
        for name, topics in read_topics(Path(reuters)).items()
    }
    atoms = to_unit(encoder.head.dictionary.detach().numpy())
    found = []
    for by_spread, count, against in itertools.product((False, True), _COUNTS, _AGAINST):
        directions = {name: _turn(trial, by_spread, count, against) @ atoms for name, trial in trials.items()}
        for total in _TOTALS:
            scores = {name: _score(trial, trial.about + total * directions[name]) for name, trial in trials.items()}
            setting = {"by spread": by_spread, "count": count, "against": against, "total": total}
            found.append({**setting, "ndcg": scores, "mean": float(np.mean(list(scores.values())))})
    found.sort(key=lambda each: -each["mean"])
    before = [each for each in found if _is_first(each)]
    content = {**provenance(), "head": encoder.fingerprint, "rows": [*found[:_KEPT], *before]}
    Path(output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(map(str, [*found[:5], *before])) + "\n")


def _is_first(each: dict[str, Any]) -> bool:
    """Tell the setting that steering.py calls `weighted, 32`."""
    return (each["by spread"], each["count"], each["against"], each["total"]) == (False, 32, 0.6, 1.5)


def _read(encoder: CSREncoder, run: str, topics: Topics, asked: list[dict[str, Any]]) -> Trial:
    cached = CachedBackbone(encoder.backbone, RunFolder.of(run).embeddings, batch_size=64)
    chosen = choose_examples(topics, sorted({each[key] for each in asked for key in ("about", "not")}))
    rows = sorted({row for own in chosen.values() for row in own})
    words = sorted({word for each in asked for word in each["words"]})
    embedded = to_unit(cached.embed(words, None, task="query"))
    examples = cached.embed([topics.examples.texts[row] for row in rows], None)
    norms = np.linalg.norm(encoder.head.dictionary.detach().numpy(), axis=1)
    adds = encode_embeddings(encoder.head, examples).to_scipy().toarray() * norms
    known = {topic: [rows.index(row) for row in own[: len(own) // 2]] for topic, own in chosen.items()}
    every = sorted({place for own in known.values() for place in own})
    searched = sorted(set(range(len(rows))) - set(every))
    held = [topics.examples.topics[rows[place]] for place in searched]
    relevant = np.array([[each["about"] in own and each["not"] not in own for own in held] for each in asked])
    kept = np.flatnonzero(relevant.sum(axis=1) >= _FEWEST)
    mean = adds[every].mean(axis=0)
    first, second = (
        np.array([adds[known[asked[number][key]]].mean(axis=0) - mean for number in kept]) for key in ("about", "not")
    )
    about = np.array([embedded[words.index(asked[number]["words"][0])] for number in kept])
    spread = adds[every].std(axis=0) + LEAST_SPREAD
    return Trial(to_unit(examples[searched]), about, (first, second), spread, relevant[kept])


def _turn(trial: Trial, by_spread: bool, count: int, against: float) -> np.ndarray:
    """Weigh the latents of every question, shape (questions, hidden_dim)."""
    scale = trial.spread if by_spread else 1.0
    first, second = (_keep_largest(rows / scale, count) for rows in trial.typical)
    return first - against * second


def _keep_largest(rows: np.ndarray, count: int) -> np.ndarray:
    cut = np.sort(rows, axis=1)[:, -count][:, None]
    return to_unit(np.where(rows >= cut, np.maximum(rows, 0), 0))


def _score(trial: Trial, queries: np.ndarray) -> float:
    """Compute the mean nDCG at 10."""
    gains = 1 / np.log2(np.arange(2, TOP + 2))
    best = np.argsort(-(queries @ trial.documents.T), axis=1, kind="stable")[:, :TOP]
    found = (np.take_along_axis(trial.relevant, best, axis=1) * gains).sum(axis=1)
    ideal = np.array([gains[: min(TOP, int(own.sum()))].sum() for own in trial.relevant])
    return float((found / ideal).mean())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    record_command(" ".join(["python", *sys.argv]))
    main(*sys.argv[1:])
