"""The paper's figures on the user's data: score against k, hidden_dim and training time, dead latents against k."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from csr_hf.data.run_data import RunData
from csr_hf.evaluation.plots import plot_if_possible
from csr_hf.evaluation.results import Results, Row
from csr_hf.evaluation.sweep_plot import name_settings, plot_sweep, swept_settings
from csr_hf.plumbing.provenance import provenance
from csr_hf.runs.arguments import SweepArguments
from csr_hf.runs.combinations import Combination, check_combinations, check_disk, combine
from csr_hf.runs.embedding import embed_loaded, load
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import find_measured, measure_held_out
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.state import RunState, check_recipe, open_run
from csr_hf.runs.training import open_training

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
        overwrite: start over: remove what the output folder holds of a sweep or a run, whatever it is.
        trust_remote_code: run code of the backbone's repository.

    Returns:
        Rows of every combination; `details["runs"]` has a line for each with its settings, its head's fingerprint and
        training figures. `results.json`, `results.md` and `sweep.png` are in the recipe's output folder.

    Raises:
        ValueError: for a combination that cannot be trained (it is named), when too few rows are held out to measure
            on, or for an output folder that holds a run, a sweep of another recipe or other data, or is in use.
    """
    check_recipe("a sweep", recipe, overwrite=overwrite)
    combinations = combine(recipe, arguments)
    data = load(recipe, trust_remote_code=trust_remote_code)
    check_combinations(combinations, data)
    check_disk(combinations, data)
    embed_loaded(recipe, data)
    folder, measured = RunFolder.of(recipe.output_dir), dict[str, Results]()
    with open_run(RunState.of("a sweep", recipe, data, None), overwrite=overwrite):
        for number, each in enumerate(combinations, 1):
            logger.info("%d of %d: %s", number, len(combinations), each.name)
            measured[each.name] = _measure(each, data)
            results = _join(folder, measured)
            results.save(folder.path)
    plot_if_possible(plot_sweep, results, folder.sweep_plot)
    return results


def _measure(each: Combination, data: RunData) -> Results:
    """Train and measure one combination, or read what an earlier call measured."""
    folder = RunFolder.of(each.recipe.output_dir)
    with open_training(each.recipe, data) as (state, head):
        results = find_measured(state)
        if results is not None:
            return results
        results = measure_held_out(each.recipe, data, head)
        if results is None:
            raise ValueError("nothing is held out to measure on: raise `data.held_out`.")
        config, metric = head.config, results.rows[0].metric
        figures = RunRecipe.recorded(folder.recipe, "results")
        results.details["run"] = {
            **each.settings,
            **{"hidden_dim": config.hidden_dim, "k": config.k, "max_steps": each.recipe.training.max_steps},
            "folder": each.name,
            "head": head.fingerprint,
            "metric": metric,
            "scores": {row.method: row.score for row in results.rows if row.k == config.k and row.metric == metric},
            **{name: value for name, value in figures.items() if name in _FIGURES or name.startswith("dead_fraction")},
        }
        results.save(folder.path)
        state.mark("results")
    return results


def _join(folder: RunFolder, measured: dict[str, Results]) -> Results:
    """Put the rows of all combinations into one table, those of earlier calls with other values too."""
    others = [RunFolder.of(path) for path in folder.combinations if path.name not in measured]
    earlier = [Results.load(each.results) for each in others if each.results.is_file()]
    # One that was interrupted has results without its settings.
    joined = [*measured.values(), *(each for each in earlier if "run" in each.details)]
    runs = [each.details["run"] for each in joined]
    results = Results([], {**provenance(), "runs": runs})
    dense: set[tuple[str, str, str]] = set()
    for each, run in zip(joined, runs, strict=True):
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
