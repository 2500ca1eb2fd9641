"""The head that a recipe starts with: its sizes, fresh weights, or one that was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.data.run_data import RunData
from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import FRESH_HEADS, RunRecipe

if TYPE_CHECKING:
    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.modeling_csr import CSRModel


def first_head(recipe: RunRecipe, data: RunData) -> CSRModel:
    """Make the head that training starts from: random, from the data, or one that was trained before.

    Raises:
        ValueError: for sizes that do not fit, a head of another width, one that cannot take the data, or one that lies
            in the output folder.
    """
    import torch

    from csr_hf.codes import modality_means
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.training.initialization import initialize_from_data
    from csr_hf.training.rows import TrainingRows

    config, init = _head_config(recipe, data), recipe.model.init
    if init not in FRESH_HEADS:
        check_other_folder(recipe)
        head = _load_head(init, config)
        data.check_head(head)
        return head
    torch.manual_seed(recipe.training.seed)
    head = CSRModel(config)
    if recipe.model.modality_bias:
        for number, modality in enumerate(config.modalities or ()):
            head.modality_bias[number] = torch.from_numpy(data.modality_mean(modality))
    if init == "data":
        rows = TrainingRows(data.sources, modality_means=modality_means(head))
        initialize_from_data(head, rows, recipe.training.seed)
    return head


def check_sizes(recipe: RunRecipe, data: RunData) -> None:
    """Check that the sizes of a recipe's head fit each other and the data, before any time is spent on it.

    Raises:
        ValueError: for sizes that do not fit.
    """
    config, k = _head_config(recipe, data), recipe.index.k
    if k is not None and k > config.hidden_dim:
        raise ValueError(
            f"`index.k` ({k}) is above the number of latents, `hidden_dim` ({config.hidden_dim}). Lower it."
        )


def _head_config(recipe: RunRecipe, data: RunData) -> CSRConfig:
    """Make the configuration of the head that a recipe trains on this data, which checks its sizes."""
    from csr_hf.configuration_csr import CSRConfig

    model, backbone = recipe.model, data.backbone
    settings: BackboneSettings = backbone.settings if backbone else recipe.backbone
    return CSRConfig(
        input_dim=data.dim,
        hidden_dim=model.hidden_dim_for(data.dim),
        k=model.k,
        k_aux=model.k_aux,
        dead_threshold=model.dead_threshold,
        tied_decoder=model.tied_decoder,
        base_model_name_or_path=backbone.name if backbone else recipe.backbone.name_or_path,
        base_model_revision=backbone.revision if backbone else recipe.backbone.revision,
        base_model_settings=settings.to_record(),
        modalities=data.modalities,
    )


def _load_head(name: str, config: CSRConfig) -> CSRModel:
    """Load a head to train further, with the settings of this run where they are not sizes of its weights."""
    from csr_hf.heads import load_head
    from csr_hf.repository import open_repository

    head = load_head(open_repository(name)).float()
    if head.config.input_dim != config.input_dim:
        raise ValueError(
            f"`model.init` {name} takes embeddings of width {head.config.input_dim}, these are {config.input_dim} "
            "wide. Start from a head of this backbone, or fresh (`kaiming`)."
        )
    backbone_fields = ("base_model_name_or_path", "base_model_revision", "base_model_settings")
    for field in ("k", "dead_threshold", *backbone_fields):
        setattr(head.config, field, getattr(config, field))
    # The head may have fewer latents than a fresh one would.
    head.config.k_aux = min(config.k_aux, head.config.hidden_dim)
    head.stats_last_nonzero.zero_()
    if head.config.modalities:
        head.modality_last_nonzero.zero_()
    return head


def check_other_folder(recipe: RunRecipe) -> None:
    """Refuse to write over the head that is read: nothing could go on after an interruption.

    Raises:
        ValueError: if `model.init` is the output folder.
    """
    folder = RunFolder.of(recipe.output_dir)
    if Path(recipe.model.init).resolve() in (folder.path.resolve(), folder.model.resolve()):
        raise ValueError(f"`output_dir` ({recipe.output_dir}) is where the head comes from. Choose another folder.")
