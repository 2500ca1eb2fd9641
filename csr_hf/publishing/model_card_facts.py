"""Facts for a model card, read from the files of a run: config, recipe, results and plots."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results, find_other_head
from csr_hf.explain.latents import Latents
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.foreign import inline, read_json, read_yaml
from csr_hf.plumbing.redaction import shareable
from csr_hf.repository import is_hub_id
from csr_hf.runs.folder import LATENTS, RunFolder

RESULTS = "results"
"""Folder of a published model that holds what its card quotes."""

_FIGURES, _RECIPE, _PLOT = "results.json", "recipe.yaml", "retention.png"
_MTEB_FIGURES, _MTEB_PLOT = "mteb.json", "mteb.png"
QUOTED_FILES = (_FIGURES, _RECIPE, _PLOT, _MTEB_FIGURES, _MTEB_PLOT)
"""Names of the files that `copy_run_files` writes into that folder."""


@dataclass(frozen=True)
class CardFacts:
    """What the files of a run say."""

    config: dict[str, Any]
    """The head's config.json."""
    recipe: dict[str, Any]
    """The resolved recipe, with `versions` and `results`; empty without one."""
    measured: list[Results]
    """Results on held-out rows and on MTEB, those that exist."""
    plots: list[str]
    """Names of plots in `results/`: MTEB first, then held-out rows."""
    latents: Latents | None = None
    """What is known of the head's latents."""

    @classmethod
    def read(cls, folder: Path) -> CardFacts:
        """Read what `copy_run_files` wrote, and config.json beside it."""
        from csr_hf.configuration_csr import CSRConfig

        files = folder / RESULTS
        config = CSRConfig.from_pretrained(folder).to_dict()
        recipe, latents = files / _RECIPE, folder / LATENTS
        return cls(
            config=config,
            recipe=inline(read_yaml(recipe)) if recipe.is_file() else {},
            measured=[_load_results(files / name) for name in (_FIGURES, _MTEB_FIGURES) if (files / name).is_file()],
            plots=[name for name in (_MTEB_PLOT, _PLOT) if (files / name).is_file()],
            latents=Latents.load(latents) if latents.is_file() else None,
        )

    @cached_property
    def results(self) -> Results | None:
        """The rows of all `measured` results; None without any."""
        datasets = {task: known for part in self.measured for task, known in part.details.get("datasets", {}).items()}
        rows = [row for part in self.measured for row in part.rows]
        types = {task: kind for part in self.measured for task, kind in part.details.get("task_types", {}).items()}
        return Results(rows, {"datasets": datasets, "task_types": types}) if rows else None

    @cached_property
    def base_model(self) -> str | None:
        """Hub id of the backbone; None if it is a local folder or unknown."""
        base = self.config["base_model_name_or_path"]
        return base if base and is_hub_id(base) else None


def copy_run_files(source: str | Path, folder: Path, head: str | None) -> list[str]:
    """Copy what a card quotes into `folder/results/`: results, plots and recipe, without secrets and local paths.

    Args:
        source: output folder of `csr-hf run`, or a folder that holds `results/` already. Files that it lacks are
            removed from `folder/results/`: they would be figures of another head.
        folder: the published model.
        head: fingerprint of the head. Results that do not name it are left out, with their plot; None, where there
            are no weights to tell it from, takes them as they are.

    Returns:
        A sentence for each results file that was left out.
    """
    import yaml

    sources = _list_sources(Path(source))
    paths = {name: next(filter(Path.is_file, candidates), None) for name, candidates in sources.items()}
    notes = []
    for figures, plot in ((_FIGURES, _PLOT), (_MTEB_FIGURES, _MTEB_PLOT)):
        path = paths[figures]
        other = find_other_head(path, head) if path is not None and head is not None else None
        if other is not None:
            notes.append(other)
            paths[figures] = paths[plot] = None
    for name, path in paths.items():
        if path is None:
            (folder / RESULTS / name).unlink(missing_ok=True)
            continue
        content = path.read_bytes()
        if name.endswith(".json"):
            content = (json.dumps(shareable(read_json(path)), indent=1) + "\n").encode()
        elif name == _RECIPE:
            content = yaml.safe_dump(shareable(read_yaml(path)), sort_keys=False).encode()
        with write_whole(folder / RESULTS / name) as temporary:
            temporary.write_bytes(content)
    return notes


def _load_results(path: Path) -> Results:
    """Load results that a stranger may have written: none of their texts steers the page that they stand on."""
    results = Results.load(path)
    texts = ("task", "metric", "method", "unit")
    rows = [replace(row, **{name: inline(getattr(row, name)) for name in texts}) for row in results.rows]
    return Results(rows, inline(results.details))


def _list_sources(source: Path) -> dict[str, list[Path]]:
    """List the paths that may hold each quoted file, in a run and in a published model, the first choice first."""
    run, published = RunFolder.of(source), source / RESULTS
    mteb = RunFolder.of(run.mteb)
    return {
        _FIGURES: [run.results, published / _FIGURES],
        # The one inside the folder of the head is that head's for certain.
        _RECIPE: [run.model_recipe, run.recipe, published / _RECIPE],
        _PLOT: [run.plot, published / _PLOT],
        _MTEB_FIGURES: [mteb.results, published / _MTEB_FIGURES],
        _MTEB_PLOT: [mteb.plot, published / _MTEB_PLOT],
    }
