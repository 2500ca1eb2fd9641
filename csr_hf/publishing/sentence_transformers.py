"""Save a head as modules of sentence-transformers, which load without csr_hf and without remote code."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.embedding.backbone import Backbone, check_width
from csr_hf.repository import NATIVE_HEAD, NATIVE_ROUTER

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    from csr_hf.modeling_csr import CSRModel

_ROOT_FILES = {"modules.json", "config_sentence_transformers.json"}


def write_full(backbone: Backbone, head: CSRModel, folder: Path) -> None:
    """Write backbone and head as one folder that `SparseEncoder`, `CSRModel`, `AutoModel` and `CSREncoder` load.

    The root holds the head as `CSRModel.save_pretrained` writes it; `modules.json` names the backbone's modules, each
    in a folder of its own, a native `SparseAutoEncoder` with the same weights, and a native `Normalize`, so that
    `SparseEncoder(folder)` gives the codes of `CSREncoder` with rows of unit norm. A head of several modalities is a
    native `Router` with one such module for each.

    Args:
        backbone: the frozen model.
        head: trained on its embeddings.
        folder: where to write.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Normalize

    check_width(backbone, head)
    model = SparseEncoder(
        modules=[*backbone.model.children(), _native_module(head), Normalize()],
        prompts=dict(backbone.prompts),
        default_prompt_name=backbone.model.default_prompt_name,
        device=str(backbone.model.device),
    )
    model.save(str(folder), create_model_card=False)
    _move_first_module(folder)
    head.save_pretrained(folder)


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


def _native_module(head: CSRModel) -> SparseAutoEncoder | Router:
    if not head.config.modalities:
        return native_head(head)
    from sentence_transformers.base.modules import Router

    return Router({modality: [native_head(head, modality)] for modality in head.config.modalities})


def native_head(head: CSRModel, modality: str | None = None) -> SparseAutoEncoder:
    """Copy a head into a module of sentence-transformers, whose decoder is always tied.

    Args:
        head: the head to copy.
        modality: of a head of several modalities, the one that the module encodes. Its mean is added to the module's
            `pre_bias`, so that the module takes the backbone's embeddings as they are.
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
