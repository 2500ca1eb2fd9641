"""The second step of a run: train its head, or go on where an earlier call stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from csr_hf.data.checks import check_embeddings
from csr_hf.data.run_data import RunData
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.distributed import from_first_process, rank_and_world
from csr_hf.plumbing.launcher import launched_settings
from csr_hf.runs.first_head import first_head
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import FRESH_HEADS, RunRecipe
from csr_hf.runs.state import RunState, open_run

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.training.trainer import CSRTrainer
    from csr_hf.training.whitening import Whitening

logger = logging.getLogger(__name__)


def train(recipe: RunRecipe, data: RunData, *, overwrite: bool = False) -> CSRModel:
    """Train a head on everything that is not held out, and save it with the resolved recipe.

    A call with the same recipe and data goes on from the newest checkpoint, and ends with the same bits; a head that
    is trained to the end is loaded. With `training.eval_steps` it is evaluated meanwhile on what is held out.

    Args:
        recipe: the head's sizes, and how it is trained.
        data: of `embed`.
        overwrite: start over: remove what the output folder holds of a run, whatever it is.

    Raises:
        ValueError: for sizes that do not fit, embeddings that are not finite, too large or all equal, nothing to train
            on, or an output folder that holds another run or is in use.
        NonFiniteLossError: if the training diverges; the last good checkpoint is kept.
    """
    with open_training(recipe, data, overwrite=overwrite) as (_, head):
        return head


@contextmanager
def open_training(recipe: RunRecipe, data: RunData, *, overwrite: bool = False) -> Iterator[tuple[RunState, CSRModel]]:
    """Train a head as `train` does, and keep the output folder for further steps until the block ends.

    Args:
        recipe: as for `train`.
        data: as for `train`.
        overwrite: as for `train`.

    Yields:
        The state of the run, and the head.

    Raises:
        ValueError: as `train` does.
        NonFiniteLossError: as `train` does.
    """
    from csr_hf.training.trainer import CSRTrainer

    recipe = _follow_launcher(recipe)
    for doubt in check_embeddings(data, recipe.model.hidden_dim_for(data.dim)):
        logger.warning("%s", doubt)
    head = first_head(recipe, data)
    start = None if recipe.model.init in FRESH_HEADS else head.fingerprint
    whitening = _fit_whitening(recipe, data)
    sources = whitening.apply(data.sources) if whitening else data.sources
    held_out = [replace(source, held_out=~source.held_out) for source in sources]
    args = replace(recipe.training, output_dir=recipe.output_dir)
    # All that can be refused is refused before anything is written or removed.
    trainer = CSRTrainer(head, args, sources, held_out if args.eval_steps else None)
    new = RunState.of("a run", recipe, data, start)
    with open_run(new, overwrite=overwrite) as state:
        found = _find_trained(state, trainer)
        yield state, _train(trainer, recipe, data, whitening, state) if found is None else found


def _find_trained(state: RunState, trainer: CSRTrainer) -> CSRModel | None:
    """Load the head of a run that was trained to the end, where it was trained; None if there is none."""
    folder = RunFolder.of(state.path)
    if state.head is None or not from_first_process(folder.model_config.is_file):
        return None
    head = _load_own_head(state)
    head.to(trainer.accelerator.device)
    logger.info("training   done before: the head is in %s", folder.model)
    return head


def _load_own_head(state: RunState) -> CSRModel:
    """Load the head that a run has written, in float32.

    Raises:
        ValueError: if there is another one in its place.
    """
    from csr_hf.heads import load_head
    from csr_hf.repository import open_repository

    folder = RunFolder.of(state.path)
    head = load_head(open_repository(folder.model)).float().eval()
    if head.fingerprint != state.head:
        raise ValueError(
            f"{folder.model} is another head ({head.fingerprint}) than the one of this run ({state.head}): choose "
            "another --output-dir, or start over with --overwrite."
        )
    return head


def _fit_whitening(recipe: RunRecipe, data: RunData) -> Whitening | None:
    """Fit what embeddings are whitened by in training; None if they are not.

    Raises:
        ValueError: if the recipe asks for what would be done before the whitening is folded into the head.
    """
    from csr_hf.training.rows import TrainingRows
    from csr_hf.training.whitening import fit_whitening

    strength, training = recipe.model.whitening, recipe.training
    if strength is None:
        return None
    others = {
        "model.init": "" if recipe.model.init == "kaiming" else recipe.model.init,
        "training.refits": training.refits,
        "training.push_to_hub": training.push_to_hub,
        "data.columns": " and ".join(data.modalities or ()),
    }
    for key, value in others.items():
        if value:
            raise ValueError(
                f"`{key}` ({value}) does not go with `model.whitening` ({strength}), which makes a head of one "
                "modality, from random weights, that is finished when its training is over. Leave out one of them."
            )
    return fit_whitening(TrainingRows(data.sources), strength, training.seed)


def _train(
    trainer: CSRTrainer, recipe: RunRecipe, data: RunData, whitening: Whitening | None, state: RunState
) -> CSRModel:
    from csr_hf.training.head_metrics import describe_variance, measure_head, measure_held_out_variance
    from csr_hf.training.rows import TrainingRows

    head = trainer.model
    figures = trainer.train(resume_from_checkpoint=True)
    if whitening is not None:
        head = whitening.fold(head)
    if rank_and_world()[0] > 0:
        return head
    if whitening is not None:
        figures |= measure_head(head, TrainingRows(data.sources))
    config = head.config
    held_out = [replace(source, held_out=~source.held_out) for source in data.sources]
    figures |= measure_held_out_variance(head, held_out)
    save_model(head, recipe, {"results": {name: round(value, 6) for name, value in figures.items()}})
    state.mark_head(head.fingerprint)
    logger.info(
        "head       %d dimensions -> %d latents, k %d: explained variance %s, %s dead latents, %.0f s",
        config.input_dim,
        config.hidden_dim,
        config.k,
        describe_variance(figures),
        _describe_dead(figures),
        figures["seconds"],
    )
    logger.debug(
        "%.2f postings a document and query (even use: %.2f); the busiest latent is in %.0f%% of the codes",
        figures["postings_per_document"],
        figures["postings_per_document_if_even"],
        100 * figures["most_used_latent"],
    )
    return head


def save_model(head: CSRModel, recipe: RunRecipe, extra: dict[str, Any]) -> None:
    """Write the folder of the head whole or not at all, and the resolved recipe beside it and inside it."""
    folder = RunFolder.of(recipe.output_dir)
    with write_whole(folder.model, folder=True) as temporary:
        head.save_pretrained(temporary)
        recipe.save(temporary / folder.model_recipe.name, extra)
    recipe.save(folder.recipe, extra)


def _follow_launcher(recipe: RunRecipe) -> RunRecipe:
    """Write into the recipe what `accelerate launch` says where it says nothing: the resolved one is kept."""
    own = recipe.training
    launched = launched_settings(own.mixed_precision, own.gradient_accumulation_steps)
    return replace(recipe, training=replace(own, **launched))


def _describe_dead(figures: dict[str, float]) -> str:
    by_modality = {name: share for name, share in figures.items() if name.startswith("dead_fraction_")}
    if not by_modality:
        return f"{figures['dead_fraction']:.1%}"
    return " and ".join(f"{share:.1%} in {name.rpartition('_')[2]}s" for name, share in by_modality.items())
