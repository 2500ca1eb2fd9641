"""Measure a head on the rows that a run held out: neighbors, answers to queries, captions, labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.codes import head_fingerprint
from csr_hf.data.run_data import RunData
from csr_hf.data.sources import Source
from csr_hf.embedding.arguments import Similarity
from csr_hf.evaluation.plots import plot_if_possible, plot_retention
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.provenance import provenance
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.state import RunState

if TYPE_CHECKING:
    from csr_hf.evaluation.method import Method
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)
FEWEST = 20
"""Held-out rows that a measurement needs."""


def measure_held_out(recipe: RunRecipe, data: RunData, head: CSRModel) -> Results | None:
    """Measure the head on the held-out rows, and write `results.json`, `results.md` and the plot.

    Pairs are measured by what their first half finds; single texts or images by the neighbors of every fifth among
    the rest; images with texts in both directions, if the head has both modalities. Labeled rows also by the label
    of their nearest neighbor among what was trained on, and by a classifier.

    Args:
        recipe: k and methods to measure, and where the results go.
        data: of the run.
        head: what was trained.

    Returns:
        The results; None when too few rows are held out.
    """
    from csr_hf.evaluation.methods import all_methods, describe_methods

    across, arguments = bool(head.config.modalities) and data.has_captions, recipe.evaluation
    count = count_held_out(data, captions=across)
    if count < FEWEST:
        logger.info("results    none: %d rows are held out, too few to measure (`data.held_out`)", count)
        return None
    methods = all_methods(
        head,
        data.train_embeddings(None if across else head),
        ks=arguments.measured_ks,
        budgets=arguments.bytes,
        baselines=arguments.measured_baselines,
        similarity=similarity_of(recipe, data),
    )
    rows = _measure_across_modalities(methods, data) if across else _measure_retrieval(methods, head, data)
    # The plot shows a task's first metric; of recall at several ranks, the last.
    metric = rows[-1 if across else 0].metric
    rows += _measure_labels(methods, head, data)
    note = describe_methods(arguments.bytes)
    if recipe.training.load_best_model_at_end or recipe.training.early_stopping_patience:
        note += " The same held-out rows chose the step at which the training ended, so CSR looks a little too good."
    details: dict[str, Any] = {"note": note, "head": head_fingerprint(head), "similarity": methods[0].similarity}
    if arguments.bytes:
        details["budgets"] = arguments.bytes
    results = Results(rows, {**provenance(), **details})
    for task in dict.fromkeys(row.task for row in rows):
        for doubt in results.doubts(task):
            logger.warning("%s: %s", task, doubt)
    folder = RunFolder.of(recipe.output_dir)
    results.save(folder.path)
    plot_if_possible(plot_retention, results, folder.plot, metric)
    return results


def find_measured(state: RunState) -> Results | None:
    """Load the results of a run that an earlier call measured to the end; None if there are none."""
    folder = RunFolder.of(state.path)
    if "results" not in state.done or not folder.results.is_file():
        return None
    logger.info("results    measured before: they are in %s", folder.results)
    return Results.load(folder.results)


def count_held_out(data: RunData, *, captions: bool) -> int:
    """Count the held-out rows, embedded or not, that a head is measured on.

    Args:
        data: of the run.
        captions: whether images are measured by their texts, so that rows without both do not count.
    """
    return sum(int(source.held_out.sum()) for source in data.sources if not captions or source.query_role == "text")


def similarity_of(recipe: RunRecipe, data: RunData) -> Similarity:
    """Return what the embeddings of a run are compared by: what its backbone says.

    Where the data brings embeddings and no backbone is loaded, the recipe says it (`backbone.similarity`), else it is
    cosine.
    """
    if data.backbone is not None:
        return data.backbone.similarity_fn_name
    return recipe.backbone.similarity or "cosine"


def _measure_across_modalities(methods: Sequence[Method], data: RunData) -> list[Row]:
    from csr_hf.evaluation.cross_modal import evaluate_cross_modal

    images, texts, captions = data.held_out_captions()
    task = f"{data.name}, {len(images):,} held-out images"
    return evaluate_cross_modal(methods, images, texts, captions, task=task)


def _measure_retrieval(methods: Sequence[Method], head: CSRModel, data: RunData) -> list[Row]:
    from csr_hf.evaluation.retrieval import evaluate_retrieval

    queries, documents = data.held_out_queries(head), data.held_out_documents(head)
    if queries is not None:
        task = f"{data.name}, {len(queries):,} held-out pairs"
        return evaluate_retrieval(methods, queries, documents, task=task)
    is_query = np.arange(len(documents)) % 5 == 0
    roles = {source.document_role for source in data.sources}
    kinds = {role if role == "embedding" else Source.modality(role) for role in roles}
    kind = f"{kinds.pop()}s" if len(kinds) == 1 else "rows"
    task = f"{data.name}, {is_query.sum():,} held-out {kind} among {(~is_query).sum():,}"
    return evaluate_retrieval(methods, documents[is_query], documents[~is_query], task=task, paired=False)


def _measure_labels(methods: Sequence[Method], head: CSRModel, data: RunData) -> Iterator[Row]:
    from csr_hf.evaluation.labeled import evaluate_labeled

    for source in data.sources:
        if source.labels is None:
            continue
        role, test = source.document_role, source.held_out
        sides = [(source.vectors[role][rows], source.labels[rows]) for rows in (~test, test)]
        modality = source.modality(role) if head.config.modalities else None
        yield from evaluate_labeled(methods, *sides, data=source.name, modality=modality)
