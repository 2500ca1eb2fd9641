"""A head as modules of sentence-transformers: no csr_hf and no remote code needed to load it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.repository import NATIVE_HEAD, NATIVE_ROUTER

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    from csr_hf.encoder import CSREncoder
    from csr_hf.modeling_csr import CSRModel

_ROOT_FILES = {"modules.json", "config_sentence_transformers.json"}


def write_full(encoder: CSREncoder, folder: Path) -> None:
    """Backbone and head as one folder that `SparseEncoder`, `CSRModel`, `AutoModel` and `CSREncoder` load.

    The root holds the head as `CSRModel.save_pretrained` writes it; `modules.json` names the backbone's modules, each
    in a folder of its own, a native `SparseAutoEncoder` with the same weights, and a native `Normalize`, so that
    `SparseEncoder(folder)` gives the codes of `CSREncoder` with rows of unit norm. A head of several modalities is a
    native `Router` with one such module for each.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Normalize

    backbone = encoder.backbone.model
    model = SparseEncoder(
        modules=[*backbone.children(), _native_module(encoder.head), Normalize()],
        prompts=dict(encoder.backbone.prompts),
        default_prompt_name=backbone.default_prompt_name,
        device=str(backbone.device),
    )
    model.save(str(folder), create_model_card=False)
    _move_first_module(folder)
    encoder.head.save_pretrained(folder)


def write_head(head: CSRModel, folder: Path) -> None:
    """The head alone: as `CSRModel.save_pretrained` writes it, and as a native module in a folder of its class's name.

    That is `SparseAutoEncoder`, or `Router` for a head of several modalities.
    """
    head.save_pretrained(folder)
    name = native_name(head)
    (folder / name).mkdir()
    _native_module(head).save(str(folder / name))


def native_name(head: CSRModel) -> str:
    """The class of sentence-transformers that holds a head."""
    return NATIVE_ROUTER if head.config.modalities else NATIVE_HEAD


def _native_module(head: CSRModel) -> SparseAutoEncoder | Router:
    if not head.config.modalities:
        return native_head(head)
    from sentence_transformers.base.modules import Router

    return Router({modality: [native_head(head, modality)] for modality in head.config.modalities})


def native_head(head: CSRModel, modality: str | None = None) -> SparseAutoEncoder:
    """The same encoder as a module of sentence-transformers, whose decoder is always tied.

    Args:
        head: to be copied.
        modality: whose bias the module subtracts, where the head has several.
    """
    import torch
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    config = head.config
    native = SparseAutoEncoder(config.input_dim, config.hidden_dim, config.k, config.k_aux)
    weights = copy.copy(head.state_dict())
    for name in ("decoder.weight", "modality_bias", "modality_last_nonzero"):
        weights.pop(name, None)
    if modality is not None:
        weights["pre_bias"] = weights["pre_bias"] - head.subtract_modality_mean(
            torch.zeros_like(head.pre_bias), modality
        )
    native.load_state_dict({**weights, "decoder.linear.weight": weights["encoder.weight"]})
    # A closure that only training needs, and that keeps the model from being sent to other processes.
    del native.auxk_mask_fn
    return native.eval()


def _move_first_module(folder: Path) -> None:
    """Sentence-transformers saves the first module into the root, where the head belongs here."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    first = modules[0]["path"] = f"0_{modules[0]['type'].rsplit('.', 1)[-1]}"
    kept = _ROOT_FILES | {module["path"] for module in modules[1:]}
    (folder / first).mkdir()
    for entry in list(folder.iterdir()):
        if entry.name not in kept and entry.name != first:
            shutil.move(entry, folder / first / entry.name)
    path.write_text(json.dumps(modules, indent=2), encoding="utf-8")
