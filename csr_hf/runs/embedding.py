"""The first step of a run: load backbone and data, check that the recipe fits them, embed every role once."""

from __future__ import annotations

import logging

from csr_hf.data.run_data import RunData
from csr_hf.data.sources import load_sources
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.loading import load_backbone
from csr_hf.plumbing.atomic import check_writable
from csr_hf.runs.first_head import check_sizes
from csr_hf.runs.recipe import DEFAULT_BACKBONE, RunRecipe

logger = logging.getLogger(__name__)


def load(recipe: RunRecipe, *, backbone: Backbone | None = None, trust_remote_code: bool = False) -> RunData:
    """Load backbone and data, and check before any time is spent that the recipe fits them; nothing is embedded.

    Args:
        recipe: what to load.
        backbone: the recipe's, if it is loaded already.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ValueError: for an unknown backbone or one that its settings do not fit, unreadable data, sizes that do not
            fit, or a folder that cannot be written.
    """
    check_writable(recipe.output_dir)
    check_writable(recipe.embeddings_dir)
    arguments, sources = recipe.backbone, load_sources(recipe.data)
    if backbone is None and not all(source.vectors for source in sources):
        backbone = load_backbone(
            arguments.name_or_path or DEFAULT_BACKBONE,
            revision=arguments.revision,
            device=arguments.device,
            trust_remote_code=trust_remote_code,
            **arguments.keywords(),
        )
    data = RunData(backbone, sources)
    data.check()
    check_sizes(recipe, data)
    return data


def embed(recipe: RunRecipe, *, backbone: Backbone | None = None, trust_remote_code: bool = False) -> RunData:
    """Load backbone and data as `load` does, and embed every role once, to train on.

    Args:
        recipe: as for `load`.
        backbone: as for `load`.
        trust_remote_code: as for `load`.

    Raises:
        ValueError: as `load` does, or for a contrast that needs pairs or labels that the data does not have.
    """
    from csr_hf.training.batches import check_contrast

    data = load(recipe, backbone=backbone, trust_remote_code=trust_remote_code)
    check_contrast(recipe.training, data.sources)
    embed_loaded(recipe, data)
    return data


def embed_loaded(recipe: RunRecipe, data: RunData) -> None:
    """Embed every role of loaded data once, or find its embeddings in the cache."""
    if data.backbone is not None:
        backbone = data.backbone
        logger.info("backbone   %s, %d dimensions, from %s", backbone.name, backbone.dim, backbone.source)
    data.embed(recipe.embeddings_dir, recipe.backbone.batch_size)
