"""The paper's figures on the user's data: score against k, hidden_dim and training time, dead latents against k."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from pathlib import Path
from typing import Any

from csr_hf.data.run_data import RunData
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.provenance import provenance
from csr_hf.runs import pipeline
from csr_hf.runs.arguments import SweepArguments
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import measure_held_out
from csr_hf.runs.recipe import RunRecipe
from csr_hf.training.arguments import CSRTrainingArguments

logger = logging.getLogger(__name__)

_SIZES = ("hidden_dim", "k", "max_steps")


def sweep(recipe: RunRecipe, arguments: SweepArguments, *, trust_remote_code: bool = False) -> Results:
    """Train and measure a head for every combination of settings, on one embedding of the data.

    A second call goes on where the first one stopped: a combination that was measured with the same recipe is not
    trained again.

    Args:
        recipe: everything but what is varied.
        arguments: what is varied.
        trust_remote_code: run code of the backbone's repository.

    Returns:
        Rows of every combination; `details["runs"]` has a line for each with its settings and training figures.
        `results.json`, `results.md` and `sweep.png` are in the recipe's output folder.

    Raises:
        ValueError: for sizes that do not fit, or when nothing is held out to measure on.
    """
    combinations = list(
        itertools.product(
            arguments.hidden_dim or [recipe.model.hidden_dim],
            arguments.k or [recipe.model.k],
            arguments.max_steps or [recipe.training.max_steps],
            list[str | None](arguments.preset) or [None],
            arguments.variant or [{}],
        )
    )
    varied = [_vary(recipe, *combination) for combination in combinations]
    labels = [_label(*combination[-2:]) for combination in combinations]
    data = pipeline.embed(recipe, trust_remote_code=trust_remote_code)
    for each in varied:
        pipeline.check_sizes(each, data)
    details: dict[str, Any] = {**provenance(), "runs": []}
    results = Results([], details)
    for number, (each, label) in enumerate(zip(varied, labels, strict=True), 1):
        logger.info("%d of %d: %s", number, len(varied), Path(each.output_dir).name)
        measured = _measure(each, label, data)
        # The dense model is the same in all of them.
        results.rows += [row for row in measured.rows if row.k is not None or not results.rows]
        details["runs"].append(measured.details["run"])
        results.save(recipe.output_dir)
    _plot(results, RunFolder.of(recipe.output_dir).sweep_plot)
    return results


def _label(preset: str | None, variant: dict[str, Any]) -> dict[str, Any]:
    """What a line of the results says beyond sizes and steps."""
    return {**({"preset": preset} if preset else {}), **variant}


def _vary(
    recipe: RunRecipe, hidden_dim: int | str, k: int, max_steps: int, preset: str | None, variant: dict[str, Any]
) -> RunRecipe:
    sizes = {"hidden_dim": hidden_dim, "k": k, "max_steps": max_steps}
    name = ",".join(f"{key}={value}" for key, value in {**sizes, **_label(preset, variant)}.items())
    name = re.sub(r"[^\w.=,-]", "_", name)
    training = dataclasses.replace(recipe.training, max_steps=max_steps)
    if preset:
        own = CSRTrainingArguments.from_preset(preset, seed=training.seed, save_steps=training.save_steps)
        examples = max_steps * training.per_device_train_batch_size
        training = dataclasses.replace(own, max_steps=max(1, examples // own.per_device_train_batch_size))
    varied = dataclasses.replace(
        recipe,
        output_dir=str(Path(recipe.output_dir) / name),
        cache_dir=str(recipe.embeddings_dir),
        model=dataclasses.replace(recipe.model, hidden_dim=hidden_dim, k=k),
        training=training,
        evaluation=dataclasses.replace(recipe.evaluation, ks=[k], baselines=[], rerank=[]),
    )
    return RunRecipe.from_dict(varied.to_dict(), variant)


def _measure(recipe: RunRecipe, label: dict[str, Any], data: RunData) -> Results:
    """Train and measure one combination, or read what an earlier call measured."""
    folder = RunFolder.of(recipe.output_dir)
    if _is_done(recipe, folder):
        return Results.load(folder.path)
    head = pipeline.train(recipe, data)
    results = measure_held_out(recipe, data, head)
    if results is None:
        raise ValueError("nothing is held out to measure on: raise `data.held_out`.")
    figures = RunRecipe.recorded(folder.recipe, "results")
    hidden_dim, k = head.config.hidden_dim, head.config.k
    varied: dict[str, Any] = {"hidden_dim": hidden_dim, "k": k, "max_steps": recipe.training.max_steps}
    varied |= label
    best = [row for row in results.rows if row.k == k and row.metric == results.rows[0].metric]
    results.details["run"] = varied | {
        "score": max(row.score for row in best),
        "metric": results.rows[0].metric,
        **{
            name: value
            for name, value in figures.items()
            if name in ("seconds", "explained_variance", "postings_per_document") or name.startswith("dead_fraction")
        },
    }
    results.rows = [_name(row, varied) if row.k is not None else row for row in results.rows]
    results.save(folder.path)
    return results


def _is_done(recipe: RunRecipe, folder: RunFolder) -> bool:
    """Return whether this very combination was measured to the end."""
    if not folder.results.is_file() or not folder.recipe.is_file():
        return False
    trained = RunRecipe.load(folder.recipe).to_dict()
    return "run" in Results.load(folder.path).details and trained == recipe.to_dict()


def _name(row: Row, varied: dict[str, Any]) -> Row:
    name = f"{row.method}, hidden_dim {varied['hidden_dim']}, {varied['max_steps']} steps"
    more = [f"{key.rpartition('.')[2]} {value}" for key, value in varied.items() if key not in _SIZES]
    return dataclasses.replace(row, method=", ".join([name, *more]))


def _plot(results: Results, path: Path) -> None:
    from csr_hf.evaluation.plots import plot_sweep

    try:
        plot_sweep(results, path)
    except ImportError as error:
        logger.info("plot: none, %s", error)
