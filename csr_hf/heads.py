"""load_head(): a CSR head from wherever it was saved, by csr_hf, sentence-transformers, CSRv2 or the paper's code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.repository import NATIVE_HEAD, Repository, open_repository

if TYPE_CHECKING:
    import torch

    from csr_hf.modeling_csr import CSRModel

_TENSORS = ("encoder.weight", "pre_bias", "latent_bias", "stats_last_nonzero")
_TIED_WEIGHT = "decoder.linear.weight"


def load_head(repository: Repository) -> CSRModel:
    """The head in a repository: a CSRModel, or a `SparseAutoEncoder` among sentence-transformers' modules.

    Raises:
        ValueError: if there is none, its files are damaged, its sizes and tensors disagree, its weights are not
            finite, or it normalizes its inputs (`normalize=True`), which a CSR head does not.
    """
    from csr_hf.modeling_csr import CSRModel

    config = repository.read_json("config.json")
    if not isinstance(config, dict | None):
        raise ValueError(f"config.json of {repository.name} is not a mapping of settings.")
    if (config or {}).get("model_type") == "csr":
        repository.path("model.safetensors")
        return CSRModel.from_pretrained(repository.folder)
    inside = repository.folder_of(NATIVE_HEAD)
    if inside is None and config and {"input_dim", "hidden_dim"} <= config.keys():
        inside = ""
    if inside is None:
        raise ValueError(
            f"{repository.name} holds no CSR head: its config.json is not one's, and modules.json names no "
            f"{NATIVE_HEAD}. Give the output of `csr-hf run` or a SparseEncoder with such a module."
        )
    for name in ("config.json", "model.safetensors"):
        if not repository.path(str(Path(inside, name))).is_file():
            raise ValueError(f"{repository.name} has no {Path(inside, name)}. Download or save it again.")
    head = CSRModel.from_pretrained(repository.folder / inside)
    # Sentence-transformers counts calls there, csr_hf training examples.
    head.config.dead_threshold = type(head.config)().dead_threshold
    return head


def load_checkpoint(path: str | Path, k: int | None = None) -> CSRModel:
    """A head that the code of CSR (`.pth`) or of CSRv2 (`.safetensors`) wrote.

    Neither file knows its k; their folders and file names do (`..._topk_32_...`). A `.pth` file is read with
    `weights_only=True`, which runs no code.

    Args:
        path: the file.
        k: active latents; default what the names say.

    Raises:
        ValueError: if the file is no such checkpoint or is damaged, no k is to be found, or a weight is not finite.
    """
    import torch

    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.modeling_csr import CSRModel

    path = Path(path)
    tensors = _read_tensors(path)
    weight = tensors["encoder.weight"]
    if weight.ndim != 2:
        raise ValueError(f"`encoder.weight` in {path} has {weight.ndim} axes; a head's has 2.")
    hidden_dim, input_dim = weight.shape
    k = k or _number_in_names(path, "topk")
    if k is None:
        raise ValueError(f"neither {path} nor its name says how many latents were active (`topk_32`). Give `k` (--k).")
    config = CSRConfig(input_dim=input_dim, hidden_dim=hidden_dim, k=k, k_aux=_number_in_names(path, "auxk"))
    with torch.device("meta"):
        head = CSRModel(config)
    for name, wanted in head.state_dict().items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(wanted.shape):
            raise ValueError(f"`{name}` is {found} in {path}; with {input_dim} -> {hidden_dim} it is {wanted.shape}.")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{path} holds weights that are NaN or infinite.")
    head.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return head.float().eval()


def import_head(
    source: str | Path,
    *,
    k: int | None = None,
    file: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[CSRModel, Repository | None]:
    """A head from a checkpoint file, a folder, or a Hub repository.

    Args:
        source: file, folder or Hub id.
        k: active latents, for checkpoint files whose name does not say.
        file: a checkpoint file inside the folder or repository.
        revision: of a Hub repository.
        token: for a private one.

    Returns:
        The head, and the repository if it holds the head's backbone too.

    Raises:
        ValueError: as `load_head`, `load_checkpoint` and `open_repository` do.
    """
    if Path(source).is_file():
        return load_checkpoint(source, k), None
    repository = open_repository(source, revision=revision, token=token, extra=[file] if file else [])
    if file is not None:
        if not repository.path(file).is_file():
            raise ValueError(f"{repository.name} has no file {file!r}.")
        return load_checkpoint(repository.path(file), k), None
    head = load_head(repository)
    if k is not None:
        head.config.k = type(head.config)(**{**head.config.to_dict(), "k": k}).k
    return head, repository if repository.is_packed else None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the head alone, whatever else the file holds."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or incomplete ({error}). Download it again.") from error
    else:
        state = _unpickle_tensors(path)
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    # The weight is tied and has two names; CSRv2 and sentence-transformers keep the second.
    state.setdefault("encoder.weight", state.get(_TIED_WEIGHT))
    tensors = {name: state[name] for name in _TENSORS if hasattr(state.get(name), "ndim")}
    missing = [name for name in _TENSORS[:3] if name not in tensors]
    if missing:
        raise ValueError(f"{path} is not a CSR head: it lacks {', '.join(missing)}.")
    if "stats_last_nonzero" not in tensors:
        tensors["stats_last_nonzero"] = tensors["latent_bias"].new_zeros(len(tensors["latent_bias"])).long()
    return tensors


def _unpickle_tensors(path: Path) -> dict[str, Any]:
    """The state dict of a torch file; optimizer states beside it are mapped, not read."""
    import pickle

    import torch

    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} is damaged, or holds more than tensors and numbers, which is never loaded ({reason})."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint of CSR: no state dict in it.")
    return state


def _number_in_names(path: Path, name: str) -> int | None:
    """The number after `topk_` or `auxk_` in the file's name, else in its folder's."""
    for part in (path.name, path.absolute().parent.name):
        found = re.search(rf"(?:^|_){name}_(\d+)", part)
        if found:
            return int(found[1])
    return None
