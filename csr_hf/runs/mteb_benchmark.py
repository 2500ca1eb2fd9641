"""A run or a published head on MTEB tasks, beside every rival at equal bytes: `csr_hf.evaluate`, `csr-hf evaluate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.encoder import CSREncoder
from csr_hf.evaluation.leaderboard import published_meta, write_submission
from csr_hf.evaluation.methods import all_methods
from csr_hf.evaluation.mteb import EmbeddingSource
from csr_hf.evaluation.tasks import Benchmark, evaluate_tasks, load_tasks
from csr_hf.plumbing.atomic import check_writable
from csr_hf.plumbing.provenance import provenance
from csr_hf.repository import open_repository
from csr_hf.runs.arguments import MTEBArguments
from csr_hf.runs.recipe import EvaluationArguments, RunRecipe

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from csr_hf.embedding.backbone import Backbone

_TRAIN_ROWS = 100_000
logger = logging.getLogger(__name__)


def evaluate(
    source: str | Path,
    tasks: Sequence[str],
    *,
    ks: Sequence[int] = (4, 8, 16, 32, 64),
    baselines: Sequence[str] = ("truncate", "pca", "int8", "binary", "pq"),
    two_stage: Sequence[str] = ("int8",),
    query_k_factor: int | None = None,
    candidates: int | None = None,
    output_dir: str | Path | None = None,
    submit_dir: str | Path | None = None,
    trained_on: Sequence[str] | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    command: str = "",
) -> Benchmark:
    """Measure a head on MTEB tasks: the dense model, CSR at every k, and the baselines at the same bytes.

    The backbone embeds each text once, for all methods and for later calls. Baselines are fitted on the embeddings the
    head was trained on, never on a task; a head without its run has none, and PCA, PQ and int8 are left out.

    Args:
        source: output folder of `csr-hf run`, or folder or Hub id of a head.
        tasks: names of mteb, `Name`, `Name:subset` or `Name:subset:split`.
        ks: active latents of a document.
        baselines: truncate, pca, int8, binary, pq.
        two_stage: copies of the embeddings that rank what CSR finds: binary, int8, float16.
        query_k_factor: in a search, queries keep this many times k; default as the run was measured.
        candidates: documents that the first stage of a search hands to the second; default as the run was measured.
        output_dir: where results go; default `evaluation/` in the run, or `evaluation/<name>`.
        submit_dir: also lay out the results of a published head as the leaderboard wants them (`write_submission`).
        trained_on: tasks whose data the head was trained on, in mteb's names; they are marked wherever they are shown.
            A task whose data set is the source of the run counts without being named.
        batch_size: texts in one pass of the backbone.
        device: default the best at hand.
        progress: show bars.
        say: told what happens.
        command: the command line, recorded with the results.

    Returns:
        The results, and the tasks that failed; `results.json`, `results.md`, `retention.png` and mteb's own files are
        in the output folder, where the same call goes on after an interruption.

    Raises:
        ValueError: for an unknown task or baseline (the nearest name is given), a source that holds no head, or a
            folder that cannot be written.
        ImportError: if mteb or scikit-learn is missing, with the line to type.
    """
    loaded = load_tasks(tasks)
    folder, recipe = Path(source), None
    if (folder / "recipe.yaml").is_file() and (folder / "model").is_dir():
        recipe = RunRecipe.load(folder / "recipe.yaml")
    if output_dir is not None:
        output = Path(output_dir)
    elif recipe is not None:
        output = folder / "evaluation"
    else:
        output = Path("evaluation") / (folder.name if folder.exists() else folder)
    check_writable(output)
    commit = open_repository(source).commit
    encoder = CSREncoder.from_pretrained(source, revision=commit, device=device)
    if submit_dir is not None:
        # What cannot be submitted is said before hours of work.
        published_meta(str(source), encoder, encoder.head.config.k)
    train = _train_embeddings(recipe, encoder.backbone, say, progress) if recipe else None
    settings = _settings(recipe, query_k_factor=query_k_factor, candidates=candidates)
    began = time.perf_counter()
    methods = all_methods(
        encoder.head,
        train,
        ks=ks,
        baselines=baselines,
        two_stage=two_stage,
        query_k_factor=settings.query_k_factor,
        candidates=settings.candidates,
    )
    fit_seconds = round(time.perf_counter() - began, 1)
    cache_dir = recipe.embeddings_dir if recipe else output / "embeddings"
    embeddings = EmbeddingSource(encoder.backbone, cache_dir, batch_size=batch_size, progress=progress)
    contaminated = _trained_on(trained_on, recipe, loaded)
    benchmark = evaluate_tasks(
        loaded,
        methods,
        embeddings,
        output,
        model_name=_model_name(source, recipe),
        revision=commit or encoder.fingerprint,
        trained_on=contaminated,
        say=say,
        details={
            **provenance(),
            "note": _note(settings),
            "trained_on": sorted(contaminated) if contaminated is not None else None,
            "head": encoder.fingerprint,
            "fit_seconds": fit_seconds,
        },
    )
    if submit_dir is not None:
        done = {name: task for name, task in loaded.items() if name not in benchmark.failures}
        write_submission(
            submit_dir, str(source), encoder, embeddings, list(done.values()), ks, trained_on=contaminated, say=say
        )
    _plot(benchmark, output, say)
    return benchmark


def _train_embeddings(
    recipe: RunRecipe, backbone: Backbone, say: Callable[[str], None], progress: bool
) -> np.ndarray | None:
    """What the head was trained on; None, and a word about it, when the data is not here any more."""
    from csr_hf.runs import pipeline

    try:
        train = pipeline.embed(recipe, backbone=backbone).train_embeddings()
    except ValueError as error:
        say(f"baselines that are fitted are left out: the training data is not at hand ({error})")
        return None
    rows = np.random.default_rng(0).permutation(len(train))[:_TRAIN_ROWS]
    return train[np.sort(rows)].astype(np.float32)


def _settings(recipe: RunRecipe | None, **chosen: int | None) -> EvaluationArguments:
    """Those of the run, and what the caller chose instead."""
    settings = recipe.evaluation if recipe else EvaluationArguments()
    for name, value in chosen.items():
        if value is not None:
            if value < 1:
                raise ValueError(f"`{name}` ({value}) must be at least 1.")
            settings = replace(settings, **{name: value})  # type: ignore[arg-type]
    return settings


def _trained_on(named: Sequence[str] | None, recipe: RunRecipe | None, tasks: dict[str, AbsTask]) -> set[str] | None:
    """What the caller names, and every task whose data set the run was trained on; None if nobody says anything."""
    sources = {source.source for source in recipe.data.sources or [recipe.data]} if recipe else set()
    own = {task.metadata.name for task in tasks.values() if task.metadata.dataset["path"] in sources}
    return {*(named or ()), *own} if named is not None or own else None


def _model_name(source: str | Path, recipe: RunRecipe | None) -> str:
    name = str(source)
    if recipe is None and not Path(name).exists():
        return name
    return f"local/{Path(name).resolve().name}"


def _note(settings: EvaluationArguments) -> str:
    return (
        f"retrieval: of a dense query, the {settings.query_k_factor} x k largest projections on atoms; CSR: the part "
        "of the cosine with the decoded document that they make, documents with least-squares values; "
        f"CSR, decoded: documents by matching pursuit, the dense query against the best {settings.candidates} of them "
        f"decoded; CSR + a copy: the dense query against int8, binary or float16 copies of these. "
        "Other tasks: CSR: plain codes on both sides; CSR, decoded: decoded codes on both sides; baselines: both "
        "sides as stored. Bytes are those stored for a document. Baselines are fitted on the training embeddings."
    )


def _plot(benchmark: Benchmark, output: Path, say: Callable[[str], None]) -> None:
    from csr_hf.evaluation.plots import plot_task_types

    if not benchmark.results.rows:
        return
    try:
        plot_task_types(benchmark.results, output / "retention.png")
    except ImportError as error:
        say(f"plot: none, {error}")


def evaluate_mteb(source: str | Path, tasks: Sequence[str], arguments: MTEBArguments | None = None) -> Benchmark:
    """Measure a head on MTEB tasks."""
    import dataclasses

    given = dataclasses.asdict(arguments or MTEBArguments())
    given["two_stage"] = given.pop("rerank")
    return evaluate(source, tasks, **given, say=lambda line: logger.info(line))
