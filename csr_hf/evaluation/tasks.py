"""MTEB tasks by every method, from one pass of the backbone: resumable, and one failure does not stop the rest."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.comparison import Measured, compare_methods
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.mteb import ENCODE_KWARGS, MTEBEncoder, model_meta
from csr_hf.evaluation.results import SEEN, Results, Row
from csr_hf.evaluation.single_scores import SingleScores
from csr_hf.evaluation.vector_method import DenseMethod
from csr_hf.plumbing.logs import progress_bar
from csr_hf.runs.folder import RESULTS

if TYPE_CHECKING:
    from mteb import ResultCache
    from mteb.abstasks import AbsTask

logger = logging.getLogger(__name__)

_MTEB, _QUERIES = "mteb", "queries"
# Details that rows of one file have in common.
_SAME = ("head", "backbone", "similarity", "instruction_template")


@dataclass
class Benchmark:
    """What was measured, and what failed."""

    results: Results
    """A row for every task and method."""
    failures: dict[str, str] = field(default_factory=dict)
    """Task -> why it failed."""


@dataclass(frozen=True)
class HeadMeta:
    """How mteb's result files name a head."""

    name: str
    """`user/name`."""
    revision: str
    """Commit, or fingerprint of the head."""
    trained_on: set[str] | None = None
    """Tasks whose data the head was trained on, in mteb's names; None if unknown."""


def load_tasks(names: Sequence[str]) -> dict[str, AbsTask]:
    """Load tasks of mteb by name, `Name`, `Name:subset` or `Name:subset:split`.

    Returns:
        The names as they were given, and their tasks.

    Raises:
        ValueError: for an unknown name, subset or split; the nearest name is given.
        ImportError: if mteb is missing, with the line to type.
    """
    try:
        import mteb
    except ImportError as error:
        raise ImportError('evaluation on MTEB needs mteb: pip install "csr_hf[eval]"') from error
    tasks = {}
    for entry in names:
        name, _, rest = entry.partition(":")
        subset, _, split = rest.partition(":")
        try:
            task = mteb.get_task(name, hf_subsets=[subset] if subset else None, eval_splits=[split] if split else None)
        except (KeyError, ValueError) as error:
            reason = str(error.args[0]).removeprefix("KeyError: ")
            raise ValueError(f"task {entry!r} is unknown to mteb: {reason}") from error
        if (subset and subset not in task.hf_subsets) or (split and split not in task.eval_splits):
            raise ValueError(f"task {name} has the subsets {task.hf_subsets} and the splits {task.eval_splits}.")
        tasks[entry] = task
    return tasks


def evaluate_tasks(
    tasks: Mapping[str, AbsTask],
    methods: Sequence[Method],
    cached: CachedBackbone,
    output_dir: str | Path,
    head: HeadMeta,
    details: Mapping[str, Any] | None = None,
) -> Benchmark:
    """Measure every method on every task; `results.json` and mteb's own files are written after each task.

    A second call goes on at the task and method where the first one stopped: results of the same model, head and
    settings, on the same revision of the data, are taken from `output_dir/mteb`. Rows of other tasks stay.

    Args:
        tasks: of `load_tasks`.
        methods: of `all_methods`; the first is the dense model.
        cached: the backbone.
        output_dir: gets `results.json`, `results.md`, `mteb/`, and `queries/` with the scores of single queries.
        head: how mteb names the head.
        details: recorded with the results.

    Returns:
        Rows of each task's main score, and the tasks that failed.

    Raises:
        ValueError: if `output_dir` holds results of another head, backbone or settings, see `check_earlier`.
    """
    import mteb

    output_dir = Path(output_dir)
    cache = mteb.ResultCache(output_dir / _MTEB)
    benchmark = Benchmark(_load_earlier(output_dir, tasks, details or {}))
    for name, task in tasks.items():
        is_seen = task.metadata.name in (head.trained_on or ())
        logger.info("%s: %s, %s%s", name, task.metadata.type, task.metadata.main_score, SEEN if is_seen else "")
        measurement = _Measurement(task, cached, cache, head, SingleScores(task, output_dir / _QUERIES))
        try:
            rows = measurement.compare(name, methods)
        # Whatever a task raises, missing data or a defect of its own: the others go on, and the caller is told.
        except Exception as error:  # noqa: BLE001
            benchmark.failures[name] = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
            logger.info("%s: failed, %s", name, benchmark.failures[name])
            continue
        finally:
            cached.forget()
        _record(benchmark.results, name, rows, measurement, is_seen=is_seen)
        benchmark.results.save(output_dir)
    return benchmark


@dataclass
class _Measurement:
    """One task, measured method by method."""

    task: AbsTask
    cached: CachedBackbone
    cache: ResultCache
    head: HeadMeta
    single: SingleScores
    seconds: dict[str, float] = field(default_factory=lambda: {"dense": 0.0, "all others": 0.0})
    """Time of evaluation, data loading included."""
    is_resumed: bool = False
    """Whether mteb's cache had some of the results, so that `seconds` are too few."""

    def compare(self, name: str, methods: Sequence[Method]) -> list[Row]:
        """Measure all methods; rows show the task as `name`."""
        try:
            return compare_methods(name, progress_bar(methods, desc=name, unit="method"), self.measure)
        finally:
            if self.task.data_loaded:
                self.task.unload_data()

    def measure(self, method: Method) -> dict[str, Measured]:
        """Compute the main score of a method, or take it from mteb's cache."""
        import mteb

        from csr_hf.evaluation.list_columns import read_columns_at_once

        task, backbone, known = self.task, self.cached.backbone, {}
        if method.of_head:
            head = self.head
            known = {"name": head.name, "revision": head.revision, "training_datasets": head.trained_on}
            known["adapted_from"] = backbone.name
        encoder = MTEBEncoder(self.cached, method, model_meta(self.cached, method, **known))
        meta = encoder.mteb_model_meta
        identity = {"name": meta.name, "revision": meta.revision, "settings": meta.experiment_kwargs}
        began = time.perf_counter()
        earlier = self.cache.load_task_result(task.metadata.name, encoder.mteb_model_meta)
        # mteb itself takes a whole result of any revision of the data set.
        is_known = earlier is not None and earlier.dataset_revision == task.metadata.revision
        self.is_resumed = self.is_resumed or is_known
        if not task.data_loaded and not is_known:
            task.load_data()
            read_columns_at_once(task.dataset)
        with self.single.recorded(identity):
            found = mteb.evaluate(
                encoder,
                task,
                cache=self.cache,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs=ENCODE_KWARGS,
                overwrite_strategy="only-missing" if is_known else "always",
            )
        self.seconds["dense" if isinstance(method, DenseMethod) else "all others"] += time.perf_counter() - began
        entries = _list_entries(found.task_results[0].scores, task)
        score = float(sum(entry["main_score"] for entry in entries) / len(entries))
        return {task.metadata.main_score: self.single.resample(identity, score, entries)}


def _record(results: Results, name: str, rows: list[Row], measurement: _Measurement, *, is_seen: bool) -> None:
    """Add the rows of a task to the results, and its type, data set and seconds to their details."""
    metadata, details = measurement.task.metadata, results.details
    results.rows += rows
    details["task_types"][name] = metadata.type
    if is_seen:
        details["seen"] = sorted({*details["seen"], name})
    # Parts of a task, and tasks that the head was trained on, are no results to publish.
    elif name == metadata.name:
        dataset = metadata.dataset
        details["datasets"][name] = {"id": dataset["path"], "task_id": name, "revision": dataset["revision"]}
    if not measurement.is_resumed:
        details["seconds"][name] = {key: round(value, 1) for key, value in measurement.seconds.items()}


def check_earlier(output_dir: str | Path, details: Mapping[str, Any]) -> None:
    """Check that results in a folder are of the same head, backbone and settings as those to come.

    Args:
        output_dir: it need not exist.
        details: of the results to come, as for `evaluate_tasks`.

    Raises:
        ValueError: if they are not, naming what differs.
    """
    path = Path(output_dir) / RESULTS
    if not path.is_file():
        return
    earlier = Results.load(path).details
    differing = [name for name in _SAME if earlier.get(name) != details.get(name)]
    if differing:
        raise ValueError(
            f"{path} holds results of another {' and '.join(differing)}. Choose another output_dir, or start over "
            "with --overwrite."
        )


def remove_earlier(output_dir: str | Path) -> None:
    """Remove the results that an evaluation left in a folder, mteb's own files and scores of single queries too."""
    path = Path(output_dir) / RESULTS
    for file in (path, path.with_suffix(".md")):
        file.unlink(missing_ok=True)
    for folder in (Path(output_dir) / _MTEB, Path(output_dir) / _QUERIES):
        if folder.is_dir():
            shutil.rmtree(folder)


def _load_earlier(output_dir: Path, tasks: Mapping[str, AbsTask], details: Mapping[str, Any]) -> Results:
    """Load the results of other tasks that were measured with the same head and settings before."""
    check_earlier(output_dir, details)
    kept: dict[str, Any] = {"task_types": {}, "datasets": {}, "seconds": {}, "seen": []}
    rows: list[Row] = []
    if (output_dir / RESULTS).is_file():
        earlier = Results.load(output_dir)
        rows = [row for row in earlier.rows if row.task not in tasks]
        for name in ("task_types", "datasets", "seconds"):
            known = earlier.details.get(name, {})
            kept[name] = {task: value for task, value in known.items() if task not in tasks}
        kept["seen"] = [task for task in earlier.details.get("seen", []) if task not in tasks]
    return Results(rows, {**kept, **details})


def _list_entries(scores: Mapping[str, Sequence[Mapping[str, Any]]], task: AbsTask) -> list[Mapping[str, Any]]:
    """List the results of the splits and subsets of the task; mteb's cache may hold more of them."""
    return [
        entry for split in task.eval_splits for entry in scores.get(split, []) if entry["hf_subset"] in task.hf_subsets
    ]
