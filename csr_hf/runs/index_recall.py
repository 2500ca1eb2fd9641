"""Measure the index of a run over its whole corpus, by the search of `csr-hf search`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.run_data import RunData
from csr_hf.evaluation.intervals import resample_means
from csr_hf.evaluation.neighbors import neighbor_recall, top_neighbors
from csr_hf.evaluation.results import Results
from csr_hf.evaluation.similarity import rows_for
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import similarity_of
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)
_TOP_K = 10
_MOST_QUERIES = 1_000


def measure_index(
    recipe: RunRecipe, data: RunData, head: CSRModel, index: InvertedIndex, results: Results | None
) -> None:
    """Measure how many of the dense model's nearest documents the index of a run finds, and add it to its results.

    Held-out documents are the queries, each is left out of its own hits, and all documents are searched as
    `csr-hf search` does at its defaults. Of more than a thousand queries an even sample is taken.

    Args:
        recipe: settings of the search, and where the results are.
        data: of the run.
        head: what was trained.
        index: of all documents.
        results: on the held-out rows; `details["index"]` is set, and they are saved again. None, where too few rows
            are held out to measure, measures nothing.
    """
    if results is None:
        return
    documents = data.documents(head)
    asked = np.flatnonzero(np.concatenate([source.held_out for source in data.sources]))
    if len(documents) <= _TOP_K or not len(asked):
        return
    asked = asked[np.linspace(0, len(asked) - 1, min(len(asked), _MOST_QUERIES)).astype(np.int64)]
    queries, similarity = documents[asked].astype(np.float32), similarity_of(recipe, data)
    true = top_neighbors(rows_for(queries, similarity), rows_for(documents, similarity), _TOP_K + 1, similarity)
    found = index.search(queries, _TOP_K + 1, recipe.search.params).positions
    recall = neighbor_recall(_leave_out(found, asked), _leave_out(true, asked))
    (measured,) = resample_means([recall])
    figures: dict[str, Any] = {
        "metric": f"dense top {_TOP_K}",
        "score": measured.score,
        "interval": measured.interval(),
        "n_queries": measured.count,
        "n_documents": len(documents),
        "k": index.k,
        "size": describe_size(index),
    }
    results.details["index"] = figures
    results.save(RunFolder.of(recipe.output_dir).path)
    logger.info("recall     of the index: %.3f of the %s", measured.score, figures["metric"])


def describe_size(index: InvertedIndex) -> str:
    """Say how many bytes an index takes: those of each document, and those of tables that a few documents need too."""
    settings = index.settings
    parts = [f"{settings['row_bytes']} of them its code"]
    if settings["residual_bytes"]:
        parts.append(f"{settings['residual_bytes']} what the code leaves")
    parts += [f"{2 * settings['input_dim']} a {copy} copy" for copy in index.copies]
    return (
        f"{index.bytes_per_document:,.0f} bytes a document ({', '.join(parts)}), and {index.table_bytes:,} of tables"
    )


def _leave_out(positions: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Leave out the query itself of its hits, or else the last of them: one column less."""
    is_own = positions == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return positions[~is_own].reshape(len(positions), -1)
