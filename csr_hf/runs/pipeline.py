"""A run from beginning to end: embed -> train -> measure -> index. Each step has a module of its own."""

from __future__ import annotations

from csr_hf.embedding.backbone import Backbone
from csr_hf.evaluation.results import Results
from csr_hf.plumbing.distributed import from_first_process, rank_and_world
from csr_hf.runs.embedding import embed
from csr_hf.runs.held_out import find_measured, measure_held_out
from csr_hf.runs.index_recall import measure_index
from csr_hf.runs.indexing import build_index
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.state import check_recipe
from csr_hf.runs.training import open_training, train


def run(
    recipe: RunRecipe,
    *,
    backbone: Backbone | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Results | None:
    """Take all steps of a recipe; everything lands in its `output_dir`.

    A call with the same recipe and data goes on where an earlier one stopped, and ends with the same bits; what is
    done is not done again. Several processes embed and train together; the first of them does the rest.

    Args:
        recipe: what to do.
        backbone: the recipe's, if it is loaded already.
        overwrite: start over: remove what the output folder holds of a run, whatever it is.
        trust_remote_code: run code of the backbone's repository. No recipe can turn this on, only the caller.

    Returns:
        The results; None when too few rows are held out to measure.

    Raises:
        ValueError: for whatever is wrong with the input, or an output folder that holds another run or is in use,
            before anything is written.
    """
    from_first_process(lambda: check_recipe("a run", recipe, overwrite=overwrite))
    data = embed(recipe, backbone=backbone, trust_remote_code=trust_remote_code)
    with open_training(recipe, data, overwrite=overwrite) as (state, head):
        if rank_and_world()[0] > 0:
            return None
        results = find_measured(state)
        if results is None:
            results = measure_held_out(recipe, data, head)
            state.done.pop("recall", None)
            if results is not None:
                state.mark("results")
        built = build_index(recipe, data, head, state)
        if built is not None and "recall" not in state.done:
            measure_index(recipe, data, head, built, results)
            state.mark("recall")
    return results


def embed_and_train(recipe: RunRecipe, *, overwrite: bool = False, trust_remote_code: bool = False) -> None:
    """Take the first two steps of a recipe; a later `run` goes on from there.

    Args:
        recipe: as for `run`.
        overwrite: as for `run`.
        trust_remote_code: as for `run`.

    Raises:
        ValueError: as `run` does.
    """
    from_first_process(lambda: check_recipe("a run", recipe, overwrite=overwrite))
    train(recipe, embed(recipe, trust_remote_code=trust_remote_code), overwrite=overwrite)
