"""Measure a run or a published head on MTEB tasks, beside baselines at equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from csr_hf.codes import head_fingerprint
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.leaderboard import published_meta, write_submission
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.methods import all_methods, describe_methods
from csr_hf.evaluation.names import FITTED, Baseline
from csr_hf.evaluation.plots import plot_if_possible, plot_task_types
from csr_hf.evaluation.tasks import Benchmark, HeadMeta, check_earlier, evaluate_tasks, load_tasks, remove_earlier
from csr_hf.heads import load_head
from csr_hf.plumbing.atomic import check_writable
from csr_hf.plumbing.provenance import forget_flag, provenance
from csr_hf.repository import open_repository
from csr_hf.runs.arguments import MTEBArguments
from csr_hf.runs.coders import sample_train
from csr_hf.runs.embedding import load
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)
_BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def evaluate_mteb(source: str | Path, tasks: Sequence[str], arguments: MTEBArguments | None = None) -> Benchmark:
    """Measure a head on MTEB tasks: the dense model, CSR at every k, and the baselines at the same bytes.

    The backbone embeds each text once, for all methods and for later calls. Baselines are fitted on the embeddings
    that the head was trained on, never on a task; a head without its run has none, so those that need a fit are left
    out.

    Args:
        source: output folder of `csr-hf run`, or folder or Hub id of a head.
        tasks: names of mteb, `Name`, `Name:subset` or `Name:subset:split`.
        arguments: what to measure, and where results go.

    Returns:
        The results, and the tasks that failed. `results.json`, `results.md`, `retention.png` and mteb's own files are
        in the output folder, where the same call goes on after an interruption.

    Raises:
        ValueError: for an unknown task (the nearest name is given), a source that holds no head, or an output folder
            that cannot be written, or holds results of another head or other settings.
        ImportError: if mteb is missing, with the line to type.
    """
    arguments = arguments or MTEBArguments()
    loaded = load_tasks(tasks)
    recipe = _load_recipe(source)
    output = RunFolder.of(arguments.output_dir or _default_output(source, recipe))
    check_writable(output.path)
    model = _load_model(source, recipe, arguments)
    if arguments.submit_dir is not None:
        # Fails before hours of work if the head cannot be submitted.
        published_meta(str(source), model.backbone, model.head, model.head.config.k)
    trained_on = _find_trained_on(arguments.trained_on, recipe, loaded)
    details: dict[str, Any] = {
        **provenance(),
        "note": describe_methods(arguments.bytes),
        **({"budgets": arguments.bytes} if arguments.bytes else {}),
        "trained_on": sorted(trained_on) if trained_on is not None else None,
        "head": head_fingerprint(model.head),
        "backbone": model.backbone.fingerprint,
        "similarity": model.backbone.similarity_fn_name,
        "instruction_template": arguments.instruction_template,
    }
    if arguments.overwrite:
        remove_earlier(output.path)
        output.plot.unlink(missing_ok=True)
        # Interrupted from here on, the command must not start over once more.
        forget_flag("--overwrite")
    check_earlier(output.path, details)
    methods = _make_methods(model, recipe, arguments)
    cache_dir = recipe.embeddings_dir if recipe else output.path / "embeddings"
    template = arguments.instruction_template
    cached = CachedBackbone(model.backbone, cache_dir, batch_size=arguments.batch_size, instruction_template=template)
    meta = HeadMeta(model.name, model.revision, trained_on)
    benchmark = evaluate_tasks(loaded, methods, cached, output.path, meta, details)
    if arguments.submit_dir is not None:
        done = [task for name, task in loaded.items() if name not in benchmark.failures]
        ks = arguments.measured_ks or [model.head.config.k]
        write_submission(arguments.submit_dir, str(source), cached, model.head, done, ks, trained_on=trained_on)
    if benchmark.results.rows:
        plot_if_possible(plot_task_types, benchmark.results, output.plot)
    return benchmark


@dataclass(frozen=True)
class _Model:
    """What is measured."""

    name: str
    """Hub id, or `local/<folder>`."""
    revision: str
    """Commit on the Hub, or fingerprint of the head."""
    backbone: Backbone
    head: CSRModel


def _load_recipe(source: str | Path) -> RunRecipe | None:
    """Load the recipe of a run; None for a head without its run."""
    folder = RunFolder.of(source)
    return RunRecipe.load(folder.recipe) if folder.is_run else None


def _default_output(source: str | Path, recipe: RunRecipe | None) -> Path:
    folder = Path(source)
    if recipe is not None:
        return RunFolder.of(folder).mteb
    return Path("evaluation") / (folder.name if folder.exists() else folder)


def _load_model(source: str | Path, recipe: RunRecipe | None, arguments: MTEBArguments) -> _Model:
    """Load head and backbone, both of one commit, and name them as mteb's result files do."""
    repository = open_repository(source)
    head = load_head(repository)
    backbone = load_backbone_of(
        repository, head, device=arguments.device, trust_remote_code=arguments.trust_remote_code
    )
    head = head.to(backbone.model.device).eval()  # type: ignore[arg-type]
    is_local = recipe is not None or Path(source).exists()
    name = f"local/{Path(source).resolve().name}" if is_local else str(source)
    return _Model(name, repository.commit or head_fingerprint(head), backbone, head)


def _make_methods(model: _Model, recipe: RunRecipe | None, arguments: MTEBArguments) -> list[Method]:
    """Make the methods to compare, baselines fitted."""
    return all_methods(
        model.head,
        _embed_train(recipe, model.backbone, arguments.baselines, with_coders=bool(arguments.bytes)),
        ks=arguments.measured_ks,
        budgets=arguments.bytes,
        baselines=_BASELINES if arguments.baselines is None else arguments.baselines,
        similarity=model.backbone.similarity_fn_name,
    )


def _embed_train(
    recipe: RunRecipe | None, backbone: Backbone, asked: Sequence[Baseline] | None, *, with_coders: bool
) -> np.ndarray | None:
    """Find the embeddings that the head was trained on, or make them again where a baseline was asked for by name.

    Args:
        recipe: of the run; None for a head without one.
        backbone: of the head.
        asked: baselines that the caller names; None for the default ones.
        with_coders: whether packed codes are measured too, which take their settings and residuals from them.

    Returns:
        An even sample, float32, shape (n, input_dim); None, with a line that says why, if baselines cannot be fitted.
    """
    fitted = [name for name in (_BASELINES if asked is None else asked) if name in FITTED]
    wanted = [*fitted, *(["CSR + residual"] if with_coders else [])]
    if not wanted:
        return None
    left_out = f"baselines  {', '.join(wanted)} are left out: they are fitted on what the head was trained on, and "
    if recipe is None:
        logger.info("%sa head without its run does not have it", left_out)
        return None
    try:
        data = load(recipe, backbone=backbone)
    except ValueError as error:
        logger.warning("%sit cannot be read (%s)", left_out, error)
        return None
    if not data.is_embedded(recipe.embeddings_dir):
        if asked is None or not fitted:
            again = "`--baselines` names them to embed it again"
            logger.info("%sits embeddings are no longer in %s; %s", left_out, recipe.embeddings_dir, again)
            return None
        logger.info("baselines  %s need what the head was trained on, which is embedded again", ", ".join(wanted))
    return sample_train(recipe, data)


def _find_trained_on(
    named: Sequence[str] | None, recipe: RunRecipe | None, tasks: Mapping[str, AbsTask]
) -> set[str] | None:
    """Collect the tasks that the caller names, and those whose data set is a source of the run; None if unknown."""
    sources = {source.source for source in recipe.data.sources or [recipe.data]} if recipe else set()
    known = {task.metadata.name for task in tasks.values() if task.metadata.dataset["path"] in sources}
    return {*(named or ()), *known} if named is not None or known else None
