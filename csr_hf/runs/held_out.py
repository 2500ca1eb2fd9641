"""What a run measures on the rows it held out: neighbors, answers to queries, captions, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.data.run_data import Embedded
from csr_hf.evaluation.results import Results, Row
from csr_hf.runs.recipe import RunRecipe, versions

if TYPE_CHECKING:
    from csr_hf.evaluation.methods import Method
    from csr_hf.modeling_csr import CSRModel

_PLOT = "retention.png"
_FEWEST = 20


def evaluate(
    recipe: RunRecipe, embedded: Embedded, head: CSRModel, *, say: Callable[[str], None], command: str = ""
) -> Results | None:
    """Measure the head on the held-out rows, write `results.json`, `results.md` and the plot.

    Pairs are measured by what their first half finds; single texts or images by the neighbors of every fifth among
    the rest; images with texts in both directions, if the head has both modalities. Labeled rows also by the label
    of their nearest neighbor among what was trained on, and by a classifier.

    Args:
        recipe: k and methods to measure, and where the results go.
        embedded: the run's data.
        head: what was trained.
        say: told what happens.
        command: the command line, recorded with the results.

    Returns:
        The results; None when too few rows are held out.
    """
    from csr_hf.evaluation.methods import all_methods

    across = bool(head.config.modalities) and embedded.has_captions
    arguments, centered = recipe.evaluation, embedded.centered(head)
    count = len(embedded.held_out_captions()[0] if across else embedded.held_out_documents)
    if count < _FEWEST:
        say(f"results    none: {count} rows are held out, too few to measure (`data.held_out`)")
        return None
    methods = all_methods(
        head,
        embedded.train if across else centered.train,
        ks=arguments.ks,
        baselines=arguments.baselines,
        rerank=arguments.two_stage,
        query_k_factor=arguments.query_k_factor,
        candidates=arguments.candidates,
    )
    rows = _across_modalities(methods, embedded) if across else _retrieval(methods, centered)
    # Of each task the first metric tells most, of recalls the last.
    metric = rows[-1 if across else 0].metric
    rows += _labeled(methods, head, embedded)
    found = versions()
    note = (
        f"queries keep {arguments.query_k_factor} x k latents; CSR: documents with least-squares values; "
        f"CSR, decoded: documents by matching pursuit, the dense query against the best {arguments.candidates} of "
        "them decoded; CSR + int8: the dense query against int8 copies of them; bytes are those stored for a document"
    )
    details = {"command": command, "machine": found.pop("machine"), "versions": found, "note": note}
    results = Results(rows, details)
    results.save(recipe.output_dir)
    _plot(results, Path(recipe.output_dir) / _PLOT, metric, say)
    return results


def _across_modalities(methods: Sequence[Method], embedded: Embedded) -> list[Row]:
    from csr_hf.evaluation.cross_modal import evaluate_cross_modal

    images, texts, captions = embedded.held_out_captions()
    task = f"{embedded.name}, {len(images):,} held-out images"
    return evaluate_cross_modal(methods, images, texts, captions, task=task)


def _retrieval(methods: Sequence[Method], embedded: Embedded) -> list[Row]:
    from csr_hf.evaluation.retrieval import evaluate_retrieval

    queries, documents = embedded.held_out_queries, embedded.held_out_documents
    if queries is not None:
        task = f"{embedded.name}, {len(queries):,} held-out pairs"
        return evaluate_retrieval(methods, queries, documents, task=task)
    asked = np.arange(len(documents)) % 5 == 0
    kinds = {source.data.modality(source.data.document_role) for source in embedded.sources}
    kind = f"{kinds.pop()}s" if len(kinds) == 1 else "rows"
    task = f"{embedded.name}, {asked.sum():,} held-out {kind} among {(~asked).sum():,}"
    return evaluate_retrieval(methods, documents[asked], documents[~asked], task=task, paired=False)


def _labeled(methods: Sequence[Method], head: CSRModel, embedded: Embedded) -> Iterator[Row]:
    from csr_hf.evaluation.labeled import evaluate_labeled

    for source in embedded.sources:
        labels, role, test = source.data.labels, source.data.document_role, source.data.held_out
        if labels is None:
            continue
        sides = [(source.embeddings(role, rows), labels[rows]) for rows in (~test, test)]
        modality = source.data.modality(role) if head.config.modalities else None
        yield from evaluate_labeled(methods, *sides, data=source.data.name, modality=modality)


def _plot(results: Results, path: Path, metric: str, say: Callable[[str], None]) -> None:
    from csr_hf.evaluation.plots import plot_retention

    try:
        plot_retention(results, path, metric)
    except ImportError as error:
        say(f"plot       none: {error}")
