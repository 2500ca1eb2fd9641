"""MTEB tasks by every method, from one pass of the backbone: resumable, and one failure does not stop the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.evaluation.methods import CSRMethod, DenseMethod, Method
from csr_hf.evaluation.mteb import EmbeddingSource, MTEBEncoder, model_meta
from csr_hf.evaluation.results import SEEN, Results, Row

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

_SEARCH_TYPES = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
_MTEB = "mteb"


@dataclass
class Benchmark:
    """What was measured, and what could not be.

    Attributes:
        results: a row for every task and method.
        failures: task -> why it failed.
    """

    results: Results
    failures: dict[str, str] = field(default_factory=dict)


def load_tasks(names: Sequence[str]) -> dict[str, AbsTask]:
    """Tasks of mteb by name, `Name`, `Name:subset` or `Name:subset:split`.

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
            raise ValueError(
                f"task {entry!r} is unknown to mteb: {str(error.args[0]).removeprefix('KeyError: ')}"
            ) from error
        if (subset and subset not in task.hf_subsets) or (split and split not in task.eval_splits):
            raise ValueError(f"task {name} has the subsets {task.hf_subsets} and the splits {task.eval_splits}.")
        tasks[entry] = task
    return tasks


def evaluate_tasks(
    tasks: Mapping[str, AbsTask],
    methods: Sequence[Method],
    source: EmbeddingSource,
    output_dir: str | Path,
    *,
    model_name: str,
    revision: str,
    trained_on: set[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    details: dict[str, Any] | None = None,
) -> Benchmark:
    """Measure every method on every task; `results.json` and mteb's own files grow as it goes.

    A second call goes on at the task and method where the first one stopped: results of the same model, head and
    settings are taken from `output_dir/mteb`. Rows of other tasks, measured earlier with the same head, stay.

    Args:
        tasks: of `load_tasks`.
        methods: of `all_methods`; the first is the dense model.
        source: the backbone's embeddings.
        output_dir: gets `results.json`, `results.md` and `mteb/`.
        model_name: the head's, for mteb: `user/name`.
        revision: the head's commit, or its fingerprint.
        trained_on: tasks whose data the head was trained on, in mteb's names; None if unknown.
        say: told what happens.
        details: recorded with the results.

    Returns:
        Rows of each task's main score, and the tasks that failed.
    """
    output_dir = Path(output_dir)
    benchmark = Benchmark(_earlier(output_dir, tasks, details or {}))
    details = benchmark.results.details
    for name, task in tasks.items():
        is_seen = task.metadata.name in (trained_on or ())
        say(f"{name}: {task.metadata.type}, {task.metadata.main_score}{SEEN if is_seen else ''}")
        known = {"name": model_name, "revision": revision, "training_datasets": trained_on}
        try:
            rows, seconds = _evaluate_task(name, task, methods, source, output_dir / _MTEB, known)
        # Whatever a task raises, missing data or a defect of its own: the others go on, and the caller is told.
        except Exception as error:  # noqa: BLE001
            benchmark.failures[name] = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
            say(f"{name}: failed, {benchmark.failures[name]}")
            continue
        finally:
            source.forget()
        benchmark.results.rows += rows
        details["task_types"][name] = task.metadata.type
        details["seen"] = sorted({*details["seen"], name}) if is_seen else details["seen"]
        dataset = task.metadata.dataset
        # A part of a task, or one that was trained on, is no result to submit.
        if name == task.metadata.name and not is_seen:
            details["datasets"][name] = {"id": dataset["path"], "task_id": name, "revision": dataset["revision"]}
        if seconds:
            details["seconds"][name] = {key: round(value, 1) for key, value in seconds.items()}
        benchmark.results.save(output_dir)
    return benchmark


def _earlier(output_dir: Path, tasks: Mapping[str, AbsTask], details: dict[str, Any]) -> Results:
    """Results of other tasks that were measured with the same head before."""
    kept: dict[str, Any] = {"task_types": {}, "datasets": {}, "seconds": {}, "seen": []}
    rows: list[Row] = []
    if (output_dir / "results.json").is_file():
        earlier = Results.load(output_dir)
        if earlier.details.get("head") == details.get("head"):
            rows = [row for row in earlier.rows if row.task not in tasks]
            for name in ("task_types", "datasets", "seconds"):
                known = earlier.details.get(name, {})
                kept[name] = {task: value for task, value in known.items() if task not in tasks}
            kept["seen"] = [task for task in earlier.details.get("seen", []) if task not in tasks]
    return Results(rows, {**kept, **details})


def _main_score(scores: Mapping[str, Sequence[Mapping[str, Any]]], task: AbsTask) -> float:
    """Mean over the splits and subsets that were asked for; mteb's cache may hold more."""
    found = [
        entry["main_score"]
        for split in task.eval_splits
        for entry in scores.get(split, [])
        if entry["hf_subset"] in task.hf_subsets
    ]
    return float(sum(found) / len(found))


def _evaluate_task(
    name: str,
    task: AbsTask,
    methods: Sequence[Method],
    source: EmbeddingSource,
    cache_dir: Path,
    head: dict[str, Any],
) -> tuple[list[Row], dict[str, float]]:
    """Rows of one task, and the seconds that the dense model and all others took; none if some were there before."""
    import mteb
    from tqdm.auto import tqdm

    cache = mteb.ResultCache(cache_dir)
    rows: list[Row] = []
    seconds = {"dense": 0.0, "all others": 0.0}
    dense, resumed = 0.0, False
    try:
        wanted = [each for each in methods if task.metadata.type in _SEARCH_TYPES or not each.retrieval_only]
        for method in tqdm(wanted, desc=name, unit="method", disable=not source.progress):
            known = {**head, "adapted_from": source.backbone.name} if isinstance(method, CSRMethod) else {}
            encoder = MTEBEncoder(source, method, model_meta(source.backbone, method, **known))
            began = time.perf_counter()
            is_known = cache.load_task_result(task.metadata.name, encoder.mteb_model_meta) is not None
            resumed = resumed or is_known
            if not task.data_loaded and not is_known:
                task.load_data()
                _spare_lookups(task)
            found = mteb.evaluate(
                encoder,
                task,
                cache=cache,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": 1024, "show_progress_bar": False},
            )
            seconds["dense" if isinstance(method, DenseMethod) else "all others"] += time.perf_counter() - began
            score = _main_score(found.task_results[0].scores, task)
            dense = score if isinstance(method, DenseMethod) else dense
            retention = score / dense if dense else 0.0
            described = name, task.metadata.main_score, method.name, method.k, method.bytes_per_vector
            rows.append(Row(*described, score, retention))
    finally:
        if task.data_loaded:
            task.unload_data()
    return rows, {} if resumed else seconds


def _spare_lookups(task: AbsTask) -> None:
    """Keep a classification task from looking up its labels one by one for every method.

    mteb draws the same training rows for every model, and reads a lazy column of labels for each draw and each of nine
    scores: on ten thousand rows that takes longer than all classifiers together. What it computes stays the same.
    """
    draw: Callable[..., tuple] | None = getattr(task, "_undersample_data", None)
    calculate: Callable[..., Any] | None = getattr(task, "_calculate_scores", None)
    if draw is None or calculate is None:
        return
    drawn: dict[tuple, tuple[list[int], list[int]]] = {}

    def draw_once(dataset: Any, experiment_num: int, idxs: list[int] | None = None) -> tuple:
        key = dataset._fingerprint, experiment_num, None if idxs is None else tuple(idxs)
        if key not in drawn:
            _, shuffled, sampled = draw(dataset, experiment_num, idxs)
            drawn[key] = list(shuffled), list(sampled)
        shuffled, sampled = drawn[key]
        return dataset.select(sampled), list(shuffled), list(sampled)

    def calculate_from_list(labels: Any, *arguments: Any, **options: Any) -> Any:
        return calculate(labels[:], *arguments, **options)

    task._undersample_data = draw_once  # type: ignore[attr-defined]
    task._calculate_scores = calculate_from_list  # type: ignore[attr-defined]
