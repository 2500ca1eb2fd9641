"""What a score of mteb stands on: its queries, pairs or draws, kept so that the next call has them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.evaluation.intervals import Resampled, draw, resample_means
from csr_hf.plumbing.atomic import write_whole

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

_TREC_NAMES = {"ndcg_at": "ndcg_cut", "map_at": "map_cut", "recall_at": "recall", "precision_at": "P"}
_PAIRS = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}
# Scores are rounded by mteb to five digits.
_TOLERANCE = 1e-4


class SingleScores:
    """The scores of single queries or pairs of one task, by method, in memory and in a folder.

    Args:
        task: of mteb; of several splits or subsets the scores are averaged, and each is drawn from by itself.
        folder: where files are kept.
    """

    def __init__(self, task: AbsTask, folder: Path) -> None:
        self.task, self.folder = task, folder
        self.metric = task.metadata.main_score

    @contextmanager
    def recorded(self, method: Mapping[str, Any]) -> Iterator[None]:
        """Keep what mteb computes of single queries or pairs within the block.

        Args:
            method: what tells it from others.
        """
        kept: list[dict[str, list[float]]] = []
        hook, own = self._make_hook(kept)
        if hook:
            setattr(self.task, hook, own)
        try:
            yield
        finally:
            if hook:
                delattr(self.task, hook)
        if kept:
            with write_whole(self._file(method)) as temporary:
                temporary.write_text(json.dumps(kept), encoding="utf-8")

    def resample(self, method: Mapping[str, Any], score: float, entries: list[Mapping[str, Any]]) -> Resampled | float:
        """Return a score with its resamples, or as it is where nothing says what it stands on.

        Args:
            method: what tells it from others.
            score: main score of the task.
            entries: results of mteb, for each split and subset.
        """
        kept = [found for entry in entries if (found := _find_draws(entry, self.metric))]
        path = self._file(method)
        if not kept and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
        if len(kept) != len(entries):
            return score
        parts = [_resample(part, stream) for stream, part in enumerate(kept)]
        mean = sum(part.score for part in parts) / len(parts)
        # Another figure than that of the task: what is kept stands for something else.
        if not abs(mean - score) < _TOLERANCE:
            return score
        resamples = np.mean([part.resamples for part in parts], axis=0)
        return Resampled(score, sum(part.count for part in parts), resamples, parts[0].unit)

    def _file(self, method: Mapping[str, Any]) -> Path:
        splits = [*self.task.eval_splits, *self.task.hf_subsets]
        said = json.dumps([dict(method), splits], sort_keys=True, default=str)
        name = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        return self.folder / self.task.metadata.name / f"{name}.json"

    def _make_hook(self, kept: list[dict[str, list[float]]]) -> tuple[str | None, Any]:
        """Make a method of the task that keeps what it is given; the name of the one that it stands for."""
        from mteb.abstasks.retrieval import AbsTaskRetrieval
        from mteb.abstasks.sts import AbsTaskSTS

        task = self.task
        kind, _, cutoff = self.metric.rpartition("_")
        if isinstance(task, AbsTaskRetrieval) and kind in _TREC_NAMES:
            of_task, name = task.task_specific_scores, f"{_TREC_NAMES[kind]}_{cutoff}"

            def keep_queries(scores: Any, *args: Any, **kwargs: Any) -> Any:
                if all(name in each for each in scores.values()):
                    kept.append({"queries": [scores[query][name] for query in sorted(scores)]})
                return of_task(scores, *args, **kwargs)

            return "task_specific_scores", keep_queries
        if isinstance(task, AbsTaskSTS) and self.metric in _PAIRS:
            computed, name = task._calculate_scores, _PAIRS[self.metric]

            def keep_pairs(scores: Any, wanted: Any) -> Any:
                if scores[name] is not None:
                    predicted = [float(each) for each in scores[name]]
                    kept.append({"predicted": predicted, "wanted": [float(each) for each in wanted]})
                return computed(scores, wanted)

            return "_calculate_scores", keep_pairs
        return None, None


def _resample(kept: Mapping[str, list[float]], stream: int) -> Resampled:
    """Resample what is kept of one split and subset: scores of queries or draws, or pairs."""
    if "predicted" in kept:
        return resample_spearman(np.array(kept["predicted"]), np.array(kept["wanted"]), stream)
    ((unit, scores),) = kept.items()
    return replace(resample_means([np.array(scores)], stream)[0], unit=unit)


def resample_spearman(predicted: np.ndarray, wanted: np.ndarray, stream: int = 0) -> Resampled:
    """Compute Spearman's correlation of pairs, and that of every resample.

    Args:
        predicted: similarities, shape (n,).
        wanted: what people say of them, shape (n,).
        stream: of draws, see `draw`.
    """
    resamples = [_spearman(predicted[rows], wanted[rows]) for rows in draw(len(wanted), stream)]
    exact = _spearman(predicted[None], wanted[None])
    return Resampled(float(exact[0]), len(wanted), np.concatenate(resamples), "pairs")


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate the ranks of each row, shape (rows, n); NaN where all values of a row are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(side, axis=1) for side in (first, second)]
    x, y = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), scale, out=np.full(len(x), np.nan), where=scale > 0)


def _find_draws(entry: Mapping[str, Any], metric: str) -> dict[str, list[float]]:
    """Find the scores of the draws that a score is the mean of: experiments of a classification, or clusterings."""
    experiments = entry.get("scores_per_experiment") or []
    if experiments and all(metric in each for each in experiments):
        return {"draws": [float(each[metric]) for each in experiments]}
    clusterings = entry.get("v_measures") if metric == "v_measure" else None
    if isinstance(clusterings, Mapping):
        return {"draws": [float(score) for level in clusterings.values() for score in level]}
    return {}
