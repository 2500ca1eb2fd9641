"""nDCG@10 of every contestant and setting on a real retrieval task of mteb: quality alone, nothing is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.bench.rivals import Rival
from csr_hf.bench.search_data import TOP_K
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.csr_methods import CodesMatrix
from csr_hf.evaluation.method import Hits, Method, Searcher
from csr_hf.evaluation.mteb import MTEBEncoder, model_meta
from csr_hf.evaluation.neighbors import unit_rows
from csr_hf.evaluation.tasks import load_tasks

if TYPE_CHECKING:
    from csr_hf.bench.search import SearchSizes
    from csr_hf.bench.search_results import SearchContest
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel


class _Ready(Searcher):
    """A contestant at one setting, over the documents it was built on."""

    def __init__(self, rival: Rival, setting: dict[str, Any]) -> None:
        self.rival, self.setting = rival, setting

    def search(self, queries: np.ndarray, top_k: int) -> Hits:
        # More than ten would change what approximate searches find among the first ten.
        top_k = min(top_k, TOP_K)
        positions = np.asarray(self.rival.search(unit_rows(queries), top_k, **self.setting), np.int64)
        return Hits(positions, np.tile(-np.arange(top_k, dtype=np.float32), (len(positions), 1)))

    def score(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        raise TypeError(f"{self.rival.name} searches, and scores no chosen documents. Take a retrieval task.")


class _Entry(Method):
    """A contestant at one setting, as mteb's evaluation takes it; built once for all settings."""

    retrieval_only = True
    bytes_per_vector = 0

    def __init__(self, built: dict[str, Any], setting: dict[str, Any], make: Callable[[np.ndarray], Rival]) -> None:
        self._built, self._setting, self._make = built, setting, make

    def vectors(self, embeddings: np.ndarray) -> np.ndarray | CodesMatrix:
        raise TypeError("a contestant of a search gives no vectors. Take a retrieval task.")

    def index(self, documents: np.ndarray) -> Searcher:
        # Tasks of several subsets have a corpus each.
        if self._built.get("documents") is not documents:
            self._built.update(documents=documents, rival=self._make(unit_rows(documents)))
        return _Ready(self._built["rival"], self._setting)

    @property
    def settings(self) -> dict[str, Any]:
        return {"contestant": self.name, **self._setting}


def check_task(name: str) -> None:
    """Find out whether mteb is installed and knows the task, and whether it is one of retrieval.

    Raises:
        ValueError: for an unknown task (the nearest is named), or one of another type.
        ImportError: if mteb is missing, with the line to type.
    """
    kind = load_tasks([name])[name].metadata.type
    if kind != "Retrieval":
        raise ValueError(f"`task` {name} is of the type {kind}. Take one of retrieval, such as SciFact.")


def measure_task(
    name: str,
    contest: SearchContest,
    rivals: Sequence[type[Rival]],
    head: CSRModel,
    backbone: Backbone,
    sizes: SearchSizes,
    cache_dir: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> None:
    """Fill in the nDCG@10 of the contest's results; a contestant that fails on the task keeps None.

    Args:
        name: of mteb, `Name`, `Name:subset` or `Name:subset:split`.
        contest: what was timed.
        rivals: its contestants.
        head: of the codes.
        backbone: embeds the task's texts.
        sizes: of the contest.
        cache_dir: of embeddings.
        say: told what happens.
        progress: show bars.
    """
    from csr_hf.bench.search import make_corpus

    task = load_tasks([name])[name]
    source = CachedBackbone(backbone, cache_dir)
    task.load_data()
    kinds = {kind.name: kind for kind in rivals}
    for contestant in dict.fromkeys(one.contestant for one in contest.results):
        built: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="csr_hf-bench-") as temporary:

            def make(documents: np.ndarray, folder: Path = Path(temporary), label: str = contestant) -> Rival:
                rival = kinds[label](make_corpus(head, documents, sizes, folder)[0])
                rival.build()
                return rival

            try:
                for one in contest.results:
                    if one.contestant == contestant:
                        one.ndcg = _ndcg(task, source, one.contestant, _Entry(built, one.setting, make))
            except (KeyboardInterrupt, SystemExit):
                raise
            # As while building: whatever a package of others raises, the others go on.
            except BaseException as error:  # noqa: BLE001
                reason = (str(error) or type(error).__name__).splitlines()[0]
                contest.details.setdefault("task_failures", {})[contestant] = reason
                say(f"{name}: {contestant} failed, {reason}")
            if "rival" in built:
                built["rival"].close()
    source.forget()
    task.unload_data()


def _ndcg(task: Any, source: CachedBackbone, name: str, entry: _Entry) -> float:
    import mteb

    entry.name = name
    found = mteb.evaluate(
        MTEBEncoder(source, entry, model_meta(source.backbone, entry)),
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"batch_size": 1024, "show_progress_bar": False},
    )
    scores = [
        entry["ndcg_at_10"]
        for split in task.eval_splits
        for entry in found.task_results[0].scores[split]
        if entry["hf_subset"] in task.hf_subsets
    ]
    return float(np.mean(scores))
