"""Fit a coder to what the head of a run was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_hf.runs.embedding import embed_loaded, load
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe

if TYPE_CHECKING:
    from csr_hf.coding.coder import Coder
    from csr_hf.coding.compact_coder import CompactCoder
    from csr_hf.data.run_data import RunData
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

_TRAIN_ROWS = 100_000


def fit_run_coder(run: str | Path, head: CSRModel, backbone: Backbone, budget: int) -> Coder | CompactCoder:
    """Fit a coder to the training embeddings of a run, as the tables of an evaluation do.

    Args:
        run: folder of the run, or of its head in it. What it was trained on is embedded again where it is not kept.
        head: of the run.
        backbone: of the head.
        budget: bytes of an embedding, at least 3.

    Raises:
        ValueError: if the folder is no run, the head is for several modalities, or its data cannot be read.
    """
    from csr_hf.coding.fitting import fit_coder

    folder = next((each for each in (RunFolder.of(run), RunFolder.of(Path(run).parent)) if each.is_run), None)
    if folder is None:
        raise ValueError(
            f"{run} is no run, so that a coder cannot be fitted to what its head was trained on. Use the folder of "
            "`csr-hf run`, or `csr_hf.fit_coder` with embeddings of your own."
        )
    if head.config.modalities:
        raise ValueError(
            f"{run} has a head for several modalities. Use `csr_hf.fit_coder` with embeddings less their means."
        )
    recipe = RunRecipe.load(folder.recipe)
    data = load(recipe, backbone=backbone)
    return fit_coder(head, sample_train(recipe, data), budget)


def sample_train(recipe: RunRecipe, data: RunData) -> np.ndarray:
    """Embed what a run was trained on, where that is missing, and take an even sample of 100,000 rows, float32."""
    embed_loaded(recipe, data)
    train = data.train_embeddings()
    rows = np.random.default_rng(0).permutation(len(train))[:_TRAIN_ROWS]
    sample: np.ndarray = train[np.sort(rows)].astype(np.float32)
    return sample
