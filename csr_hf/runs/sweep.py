"""The paper's figures on the user's data: score against k, hidden_dim and training time, dead latents against k."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results, Row
from csr_hf.runs import held_out, pipeline
from csr_hf.runs.recipe import RunRecipe, versions
from csr_hf.training.arguments import CSRTrainingArguments

_SIZES = ("hidden_dim", "k", "max_steps")


def sweep(
    recipe: RunRecipe,
    *,
    hidden_dims: Sequence[int | str] = (),
    ks: Sequence[int] = (),
    max_steps: Sequence[int] = (),
    presets: Sequence[str] = (),
    variants: Sequence[dict[str, Any]] = (),
    say: Callable[[str], None],
    progress: bool = True,
    command: str = "",
) -> Results:
    """Train and measure a head for every combination of settings, on one embedding of the data.

    A second call goes on where the first one stopped: a combination that was measured with the same recipe is not
    trained again.

    Args:
        recipe: everything but what is varied.
        hidden_dims: numbers, or multiples of the embeddings' width such as "2x"; default the recipe's.
        ks: active latents to train at; default the recipe's.
        max_steps: lengths of the training; default the recipe's.
        presets: of `CSRTrainingArguments`, instead of the recipe's training. Each takes as many steps of its own batch
            size as give the recipe's number of examples.
        variants: keys of the recipe and their values ({"training.balance": 0.0}), one dictionary for each.
        say: told what happens.
        progress: show bars.
        command: the command line, recorded with the results.

    Returns:
        Rows of every combination; `details["runs"]` has a line for each with its settings and training figures.
        `results.json`, `results.md` and `sweep.png` are in the recipe's output folder.

    Raises:
        ValueError: for sizes that do not fit, or when nothing is held out to measure on.
    """
    combinations = list(
        itertools.product(
            hidden_dims or [recipe.model.hidden_dim],
            ks or [recipe.model.k],
            max_steps or [recipe.training.max_steps],
            list[str | None](presets) or [None],
            variants or [{}],
        )
    )
    varied = [_variation(recipe, *combination) for combination in combinations]
    labels = [_label(*combination[-2:]) for combination in combinations]
    embedded = pipeline.embed(recipe, say=say, progress=progress)
    for each in varied:
        pipeline.check_sizes(each, embedded)
    found = versions()
    details: dict[str, Any] = {"command": command, "machine": found.pop("machine"), "versions": found, "runs": []}
    results = Results([], details)
    for number, (each, label) in enumerate(zip(varied, labels, strict=True), 1):
        say(f"{number} of {len(varied)}: {Path(each.output_dir).name}")
        measured = _measure(each, label, embedded, say, progress)
        # The dense model is the same in all of them.
        results.rows += [row for row in measured.rows if row.k is not None or not results.rows]
        details["runs"].append(measured.details["run"])
        results.save(recipe.output_dir)
    _plot(results, Path(recipe.output_dir) / "sweep.png", say)
    return results


def _label(preset: str | None, variant: dict[str, Any]) -> dict[str, Any]:
    """What a line of the results says beyond sizes and steps."""
    return {**({"preset": preset} if preset else {}), **variant}


def _variation(
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
        evaluation=dataclasses.replace(recipe.evaluation, ks=[k], baselines=[], two_stage=[]),
    )
    return RunRecipe.from_dict(varied.to_dict(), variant)


def _measure(
    recipe: RunRecipe, label: dict[str, Any], embedded: pipeline.Embedded, say: Callable[[str], None], progress: bool
) -> Results:
    """Train and measure one combination, or read what an earlier call measured."""
    folder = Path(recipe.output_dir)
    if _is_done(recipe, folder):
        return Results.load(folder)
    head = pipeline.train(recipe, embedded, say=say, progress=progress)
    results = held_out.evaluate(recipe, embedded, head, say=say)
    if results is None:
        raise ValueError("nothing is held out to measure on: raise `data.held_out`.")
    figures = RunRecipe.recorded(folder / "recipe.yaml", "results")
    hidden_dim, k = head.config.hidden_dim, head.config.k
    settings: dict[str, Any] = {"hidden_dim": hidden_dim, "k": k, "max_steps": recipe.training.max_steps}
    settings |= label
    best = [row for row in results.rows if row.k == k and row.metric == results.rows[0].metric]
    results.details["run"] = settings | {
        "score": max(row.score for row in best),
        "metric": results.rows[0].metric,
        **{
            name: value
            for name, value in figures.items()
            if name in ("seconds", "explained_variance", "postings_per_document") or name.startswith("dead_fraction")
        },
    }
    results.rows = [_named(row, settings) if row.k is not None else row for row in results.rows]
    results.save(folder)
    return results


def _is_done(recipe: RunRecipe, folder: Path) -> bool:
    """Whether this very combination was measured to the end."""
    if not (folder / "results.json").is_file() or not (folder / "recipe.yaml").is_file():
        return False
    trained = RunRecipe.load(folder / "recipe.yaml").to_dict()
    return "run" in Results.load(folder).details and trained == recipe.to_dict()


def _named(row: Row, settings: dict[str, Any]) -> Row:
    name = f"{row.method}, hidden_dim {settings['hidden_dim']}, {settings['max_steps']} steps"
    more = [f"{key.rpartition('.')[2]} {value}" for key, value in settings.items() if key not in _SIZES]
    return dataclasses.replace(row, method=", ".join([name, *more]))


def _plot(results: Results, path: Path, say: Callable[[str], None]) -> None:
    from csr_hf.evaluation.plots import plot_sweep

    try:
        plot_sweep(results, path)
    except ImportError as error:
        say(f"plot: none, {error}")
