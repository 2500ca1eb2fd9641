"""The last step of a run: index every document, or put the codes into a search backend."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np

from csr_hf.codes import decoded_norms, encode_embeddings
from csr_hf.coding.fitting import fit_index_coder
from csr_hf.coding.pursuit import MOST_LATENTS
from csr_hf.data.columns import tell_apart
from csr_hf.data.run_data import RunData
from csr_hf.plumbing.atomic import check_space, write_whole
from csr_hf.runs.embedding import embed_loaded, load
from csr_hf.runs.first_head import check_other_folder, first_head
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.held_out import similarity_of
from csr_hf.runs.index_recall import describe_size
from csr_hf.runs.recipe import FRESH_HEADS, RunRecipe
from csr_hf.runs.state import RunState, check_recipe, open_run
from csr_hf.runs.training import save_model
from csr_hf.search.documents import make_documents
from csr_hf.search.index import InvertedIndex
from csr_hf.search_inputs import ID

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.backends import Backend
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)


def index(
    recipe: RunRecipe, *, backend: Backend | None = None, overwrite: bool = False, trust_remote_code: bool = False
) -> None:
    """Index a corpus with a head that was trained before (`model.init`): no training, no evaluation.

    A call with the same recipe, head and corpus goes on where an earlier one stopped.

    Args:
        recipe: the head, the corpus, and where everything goes.
        backend: a search backend to put the codes into, instead of an index in the output folder.
        overwrite: start over: remove what the output folder holds of a run, and replace the backend's collection.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ValueError: if `model.init` names no head, the backend has rules that the codes break, the output folder or the
            collection holds something else, or as `embed` does.
        BackendError: if the backend refuses; the same call goes on where it stopped.
    """
    if recipe.model.init in FRESH_HEADS:
        raise ValueError("`model.init` names no head to index with. Give one: --head runs/quickstart, or a Hub id.")
    check_other_folder(recipe)
    check_recipe("an index", recipe, overwrite=overwrite)
    data = load(recipe, trust_remote_code=trust_remote_code)
    embed_loaded(recipe, data)
    head = first_head(recipe, data).eval()
    if backend is None and head.config.hidden_dim > MOST_LATENTS:
        raise ValueError(
            "`hidden_dim` ({}) is above the {} latents that an index takes. Put the codes into a search backend: "
            "--backend URL.".format(*_count_latents(head))
        )
    new = RunState.of("an index", recipe, data, head.fingerprint)
    with open_run(new, overwrite=overwrite) as state:
        if state.head is None or not RunFolder.of(state.path).model_config.is_file():
            save_model(head, recipe, {})
            state.mark_head(head.fingerprint)
        if backend is None:
            build_index(recipe, data, head, state)
        else:
            _fill_backend(backend, recipe, data, head, state, overwrite=overwrite)


def build_index(recipe: RunRecipe, data: RunData, head: CSRModel, state: RunState) -> InvertedIndex | None:
    """Index every document of the corpus, and keep what a search shows of them, unless that is done.

    Returns:
        The index; None, with a line that says why, if the head has too many latents for one.
    """
    folder, arguments = RunFolder.of(recipe.output_dir), recipe.index
    if "index" in state.done and folder.index.is_dir():
        logger.info("index      built before: it is in %s", folder.index)
        return InvertedIndex.load(folder.index)
    if head.config.hidden_dim > MOST_LATENTS:
        logger.warning("index      none: %s latents are more than the %s that an index takes", *_count_latents(head))
        return None
    documents = data.documents(head)
    coder = fit_index_coder(head, documents, row_bytes=arguments.row_bytes, residual_bytes=arguments.residual_bytes)
    by_dot = similarity_of(recipe, data) == "dot"
    similarity: Literal["cosine", "dot"] = "dot" if by_dot else "cosine"
    ids, shown = _describe_documents(data)
    built = InvertedIndex.build(documents, coder, ids, similarity=similarity, copies=arguments.copies, documents=shown)
    built.save(folder.index, overwrite=True)
    state.mark("index")
    logger.info("index      %s documents in %s: %s", f"{len(built):,}", folder.index, describe_size(built))
    return built


def _count_latents(head: CSRModel) -> tuple[str, str]:
    """Return how many latents a head has, and how many an index takes at most, for messages."""
    return f"{head.config.hidden_dim:,}", f"{MOST_LATENTS:,}"


def _fill_backend(
    backend: Backend, recipe: RunRecipe, data: RunData, head: CSRModel, state: RunState, *, overwrite: bool
) -> None:
    """Put the codes of every document into a search backend, named by their numbers; texts stay beside the head."""
    from csr_hf.backends import Schema, read_metadata, upload

    folder, arguments = RunFolder.of(recipe.output_dir), recipe.index
    documents, target = data.documents(head), {"backend": backend.name, "collection": backend.collection}
    schema, said = backend.read_schema(), state.done.get("backend", {})
    # Two servers may have collections of one name; `created` tells them apart.
    is_ours = schema is not None and said.items() >= {**target, "created": schema.created}.items()
    if is_ours and said["is_finished"] and backend.count() == len(documents):
        logger.info("backend    filled before: %s, collection %s", backend.name, backend.collection)
        return
    k = arguments.k or head.config.k
    codes = encode_embeddings(head, documents, k, refine=arguments.refine, dtype="float16")
    kept = _kept_columns(recipe, data)
    if not is_ours:
        if schema is not None and not overwrite and (count := backend.count()):
            raise ValueError(
                f"collection {backend.collection} in {backend.name} holds {count:,} documents already: choose another "
                "--collection, or replace it with --overwrite."
            )
        columns, _ = read_metadata(kept, len(codes))
        schema = Schema(dim=codes.dim, k=codes.k, head=codes.head_fingerprint, decoded=True, columns=columns)
        backend.create(schema, replace=True)
        # It is of another collection.
        folder.journal.unlink(missing_ok=True)
    target["created"] = backend.schema.created
    state.mark("backend", {**target, "is_finished": False})
    # Weights that are divided by nothing give dot products.
    by_dot = similarity_of(recipe, data) == "dot"
    norms = np.ones(len(codes), np.float32) if by_dot else decoded_norms(head, codes)
    upload(backend, codes, np.arange(len(codes)), decoded_norms=norms, metadata=kept, journal=folder.journal)
    _save_documents(data, folder)
    state.mark("backend", {**target, "is_finished": True})
    logger.info(
        "backend    %s documents in %s, collection %s", f"{backend.count():,}", backend.name, backend.collection
    )


def _describe_documents(data: RunData) -> tuple[list[str] | None, pa.Table | None]:
    """Return the ids of the documents, and their texts and metadata; None for embeddings alone."""
    shown = data.show_documents()
    if shown is None:
        return None, None
    ids = [str(one) for one in shown[ID]]
    if len(set(ids)) < len(ids):
        logger.warning("index      the ids of some documents repeat: the second of an id is called `id #2`, and so on")
        ids = tell_apart(ids)
    return ids, make_documents(None, shown.remove_columns(ID), len(ids))


def _kept_columns(recipe: RunRecipe, data: RunData) -> pa.Table | None:
    """Return the columns of the documents that are kept beside the texts, which a backend can filter by."""
    shown = data.show_documents()
    named = {name for source in recipe.data.sources or [recipe.data] for name in source.keep or recipe.data.keep}
    columns = [name for name in (shown.column_names if shown is not None else ()) if name in named]
    return make_documents(None, shown.select_columns(columns), len(shown)) if shown is not None and columns else None


def _save_documents(data: RunData, folder: RunFolder) -> None:
    documents = data.show_documents()
    if documents is not None:
        with write_whole(folder.documents) as temporary:
            # On a full disk, Arrow would end the process.
            check_space(temporary, documents.data.nbytes)
            documents.to_parquet(str(temporary))
