"""Save a head as modules of sentence-transformers, which load without csr_hf and without remote code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.embedding.backbone import Backbone, check_width
from csr_hf.embedding.loading import name_of, split_backbone
from csr_hf.repository import NATIVE_HEAD, NATIVE_ROUTER

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
    from torch import nn

    from csr_hf.modeling_csr import CSRModel

_ROOT_FILES = {"modules.json", "config_sentence_transformers.json"}


def write_full(backbone: Backbone, head: CSRModel, folder: Path) -> None:
    """Write backbone and head as one folder that `SparseEncoder`, `CSRModel`, `AutoModel` and `CSREncoder` load.

    The root holds the head as `CSRModel.save_pretrained` writes it; `modules.json` names the backbone's modules, each
    in a folder of its own, a native `SparseAutoEncoder` with the same weights, and for cosine a native `Normalize`, so
    that `SparseEncoder(folder)` gives the codes of `CSREncoder`, there with rows of unit norm. A head of several
    modalities is a native `Router` with one such module for each.

    Args:
        backbone: the frozen model.
        head: trained on its embeddings. Its config records what the modules cannot hold of the backbone's habits.
        folder: where to write.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """
    make_sparse_encoder(backbone, head).save(str(folder), create_model_card=False)
    _move_first_module(folder)
    _record_habits(backbone, head)
    head.save_pretrained(folder)


def make_sparse_encoder(backbone: Backbone, head: CSRModel) -> SparseEncoder:
    """Put a backbone and a copy of a head together as a model of sentence-transformers, in memory.

    Args:
        backbone: the frozen model; its modules are shared, not copied.
        head: trained on its embeddings.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """
    from sentence_transformers import SparseEncoder

    check_width(backbone, head)
    # Dot product and cosine are one where rows have unit norm.
    similarity = "dot" if backbone.similarity_fn_name == "cosine" else backbone.similarity_fn_name
    return SparseEncoder(
        modules=_arrange_modules(backbone, head),
        prompts=dict(backbone.prompts),
        default_prompt_name=backbone.model.default_prompt_name,
        device=str(backbone.model.device),
        similarity_fn_name=similarity,
        max_active_dims=head.config.k,
    )


def read_sparse_encoder(model: SparseEncoder) -> tuple[Backbone, CSRModel]:
    """Take a model of sentence-transformers apart, in memory: the modules before its head, and a copy of that.

    Args:
        model: ends with a `SparseAutoEncoder`, and perhaps a `Normalize`; its other modules are shared, not copied.

    Raises:
        ValueError: if it has no such module, several of them (a head of several modalities, which forgets on the way
            which mean was subtracted), or one that normalizes its inputs.
    """
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    heads = [module for module in model.modules() if isinstance(module, SparseAutoEncoder)]
    if len(heads) != 1:
        raise ValueError(
            f"`model` has {len(heads)} SparseAutoEncoder modules; one is expected. Save it, and give the folder to "
            "`CSREncoder.from_pretrained`."
        )
    head = _read_native(heads[0])
    head.config.k = model.max_active_dims or head.config.k
    whole = split_backbone(model, device=str(model.device))
    # Rows of unit norm, so that a dot product is a cosine, see `make_sparse_encoder`.
    ends_with_unit = type(list(model.modules())[-1]).__name__ == "Normalize"
    if not ends_with_unit and model.similarity_fn_name:
        whole.similarity_fn_name = model.similarity_fn_name
    return Backbone(whole, name_of(whole)), head


def _read_native(native: SparseAutoEncoder) -> CSRModel:
    from csr_hf.configuration_csr import CSRConfig, refuse_unsupported
    from csr_hf.modeling_csr import CSRModel

    refuse_unsupported({"normalize": native.normalize})
    config = CSRConfig(input_dim=native.input_dim, hidden_dim=native.hidden_dim, k=native.k, k_aux=native.k_aux)
    head = CSRModel(config)
    weights = native.state_dict()
    head.load_state_dict({name: weights[name] for name in head.state_dict()})
    return head.to(native.pre_bias.device).eval()  # type: ignore[arg-type]


def write_head(head: CSRModel, folder: Path) -> None:
    """Write the head alone, as `CSRModel.save_pretrained` does and as a native module in a folder of its own.

    The folder is named after the module's class: `SparseAutoEncoder`, or `Router` for a head of several modalities.
    """
    head.save_pretrained(folder)
    name = native_name(head)
    (folder / name).mkdir()
    _native_module(head).save(str(folder / name))


def native_name(head: CSRModel) -> str:
    """Return the name of the sentence-transformers class that holds a head."""
    return NATIVE_ROUTER if head.config.modalities else NATIVE_HEAD


def _arrange_modules(backbone: Backbone, head: CSRModel) -> list[nn.Module]:
    """Put the modules of backbone and head into one list, or into one `Router` where the list would change the head.

    Sentence-transformers casts all modules of the list to the type of the first, but none that are in a `Router`.
    """
    import torch
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Normalize

    before: list[Any] = list(backbone.model.children())
    width = _full_width(backbone)
    after = [Normalize()] if backbone.similarity_fn_name == "cosine" else []
    first = next(before[0].parameters(), None)
    if first is None or first.dtype == torch.float32:
        return [*before, _native_module(head, width), *after]
    if head.config.modalities:
        return [Router({kind: [*before, native_head(head, kind, width), *after] for kind in head.config.modalities})]
    # One route for every task and modality.
    return [Router({"all": [*before, native_head(head, width=width), *after]}, route_mappings={(None, None): "all"})]


def _full_width(backbone: Backbone) -> int:
    """Return how wide the embeddings are before `truncate_dim` cuts them, which modules do not do."""
    model = backbone.model
    if model.truncate_dim is None:
        return backbone.dim
    with model.truncate_embeddings(None):
        return model.get_embedding_dimension() or model.encode(["width"], show_progress_bar=False).shape[-1]


def _record_habits(backbone: Backbone, head: CSRModel) -> None:
    """Record in the head's config what the backbone's own files say and a SparseEncoder's cannot."""
    settings = dict(head.config.base_model_settings or {})
    if backbone.model.truncate_dim is not None:
        settings["truncate_dim"] = backbone.model.truncate_dim
    if backbone.similarity_fn_name != "cosine":
        settings["similarity"] = backbone.similarity_fn_name
    head.config.base_model_settings = settings


def _native_module(head: CSRModel, width: int | None = None) -> SparseAutoEncoder | Router:
    if not head.config.modalities:
        return native_head(head, width=width)
    from sentence_transformers.base.modules import Router

    return Router({modality: [native_head(head, modality, width)] for modality in head.config.modalities})


def native_head(head: CSRModel, modality: str | None = None, width: int | None = None) -> SparseAutoEncoder:
    """Copy a head into a module of sentence-transformers, float32, whose decoder is always tied.

    Args:
        head: the head to copy.
        modality: of a head of several modalities, the one that the module encodes. Its mean is added to the module's
            `pre_bias`, so that the module takes the backbone's embeddings as they are.
        width: of the embeddings that the module takes; those beyond the head's `input_dim` weigh nothing. Default
            `input_dim`.
    """
    import torch
    import torch.nn.functional as F
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    config = head.config
    native = SparseAutoEncoder(width or config.input_dim, config.hidden_dim, config.k, config.k_aux or 0)
    weights = {name: head.state_dict()[name] for name in native.state_dict() if name in head.state_dict()}
    if modality is not None:
        weights["pre_bias"] = weights["pre_bias"] - head.subtract_modality_mean(
            torch.zeros_like(head.pre_bias), modality
        )
    for name in ("encoder.weight", "pre_bias"):
        weights[name] = F.pad(weights[name], (0, native.input_dim - config.input_dim))
    native.load_state_dict({**weights, "decoder.linear.weight": weights["encoder.weight"]})
    # Only training needs this closure, and it cannot be pickled: the model could not be sent to other processes.
    del native.auxk_mask_fn
    return native.eval()


def _move_first_module(folder: Path) -> None:
    """Move the first module, which sentence-transformers saves into the root, into a folder of its own.

    The root then has room for the head's config.json and weights.
    """
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    first = modules[0]["path"] = f"0_{modules[0]['type'].rsplit('.', 1)[-1]}"
    kept = _ROOT_FILES | {module["path"] for module in modules[1:]}
    (folder / first).mkdir()
    for entry in list(folder.iterdir()):
        if entry.name not in kept and entry.name != first:
            shutil.move(entry, folder / first / entry.name)
    path.write_text(json.dumps(modules, indent=2), encoding="utf-8")
