"""A run from beginning to end: embed -> train -> evaluate -> index -> search. Each step stands alone too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.run_data import Embedded, EmbeddedSource
from csr_hf.data.sources import SourceData, load_data
from csr_hf.embedding.backbone import Backbone, load_backbone
from csr_hf.embedding.cache import EmbeddingCache, embed_dataset
from csr_hf.evaluation.results import Results
from csr_hf.plumbing.atomic import check_writable, written_whole
from csr_hf.plumbing.distributed import rank_and_world, wait_for_all
from csr_hf.runs import held_out
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search.index import InvertedIndex

if TYPE_CHECKING:
    from csr_hf.backends import Backend
    from csr_hf.modeling_csr import CSRModel

Say = Callable[[str], None]
"""Takes one line of news for the user."""

_NAMED = 5
_CHECKPOINTS, _LOG, _JOURNAL = "checkpoints", "training_log.jsonl", "upload.journal"
_MODEL, _INDEX, _DOCUMENTS, _RECIPE = "model", "index", "documents.parquet", "recipe.yaml"


def run(
    recipe: RunRecipe, *, say: Say, progress: bool = True, resume: bool = False, command: str = ""
) -> Results | None:
    """All steps of a recipe; everything lands in its `output_dir`.

    Several processes embed and train together; the first of them does the rest.

    Args:
        recipe: what to do.
        say: told what happens.
        progress: show bars.
        resume: go on from the newest checkpoint of the output folder.
        command: the command line, recorded with the results.

    Returns:
        The results; None when nothing was held out.

    Raises:
        ValueError: for whatever is wrong with the input, before anything is written.
    """
    embedded = embed(recipe, say=say, progress=progress)
    head = train(recipe, embedded, say=say, progress=progress, resume=resume)
    if rank_and_world()[0] > 0:
        return None
    results = held_out.evaluate(recipe, embedded, head, say=say, command=command)
    build_index(recipe, embedded, head, say=say)
    return results


def embed(recipe: RunRecipe, *, say: Say, progress: bool = True, backbone: Backbone | None = None) -> Embedded:
    """Load backbone and texts, and embed every role once.

    Args:
        recipe: what to embed.
        say: told what happens.
        progress: show bars.
        backbone: the recipe's, if it is loaded already.

    Raises:
        ValueError: for an unknown backbone, unreadable data, or a folder that cannot be written.
    """
    check_writable(recipe.output_dir)
    check_writable(recipe.embeddings_dir)
    arguments, sources = recipe.backbone, []
    data = load_data(recipe.data)
    if len({source.embeddings is None for source in data}) > 1 and any("image" in source.roles for source in data):
        raise ValueError(
            "`data.sources` has images beside precomputed embeddings, and nothing says whether those are of images or "
            "of texts. Train on one of both."
        )
    if backbone is None and any(source.embeddings is None for source in data):
        backbone = load_backbone(arguments.name_or_path, revision=arguments.revision, device=arguments.device)
    if backbone is not None:
        say(f"backbone   {backbone.name}, {backbone.dim} dimensions, from {backbone.source}")
        _config(recipe, backbone.dim, backbone)
    for source in data:
        apart = int(source.held_out.sum())
        say(f"data       {source.name}: {len(source):,} rows of {' + '.join(source.roles)}, {apart:,} held out")
        roles = source.roles if source.embeddings is None else ()
        if source.skipped:
            few = ", ".join(source.skipped[:_NAMED]) + (", ..." if len(source.skipped) > _NAMED else "")
            say(f"skipped    {len(source.skipped):,} images that cannot be opened: {few}")
        caches = {role: _embed_role(recipe, source, role, backbone, say, progress) for role in roles if backbone}
        sources.append(EmbeddedSource(source, caches))
    embedded = Embedded(backbone, sources)
    widths = {source.dim for source in sources}
    if len(widths) > 1:
        raise ValueError(f"the sources' embeddings differ in width: {sorted(widths)}. They must be of one backbone.")
    _config(recipe, embedded.dim, backbone)
    return embedded


def _embed_role(
    recipe: RunRecipe, source: SourceData, role: str, backbone: Backbone, say: Say, progress: bool
) -> EmbeddingCache:
    cache = embed_dataset(
        source.inputs(role),
        backbone,
        recipe.embeddings_dir,
        prompt_name=source.prompt_name(role),
        batch_size=recipe.backbone.batch_size,
        label=f"embedding {role}",
        progress=progress,
    )
    say(f"embeddings {role}: {len(cache):,} x {cache.dim} {'found in' if cache.reused else '->'} {cache.folder}")
    return cache


def train(recipe: RunRecipe, embedded: Embedded, *, say: Say, progress: bool = True, resume: bool = False) -> CSRModel:
    """Train a head on everything that is not held out, and save it with the resolved recipe.

    Raises:
        ValueError: for sizes that do not fit, embeddings that are not finite, or nothing to train on.
        NonFiniteLossError: if the training diverges; the last good checkpoint is kept.
    """
    from csr_hf.training.trainer import CSRTrainer

    folder, is_main = Path(recipe.output_dir), rank_and_world()[0] == 0
    head = _fresh_head(recipe, embedded)
    trainer = CSRTrainer(head, recipe.training, embedded.centered(head).training, folder)
    if not resume and is_main:
        shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
        (folder / _LOG).unlink(missing_ok=True)
    wait_for_all()
    figures = trainer.train(resume_from_checkpoint=resume, progress=progress)
    if not is_main:
        return head
    config = head.config
    save_model(head, recipe, folder, {"results": {name: round(value, 6) for name, value in figures.items()}})
    say(
        f"head       {config.input_dim} -> {config.hidden_dim}, k {config.k}: explained variance "
        f"{figures['explained_variance']:.3f}, dead {_dead(figures)}, "
        f"{figures['postings_per_document']:.2f} postings a document and query "
        f"(even use: {figures['postings_per_document_if_even']:.2f}; the busiest latent is in "
        f"{figures['most_used_latent']:.0%} of the codes), {figures['seconds']:.0f} s"
    )
    return head


def _dead(figures: dict[str, float]) -> str:
    by_modality = {name: share for name, share in figures.items() if name.startswith("dead_fraction_")}
    if not by_modality:
        return f"{figures['dead_fraction']:.1%}"
    return " and ".join(f"{share:.1%} in {name.rpartition('_')[2]}s" for name, share in by_modality.items())


def _fresh_head(recipe: RunRecipe, embedded: Embedded) -> CSRModel:
    """The head that training starts from: random, from the data, or one that was trained before."""
    import torch

    from csr_hf.heads import load_head
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.repository import open_repository
    from csr_hf.training.initialization import initialize_from_data

    config, init = _config(recipe, embedded.dim, embedded.backbone), recipe.model.init
    config.modalities = embedded.modalities
    torch.manual_seed(recipe.training.seed)
    if init in ("kaiming", "data"):
        head = CSRModel(config)
        if recipe.model.modality_bias:
            for number, modality in enumerate(config.modalities or ()):
                head.modality_bias[number] = torch.from_numpy(embedded.mean(modality))
        if init == "data":
            initialize_from_data(head, embedded.centered(head).training, recipe.training.seed)
        return head
    head = load_head(open_repository(init)).float()
    if head.config.input_dim != config.input_dim:
        raise ValueError(
            f"`model.init` {init} takes embeddings of width {head.config.input_dim}, these are {config.input_dim} "
            "wide. "
            "Start from a head of this backbone, or fresh (`kaiming`)."
        )
    for name in ("k", "k_aux", "dead_threshold", "base_model_name_or_path", "base_model_revision"):
        setattr(head.config, name, getattr(config, name))
    head.config.k_aux = min(head.config.k_aux, head.config.hidden_dim)
    head.stats_last_nonzero.zero_()
    if head.config.modalities:
        head.modality_last_nonzero.zero_()
    return head


def save_model(head: CSRModel, recipe: RunRecipe, folder: Path, extra: dict[str, Any]) -> None:
    """Write `model/` whole or not at all, and the resolved recipe beside it and inside it."""
    with written_whole(folder / _MODEL) as temporary:
        head.save_pretrained(temporary)
        recipe.save(temporary / _RECIPE, extra)
    recipe.save(folder / _RECIPE, extra)


def index(recipe: RunRecipe, *, say: Say, progress: bool = True, engine: Backend | None = None) -> None:
    """Index a corpus with a head that was trained before (`model.init`): no training, no evaluation.

    Args:
        recipe: the head, the corpus, and where everything goes.
        say: told what happens.
        progress: show bars.
        engine: a search engine to put the codes into, instead of an index in the output folder.

    Raises:
        ValueError: if `model.init` names no head, the engine has rules that the codes break, or as `embed` does.
        BackendError: if the engine refuses; the same call goes on where it stopped.
    """
    if recipe.model.init in ("kaiming", "data"):
        raise ValueError("`model.init` names no head to index with. Give one: --head runs/quickstart, or a Hub id.")
    if Path(recipe.model.init).resolve() in (
        Path(recipe.output_dir).resolve(),
        Path(recipe.output_dir).resolve() / _MODEL,
    ):
        raise ValueError(f"`output_dir` ({recipe.output_dir}) is where the head comes from. Choose another folder.")
    embedded = embed(recipe, say=say, progress=progress)
    head = _fresh_head(recipe, embedded).eval()
    save_model(head, recipe, Path(recipe.output_dir), {})
    if engine is None:
        build_index(recipe, embedded, head, say=say)
    else:
        _fill_engine(engine, recipe, embedded, head, say, progress)


def _fill_engine(
    engine: Backend, recipe: RunRecipe, embedded: Embedded, head: CSRModel, say: Say, progress: bool
) -> None:
    """Put the codes of every document into a search engine, named by their numbers; texts stay beside the head."""
    from csr_hf.backends import Schema, upload
    from csr_hf.codes import decoded_norms, encode_embeddings

    folder, arguments = Path(recipe.output_dir), recipe.index
    journal = folder / _JOURNAL
    k = arguments.k or head.config.k
    codes = encode_embeddings(head, embedded.centered(head).documents, k, refine=arguments.refine, dtype="float16")
    if not journal.exists():
        # Another corpus may have had more documents, which would stay.
        engine.create(Schema(codes.dim, codes.k, head=codes.head_fingerprint, decoded=True), replace=True)
    norms = decoded_norms(head, codes)
    upload(engine, codes, np.arange(len(codes)), decoded_norms=norms, journal=journal, show_progress_bar=progress)
    _save_texts(embedded, folder)
    say(f"engine     {engine.count():,} documents in {engine.name}, collection {engine.collection}")


def build_index(recipe: RunRecipe, embedded: Embedded, head: CSRModel, *, say: Say) -> InvertedIndex:
    """Index every document of the corpus, and keep the texts beside it."""
    from csr_hf.evaluation.retrieval import index_documents

    folder, arguments = Path(recipe.output_dir), recipe.index
    index = index_documents(
        head,
        embedded.centered(head).documents,
        arguments.k or head.config.k,
        refine=arguments.refine,
        copies=arguments.copies,
    )
    index.save(folder / _INDEX)
    _save_texts(embedded, folder)
    size = f"{index.bytes_per_vector:.0f} bytes each with postings and {' and '.join(index.copies) or 'no'} copies"
    say(f"index      {len(index):,} documents, {size}, in {folder / _INDEX}")
    return index


def _save_texts(embedded: Embedded, folder: Path) -> None:
    texts = embedded.texts()
    if texts is not None:
        with written_whole(folder / _DOCUMENTS) as temporary:
            texts.to_parquet(str(temporary))


def check_sizes(recipe: RunRecipe, embedded: Embedded) -> None:
    """Find out before any training whether the head's sizes fit.

    Raises:
        ValueError: if they do not.
    """
    _config(recipe, embedded.dim, embedded.backbone)


def _config(recipe: RunRecipe, dim: int, backbone: Backbone | None) -> Any:
    """The head's configuration; made early, so that sizes that do not fit stop the run before the embedding."""
    from csr_hf.configuration_csr import CSRConfig

    model = recipe.model
    return CSRConfig(
        input_dim=dim,
        hidden_dim=model.hidden_dim_for(dim),
        k=model.k,
        k_aux=model.k_aux,
        dead_threshold=model.dead_threshold,
        tied_decoder=model.tied_decoder,
        base_model_name_or_path=backbone.name if backbone else recipe.backbone.name_or_path,
        base_model_revision=backbone.revision if backbone else recipe.backbone.revision,
    )
