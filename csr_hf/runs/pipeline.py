"""A run from beginning to end: embed -> train -> measure -> index. Each step stands alone too."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.codes import decoded_norms, encode_embeddings
from csr_hf.data.checks import check_embeddings
from csr_hf.data.run_data import RunData
from csr_hf.data.sources import load_sources
from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.loading import load_backbone
from csr_hf.evaluation.results import Results
from csr_hf.plumbing.atomic import check_writable, write_whole
from csr_hf.plumbing.distributed import rank_and_world, wait_for_all
from csr_hf.plumbing.launcher import launched_settings
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import measure_held_out, similarity_of
from csr_hf.runs.index_recall import describe_size, measure_index
from csr_hf.runs.recipe import DEFAULT_BACKBONE, FRESH_HEADS, RunRecipe
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.backends import Backend
    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)


def run(recipe: RunRecipe, *, resume: bool = False, trust_remote_code: bool = False) -> Results | None:
    """Take all steps of a recipe; everything lands in its `output_dir`.

    Several processes embed and train together; the first of them does the rest.

    Args:
        recipe: what to do.
        resume: go on from the newest checkpoint of the output folder.
        trust_remote_code: run code of the backbone's repository. No recipe can turn this on, only the caller.

    Returns:
        The results; None when too few rows are held out to measure.

    Raises:
        ValueError: for whatever is wrong with the input, before anything is written.
    """
    data = embed(recipe, trust_remote_code=trust_remote_code)
    head = train(recipe, data, resume=resume)
    if rank_and_world()[0] > 0:
        return None
    results = measure_held_out(recipe, data, head)
    measure_index(recipe, data, head, build_index(recipe, data, head), results)
    return results


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
        recipe: what to embed.
        backbone: the recipe's, if it is loaded already.
        trust_remote_code: run code of the backbone's repository.

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


def train(recipe: RunRecipe, data: RunData, *, resume: bool = False) -> CSRModel:
    """Train a head on everything that is not held out, and save it with the resolved recipe.

    With `training.eval_steps` it is evaluated meanwhile on what is held out.

    Args:
        recipe: the head's sizes, and how it is trained.
        data: of `embed`.
        resume: go on from the newest checkpoint of the output folder.

    Raises:
        ValueError: for sizes that do not fit, embeddings that are not finite, too large or all equal, or nothing to
            train on.
        NonFiniteLossError: if the training diverges; the last good checkpoint is kept.
    """
    from csr_hf.training.head_metrics import describe_variance, measure_held_out_variance
    from csr_hf.training.trainer import CSRTrainer

    folder, is_main = RunFolder.of(recipe.output_dir), rank_and_world()[0] == 0
    recipe = _follow_launcher(recipe)
    for doubt in check_embeddings(data, recipe.model.hidden_dim_for(data.dim)):
        logger.warning("%s", doubt)
    head = first_head(recipe, data)
    held_out = [replace(source, held_out=~source.held_out) for source in data.sources]
    args = replace(recipe.training, output_dir=recipe.output_dir)
    trainer = CSRTrainer(head, args, data.sources, held_out if args.eval_steps else None)
    if not resume and is_main:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        folder.log.unlink(missing_ok=True)
    wait_for_all()
    figures = trainer.train(resume_from_checkpoint=resume)
    if not is_main:
        return head
    config = head.config
    figures |= measure_held_out_variance(head, held_out)
    save_model(head, recipe, {"results": {name: round(value, 6) for name, value in figures.items()}})
    logger.info(
        "head       %d -> %d, k %d: explained variance %s, dead %s, %.2f postings a document and query (even use: "
        "%.2f; the busiest latent is in %.0f%% of the codes), %.0f s",
        config.input_dim,
        config.hidden_dim,
        config.k,
        describe_variance(figures),
        _describe_dead(figures),
        figures["postings_per_document"],
        figures["postings_per_document_if_even"],
        100 * figures["most_used_latent"],
        figures["seconds"],
    )
    return head


def _follow_launcher(recipe: RunRecipe) -> RunRecipe:
    """Write into the recipe what `accelerate launch` says where it says nothing: the resolved one is kept."""
    own = recipe.training
    launched = launched_settings(own.mixed_precision, own.gradient_accumulation_steps)
    return replace(recipe, training=replace(own, **launched))


def first_head(recipe: RunRecipe, data: RunData) -> CSRModel:
    """Make the head that training starts from: random, from the data, or one that was trained before.

    Raises:
        ValueError: for sizes that do not fit, a head of another width, or one that cannot take the data.
    """
    import torch

    from csr_hf.codes import modality_means
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.training.initialization import initialize_from_data
    from csr_hf.training.rows import TrainingRows

    config, init = _head_config(recipe, data), recipe.model.init
    if init not in FRESH_HEADS:
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


def save_model(head: CSRModel, recipe: RunRecipe, extra: dict[str, Any]) -> None:
    """Write the folder of the head whole or not at all, and the resolved recipe beside it and inside it."""
    folder = RunFolder.of(recipe.output_dir)
    with write_whole(folder.model) as temporary:
        head.save_pretrained(temporary)
        recipe.save(temporary / folder.model_recipe.name, extra)
    recipe.save(folder.recipe, extra)


def index(recipe: RunRecipe, *, backend: Backend | None = None, trust_remote_code: bool = False) -> None:
    """Index a corpus with a head that was trained before (`model.init`): no training, no evaluation.

    Args:
        recipe: the head, the corpus, and where everything goes.
        backend: a search backend to put the codes into, instead of an index in the output folder.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ValueError: if `model.init` names no head, the backend has rules that the codes break, or as `embed` does.
        BackendError: if the backend refuses; the same call goes on where it stopped.
    """
    init, folder = recipe.model.init, RunFolder.of(recipe.output_dir)
    if init in FRESH_HEADS:
        raise ValueError("`model.init` names no head to index with. Give one: --head runs/quickstart, or a Hub id.")
    if Path(init).resolve() in (folder.path.resolve(), folder.model.resolve()):
        raise ValueError(f"`output_dir` ({recipe.output_dir}) is where the head comes from. Choose another folder.")
    data = load(recipe, trust_remote_code=trust_remote_code)
    embed_loaded(recipe, data)
    head = first_head(recipe, data).eval()
    save_model(head, recipe, {})
    if backend is None:
        build_index(recipe, data, head)
    else:
        _fill_backend(backend, recipe, data, head)


def build_index(recipe: RunRecipe, data: RunData, head: CSRModel) -> InvertedIndex:
    """Index every document of the corpus, and keep what a search shows of them."""
    folder, arguments, documents = RunFolder.of(recipe.output_dir), recipe.index, data.documents(head)
    k = arguments.k or head.config.k
    codes = encode_embeddings(head, documents, k, refine=arguments.refine, dtype="float16")
    by_dot = similarity_of(recipe, data) == "dot"
    built = InvertedIndex.build(
        codes,
        decoded_norms=None if by_dot else decoded_norms(head, codes),
        embeddings=documents,
        copies=arguments.copies,
        similarity="dot" if by_dot else "cosine",
    )
    built.save(folder.index)
    _save_documents(data, folder)
    logger.info("index      %s documents in %s: %s", f"{len(built):,}", folder.index, describe_size(built))
    return built


def _fill_backend(backend: Backend, recipe: RunRecipe, data: RunData, head: CSRModel) -> None:
    """Put the codes of every document into a search backend, named by their numbers; texts stay beside the head."""
    from csr_hf.backends import Schema, upload

    folder, arguments = RunFolder.of(recipe.output_dir), recipe.index
    k = arguments.k or head.config.k
    codes = encode_embeddings(head, data.documents(head), k, refine=arguments.refine, dtype="float16")
    if not folder.journal.exists():
        # Another corpus may have had more documents, which would stay.
        backend.create(Schema(dim=codes.dim, k=codes.k, head=codes.head_fingerprint, decoded=True), replace=True)
    # Weights that are divided by nothing give dot products.
    by_dot = similarity_of(recipe, data) == "dot"
    norms = np.ones(len(codes), np.float32) if by_dot else decoded_norms(head, codes)
    upload(backend, codes, np.arange(len(codes)), decoded_norms=norms, journal=folder.journal)
    _save_documents(data, folder)
    logger.info(
        "backend    %s documents in %s, collection %s", f"{backend.count():,}", backend.name, backend.collection
    )


def _save_documents(data: RunData, folder: RunFolder) -> None:
    documents = data.show_documents()
    if documents is not None:
        with write_whole(folder.documents) as temporary:
            documents.to_parquet(str(temporary))


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


def _describe_dead(figures: dict[str, float]) -> str:
    by_modality = {name: share for name, share in figures.items() if name.startswith("dead_fraction_")}
    if not by_modality:
        return f"{figures['dead_fraction']:.1%}"
    return " and ".join(f"{share:.1%} in {name.rpartition('_')[2]}s" for name, share in by_modality.items())
