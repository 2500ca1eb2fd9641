"""The combinations of a sweep: a recipe for each, checked before any is trained."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from csr_hf.data.run_data import RunData
from csr_hf.runs.arguments import SweepArguments
from csr_hf.runs.first_head import check_sizes
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import FEWEST, count_held_out
from csr_hf.runs.recipe import FRESH_HEADS, RunRecipe
from csr_hf.training.arguments import CSRTrainingArguments

_LONGEST_NAME = 200


class Combination(NamedTuple):
    """A head of the sweep."""

    settings: dict[str, Any]
    """What it varies, by key; sizes, steps and preset first."""
    recipe: RunRecipe

    @property
    def name(self) -> str:
        """Name of its folder."""
        return Path(self.recipe.output_dir).name


def combine(recipe: RunRecipe, arguments: SweepArguments) -> list[Combination]:
    """Make a recipe for every combination of what a sweep varies.

    Raises:
        ValueError: for a wrong value, a combination that is there twice, or one whose folder would have too long a
            name.
    """
    varied = itertools.product(
        arguments.hidden_dim or [recipe.model.hidden_dim],
        arguments.k or [recipe.model.k],
        arguments.max_steps or [recipe.training.max_steps],
        list[str | None](arguments.preset) or [None],
        arguments.variant or [{}],
    )
    found = [_vary(recipe, *each) for each in varied]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the combination {name} is there {names.count(name)} times. Give each value once.")
    return found


def _vary(
    recipe: RunRecipe, hidden_dim: int | str, k: int, max_steps: int, preset: str | None, variant: dict[str, Any]
) -> Combination:
    chosen = {"hidden_dim": hidden_dim, "k": k, "max_steps": max_steps, **({"preset": preset} if preset else {})}
    training = dataclasses.replace(recipe.training, max_steps=max_steps)
    if preset:
        own = CSRTrainingArguments.from_preset(preset, seed=training.seed, save_steps=training.save_steps)
        examples = max_steps * training.per_device_train_batch_size
        training = dataclasses.replace(own, max_steps=max(1, examples // own.per_device_train_batch_size))
    varied = dataclasses.replace(
        recipe,
        output_dir=str(Path(recipe.output_dir) / _name_folder({**chosen, **variant})),
        cache_dir=str(recipe.embeddings_dir),
        model=dataclasses.replace(recipe.model, hidden_dim=hidden_dim, k=k),
        training=training,
        evaluation=dataclasses.replace(recipe.evaluation, ks=[k], bytes=[], baselines=[]),
    )
    return Combination({**chosen, **variant}, RunRecipe.from_dict(varied.to_dict(), variant))


def _name_folder(settings: dict[str, Any]) -> str:
    name = ",".join(f"{key}={value}" for key, value in settings.items())
    name = re.sub(r"[^\w.=,-]", "_", name)
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"the combination {name[:60]}... has a name of {len(name.encode())} bytes, too long for a folder. Vary "
            "fewer keys at a time, or put what stays the same into the recipe."
        )
    return name


def check_combinations(combinations: Sequence[Combination], data: RunData) -> None:
    """Check that every combination can be trained and measured on loaded data, and that no two are the same.

    Raises:
        ValueError: if not, naming the combination.
    """
    from csr_hf.training.batches import check_contrast

    count = count_held_out(data, captions=bool(data.modalities) and data.has_captions)
    if count < FEWEST:
        raise ValueError(
            f"{count} rows are held out, too few to measure on ({FEWEST} at least): raise `data.held_out`."
        )
    known: dict[str, str] = {}
    for each in combinations:
        try:
            check_sizes(each.recipe, data)
            check_contrast(each.recipe.training, data.sources)
        except ValueError as error:
            raise ValueError(f"combination {each.name}: {error}") from error
        model = dataclasses.replace(each.recipe.model, hidden_dim=each.recipe.model.hidden_dim_for(data.dim))
        alike = str(dataclasses.replace(each.recipe, output_dir="", model=model))
        if alike in known:
            raise ValueError(f"the combinations {known[alike]} and {each.name} are the same. Leave one out.")
        known[alike] = each.name
    started = [each for each in combinations if each.recipe.model.init not in FRESH_HEADS]
    if len({each.settings["hidden_dim"] for each in started}) > 1:
        raise ValueError(
            f"`hidden_dim` cannot vary where training starts from a head, which keeps its latents: `model.init` "
            f"{started[0].recipe.model.init}. Leave out one of both."
        )


def check_disk(combinations: Sequence[Combination], data: RunData) -> None:
    """Check that heads and checkpoints of all combinations fit on the disk.

    Raises:
        ValueError: if not, with both sizes.
    """
    needed = 0
    for each in combinations:
        model, training = each.recipe.model, each.recipe.training
        weights = 4 * data.dim * model.hidden_dim_for(data.dim) * (1 if model.tied_decoder else 2)
        # A checkpoint has the head and two moments of its weights; one more is there while the oldest is replaced.
        kept = training.save_total_limit + 1 if training.save_steps else 0
        needed += 0 if RunFolder.of(each.recipe.output_dir).results.is_file() else weights * (1 + 3 * kept)
    folder = Path(combinations[0].recipe.output_dir).parent.absolute()
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    if needed > free:
        raise ValueError(
            f"heads and checkpoints of {len(combinations)} combinations take about {needed / 1e9:.1f} GB, and "
            f"{folder} has {free / 1e9:.1f} GB left. Free some, vary less, or set training.save_steps to 0."
        )
