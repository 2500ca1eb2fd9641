"""The paper's figures on the user's data: score against k, hidden_dim and training time, dead latents against k."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from csr_hf.codes import head_fingerprint
from csr_hf.data.run_data import RunData
from csr_hf.evaluation.results import Results, Row
from csr_hf.evaluation.sweep_plot import name_settings, swept_settings
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import provenance
from csr_hf.runs import pipeline
from csr_hf.runs.arguments import SweepArguments
from csr_hf.runs.combinations import Combination, check_combinations, check_disk, combine
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import measure_held_out
from csr_hf.runs.recipe import RunRecipe

logger = logging.getLogger(__name__)

_FIGURES = ("seconds", "explained_variance", "held_out_explained_variance", "postings_per_document")


def sweep(
    recipe: RunRecipe, arguments: SweepArguments, *, overwrite: bool = False, trust_remote_code: bool = False
) -> Results:
    """Train and measure a head for every combination of settings, on one embedding of the data.

    All combinations are checked before anything is embedded. A second call goes on where the first one stopped, and
    adds to it: what was measured with the same recipe and data is not trained again.

    Args:
        recipe: everything but what is varied.
        arguments: what is varied.
        overwrite: start over, and remove the heads and results of an earlier sweep in the output folder.
        trust_remote_code: run code of the backbone's repository.

    Returns:
        Rows of every combination; `details["runs"]` has a line for each with its settings, its head's fingerprint and
        training figures. `results.json`, `results.md` and `sweep.png` are in the recipe's output folder.

    Raises:
        ValueError: for a combination that cannot be trained (it is named), when too few rows are held out to measure
            on, or for an output folder that holds a run, or a sweep of another recipe or other data.
    """
    folder = RunFolder.of(recipe.output_dir)
    if folder.is_run:
        raise ValueError(f"{folder.path} holds a run, whose results a sweep would replace. Choose another output_dir.")
    combinations = combine(recipe, arguments)
    data = pipeline.load(recipe, trust_remote_code=trust_remote_code)
    check_combinations(combinations, data)
    check_disk(combinations, data)
    if not overwrite:
        _check_record(folder, {"recipe": _shared_settings(recipe)})
    pipeline.embed_loaded(recipe, data)
    fingerprint = data.fingerprint()
    record = {"recipe": _shared_settings(recipe), "data": fingerprint}
    if overwrite:
        _remove_earlier(folder, combinations)
    _check_record(folder, record)
    with write_whole(folder.sweep_record) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    measured: dict[str, Results] = {}
    for number, each in enumerate(combinations, 1):
        measured[each.name] = _measure(each, data, fingerprint, f"{number} of {len(combinations)}")
        results = _join(folder, measured)
        results.save(folder.path)
    _plot(results, folder.sweep_plot)
    return results


def _shared_settings(recipe: RunRecipe) -> dict[str, Any]:
    """Return what combinations of one sweep have in common."""
    shared = dataclasses.replace(
        recipe,
        output_dir="",
        cache_dir=None,
        model=dataclasses.replace(recipe.model, hidden_dim=0, k=0),
        training=dataclasses.replace(recipe.training, max_steps=1),
    )
    # As JSON gives it back.
    return dict(json.loads(json.dumps(shared.to_dict())))


def _check_record(folder: RunFolder, record: dict[str, Any]) -> None:
    """Check that a sweep in the folder had the same recipe, and, once it is known, the same data.

    Raises:
        ValueError: if not, naming what differs.
    """
    if not folder.sweep_record.is_file():
        return
    earlier = json.loads(folder.sweep_record.read_text(encoding="utf-8"))
    differing = list(_find_differences(earlier.get("recipe", {}), record["recipe"]))
    if "data" in record and record["data"] != earlier.get("data"):
        differing.append("the data has changed")
    if differing:
        raise ValueError(
            f"{folder.path} holds a sweep of another recipe or other data: {'; '.join(differing)}. Choose another "
            "--output-dir, or start over with --overwrite."
        )


def _find_differences(earlier: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in [*earlier, *(name for name in now if name not in earlier)]:
            yield from _find_differences(earlier.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif earlier != now:
        yield f"{key} was {earlier}, is {now}"


def _remove_earlier(folder: RunFolder, combinations: Sequence[Combination]) -> None:
    """Remove what an earlier sweep wrote: its results first, so that none is ever beside another head."""
    names = [each.name for each in combinations]
    if folder.results.is_file():
        names += [run["folder"] for run in Results.load(folder.path).details.get("runs", ()) if "folder" in run]
    for file in (folder.results, folder.results.with_suffix(".md"), folder.sweep_plot, folder.sweep_record):
        file.unlink(missing_ok=True)
    for name in dict.fromkeys(names):
        # The record of a stranger may name any folder.
        if Path(name).name == name and RunFolder.of(folder.path / name).recipe.is_file():
            shutil.rmtree(folder.path / name)


def _measure(each: Combination, data: RunData, data_fingerprint: str, progress: str) -> Results:
    """Train and measure one combination, or read what an earlier call measured."""
    folder = RunFolder.of(each.recipe.output_dir)
    if _is_done(each.recipe, folder, data_fingerprint):
        logger.info("%s: %s, found in %s", progress, each.name, folder.path)
        return Results.load(folder.path)
    logger.info("%s: %s", progress, each.name)
    for file in (folder.results, folder.results.with_suffix(".md"), folder.plot):
        file.unlink(missing_ok=True)
    head = pipeline.train(each.recipe, data)
    results = measure_held_out(each.recipe, data, head)
    if results is None:
        raise ValueError("nothing is held out to measure on: raise `data.held_out`.")
    figures = RunRecipe.recorded(folder.recipe, "results")
    config, metric = head.config, results.rows[0].metric
    sizes = {"hidden_dim": config.hidden_dim, "k": config.k, "max_steps": each.recipe.training.max_steps}
    results.details |= {"data": data_fingerprint}
    results.details["run"] = {
        **each.settings,
        **sizes,
        "folder": each.name,
        "head": head_fingerprint(head),
        "metric": metric,
        "scores": {row.method: row.score for row in results.rows if row.k == config.k and row.metric == metric},
        **{name: value for name, value in figures.items() if name in _FIGURES or name.startswith("dead_fraction")},
    }
    results.save(folder.path)
    return results


def _is_done(recipe: RunRecipe, folder: RunFolder, data_fingerprint: str) -> bool:
    """Return whether this very combination was measured to the end, and its head is still there."""
    from csr_hf.heads import load_head
    from csr_hf.repository import open_repository

    if not folder.results.is_file() or not folder.is_run:
        return False
    details = Results.load(folder.path).details
    if "run" not in details or details.get("data") != data_fingerprint:
        return False
    if RunRecipe.load(folder.recipe).to_dict() != recipe.to_dict():
        return False
    return head_fingerprint(load_head(open_repository(folder.path))) == details["run"]["head"]


def _join(folder: RunFolder, measured: dict[str, Results]) -> Results:
    """Put the rows of all combinations into one table, those of earlier calls with other values too."""
    known = dict(measured)
    if folder.results.is_file():
        for run in Results.load(folder.path).details.get("runs", ()):
            earlier = RunFolder.of(folder.path / run["folder"])
            if run["folder"] not in known and earlier.results.is_file():
                known[run["folder"]] = Results.load(earlier.path)
    runs = [each.details["run"] for each in known.values()]
    results = Results([], {**provenance(), "runs": runs})
    dense: set[tuple[str, str, str]] = set()
    for each, run in zip(known.values(), runs, strict=True):
        for row in each.rows:
            if row.k is not None:
                results.rows.append(_name(row, run))
            # Methods without codes are the same in all of them.
            elif (key := (row.task, row.metric, row.method)) not in dense:
                dense.add(key)
                results.rows.append(row)
    return results


def _name(row: Row, run: dict[str, Any]) -> Row:
    return dataclasses.replace(row, method=f"{row.method}, {name_settings(swept_settings(run))}")


def _plot(results: Results, path: Path) -> None:
    from csr_hf.evaluation.sweep_plot import plot_sweep

    try:
        plot_sweep(results, path)
    except ImportError as error:
        logger.info("plot: none, %s", error)
