"""Heads to and from sentence-transformers' own modules: no csr_hf and no remote code needed to load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.atomic import written_whole

if TYPE_CHECKING:
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    from csr_hf.encoder import CSREncoder
    from csr_hf.modeling_csr import CSRModel

_ROOT_FILES = {"modules.json", "config_sentence_transformers.json"}
_HEAD_CONFIG = {"input_dim", "hidden_dim", "k", "k_aux"}


def export_sentence_transformers(encoder: CSREncoder, folder: str | Path) -> None:
    """Write backbone and head as one folder that `SparseEncoder`, `CSRModel`, `AutoModel` and `CSREncoder` load.

    The root holds the head as `CSRModel.save_pretrained` writes it; `modules.json` names the backbone's modules, each
    in a folder of its own, a native `SparseAutoEncoder` with the same weights, and a native `Normalize`, so that
    `SparseEncoder(folder)` gives the codes of `CSREncoder` with rows of unit norm.

    Args:
        encoder: backbone and head.
        folder: the folder to write, whole or not at all; an older one is replaced.

    Raises:
        OSError: if the folder cannot be written; nothing is left behind.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Normalize

    backbone = encoder.backbone.model
    model = SparseEncoder(
        modules=[*backbone.children(), _native_head(encoder.head), Normalize()],
        prompts=dict(encoder.backbone.prompts),
        default_prompt_name=backbone.default_prompt_name,
        device=str(backbone.device),
    )
    with written_whole(folder) as temporary:
        model.save(str(temporary), create_model_card=False)
        _move_first_module(temporary)
        encoder.head.save_pretrained(temporary)


def import_sparse_autoencoder(folder: str | Path) -> CSRModel:
    """A head that sentence-transformers saved.

    Args:
        folder: of a `SparseAutoEncoder` module, or of a whole `SparseEncoder` that holds one.

    Raises:
        ValueError: if there is no such module, its files are damaged, its sizes and tensors disagree, or it
            normalises its inputs (`normalize=True`), which a CSR head does not.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.modeling_csr import CSRModel

    folder = _module_folder(Path(folder))
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable SparseAutoEncoder: {error}") from error
    if settings.get("normalize"):
        raise ValueError(f"{folder} was trained with normalize=True (layer norm of the inputs), which CSR lacks.")
    config = CSRConfig(**{name: settings[name] for name in _HEAD_CONFIG if name in settings})
    with torch.device("meta"):
        head = CSRModel(config)
    wanted = head.state_dict()
    # The tied weight has two names, of which sentence-transformers saves the second.
    tensors.setdefault("encoder.weight", tensors.get("decoder.linear.weight", torch.empty(0)))
    found = {name: tensor for name, tensor in tensors.items() if name in wanted}
    for name, tensor in wanted.items():
        shape = tuple(found[name].shape) if name in found else "missing"
        if shape != tuple(tensor.shape):
            raise ValueError(f"{folder}: `{name}` is {shape}, its config says {tuple(tensor.shape)}.")
    if not all(torch.isfinite(tensor).all() for tensor in found.values()):
        raise ValueError(f"{folder} holds weights that are NaN or infinite. Export the head again.")
    head.load_state_dict(found, assign=True)
    return head.eval()


def _native_head(head: CSRModel) -> SparseAutoEncoder:
    """The same encoder as a module of sentence-transformers, whose decoder is always tied."""
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    config = head.config
    native = SparseAutoEncoder(config.input_dim, config.hidden_dim, config.k, config.k_aux)
    weights = head.state_dict()
    weights.pop("decoder.weight", None)
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


def _module_folder(folder: Path) -> Path:
    """The SparseAutoEncoder's own folder, never outside of the one that was given."""
    path = folder / "modules.json"
    if not path.is_file():
        return folder
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        names = [module["path"] for module in modules if module["type"].endswith(".SparseAutoEncoder")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a list of modules: {error!r}") from error
    if len(names) != 1:
        raise ValueError(f"{path} names {len(names)} SparseAutoEncoder modules; exactly one is needed.")
    inner = (folder / names[0]).resolve()
    if not inner.is_relative_to(folder.resolve()):
        raise ValueError(f"{path} points outside of its folder ({names[0]!r}). Do not trust it.")
    return inner
