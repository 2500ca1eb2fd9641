"""Load a CSR head that csr_hf, sentence-transformers, CSRv2 or the paper's code has saved."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.repository import NATIVE_HEAD, Repository, open_repository

if TYPE_CHECKING:
    import torch
    from huggingface_hub import HfApi

    from csr_hf.modeling_csr import CSRModel

# A repository with one of these holds a model; sentence-transformers need not write config.json.
_OF_A_MODEL = {"config.json", "modules.json", "model.safetensors"}
_TENSORS = ("encoder.weight", "pre_bias", "latent_bias", "stats_last_nonzero")


def is_head_config(config: Any) -> bool:
    """Tell whether the content of a config.json is that of a CSR head, of today's `model_type` or the old one.

    Args:
        config: what the file holds; False for anything but a mapping.
    """
    if not isinstance(config, dict):
        return False
    # The old name is short: another library's model may have it too.
    is_old = config.get("model_type") == "csr" and {"input_dim", "hidden_dim", "k"} <= config.keys()
    return is_old or config.get("model_type") == "csr_hf"


def holds_other_model(api: HfApi, repo_id: str, commit: str | None, files: Collection[str]) -> bool:
    """Tell whether a repository on the Hub holds a model that is no head, which a push would replace.

    Args:
        api: the client.
        repo_id: `user/name`.
        commit: where to look.
        files: names of all its files there.
    """
    if not _OF_A_MODEL & set(files):
        return False
    # In every layout of a head, the root has its config.json.
    if "config.json" not in files:
        return True
    path = Path(api.hf_hub_download(repo_id, "config.json", revision=commit))
    try:
        return not is_head_config(json.loads(path.read_text(encoding="utf-8")))
    # What is not JSON is no head's.
    except ValueError:
        return True


def load_head(repository: Repository) -> CSRModel:
    """Load the head of a repository: a CSRModel, or a `SparseAutoEncoder` among sentence-transformers' modules.

    Args:
        repository: from `open_repository`.

    Raises:
        ValueError: if there is no head, its files are damaged, its sizes and tensors disagree, its weights are not
            finite, or it normalizes its inputs (`normalize=True`), which a CSR head does not.
    """
    from csr_hf.modeling_csr import CSRModel

    config = repository.read_json("config.json")
    if not isinstance(config, dict | None):
        raise ValueError(f"config.json of {repository.name} is not a mapping of settings.")
    if is_head_config(config):
        repository.path("model.safetensors")
        return CSRModel.from_pretrained(repository.folder)
    inside = repository.folder_of(NATIVE_HEAD)
    if inside is None and config and {"input_dim", "hidden_dim"} <= config.keys():
        inside = ""
    if inside is None:
        raise ValueError(
            f"{repository.name} holds no CSR head: its config.json does not describe one, and modules.json names no "
            f"{NATIVE_HEAD}. Give the output of `csr-hf run` or a SparseEncoder with such a module."
        )
    for name in ("config.json", "model.safetensors"):
        if not repository.path(str(Path(inside, name))).is_file():
            raise ValueError(f"{repository.name} has no {Path(inside, name)}. Download or save it again.")
    head = CSRModel.from_pretrained(repository.folder / inside)
    # Sentence-transformers counts forward passes in this field, csr_hf training examples.
    head.config.dead_threshold = type(head.config)().dead_threshold
    return head


def find_fingerprint(repository: Repository) -> str | None:
    """Return the fingerprint of a repository's head; None if it holds no weights, as the folder of a card.

    Raises:
        ValueError: as `load_head` does.
    """
    holds_weights = any(repository.folder.rglob("*.safetensors"))
    return load_head(repository).fingerprint if holds_weights else None


def import_checkpoint(path: str | Path, k: int | None = None) -> CSRModel:
    """Load a head from a checkpoint of the code of CSR (`.pth`) or CSRv2 (`.safetensors`).

    The files do not record k, but the names of files and folders do (`..._topk_32_...`). A `.pth` file is read with
    `weights_only=True`, which runs no code.

    Args:
        path: the file.
        k: active latents; default the number in the name of the file, else of its folder.

    Raises:
        ValueError: if the file is damaged or no such checkpoint, `k` is neither given nor in a name, or a weight is
            not finite.
    """
    import torch

    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.head_weights import check_values
    from csr_hf.modeling_csr import CSRModel

    path = Path(path)
    tensors = _read_tensors(path)
    weight = tensors["encoder.weight"]
    _check_tensors(tensors, path)
    if weight.ndim != 2:
        raise ValueError(f"`encoder.weight` in {path} has {weight.ndim} axes; a head's has 2.")
    hidden_dim, input_dim = weight.shape
    k = k or _find_number(path, "topk")
    if k is None:
        raise ValueError(f"the name of {path} does not say how many latents were active (`topk_32`). Give `k` (--k).")
    config = CSRConfig(input_dim=input_dim, hidden_dim=hidden_dim, k=k, k_aux=_find_number(path, "auxk"))
    with torch.device("meta"):
        head = CSRModel(config)
    for name, wanted in head.state_dict().items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(wanted.shape):
            raise ValueError(f"`{name}` is {found} in {path}; with {input_dim} -> {hidden_dim} it is {wanted.shape}.")
    check_values(tensors, str(path))
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
    """Load a head from a checkpoint file, a folder, or a Hub repository.

    Args:
        source: file, folder or Hub id.
        k: active latents; default the number in the checkpoint's name, or the k in the head's config.
        file: name of a checkpoint file inside the folder or repository; default the head that `load_head` finds.
        revision: branch, tag or commit of a Hub repository.
        token: for a private repository; default the one of `hf auth login` or of HF_TOKEN.

    Returns:
        The head, and the repository if it also holds the backbone, else None.

    Raises:
        ValueError: as `open_repository`, `load_head` and `import_checkpoint` do.
    """
    if Path(source).is_file():
        return import_checkpoint(source, k), None
    repository = open_repository(source, revision=revision, token=token, extra=[file] if file else [])
    if file is not None:
        if not repository.path(file).is_file():
            raise ValueError(f"{repository.name} has no file {file!r}.")
        return import_checkpoint(repository.path(file), k), None
    head = load_head(repository)
    if k is not None:
        head.config.k = k
    return head, repository if repository.is_packed else None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of the head; other contents of the file are ignored."""
    from csr_hf.head_weights import TIED_WEIGHT

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
    # The tied weight has two names; CSRv2 and sentence-transformers save it under the second.
    state.setdefault("encoder.weight", state.get(TIED_WEIGHT))
    tensors = {name: state[name] for name in _TENSORS if hasattr(state.get(name), "ndim")}
    missing = [name for name in _TENSORS[:3] if name not in tensors]
    if missing:
        raise ValueError(f"{path} is not a CSR head: it lacks {', '.join(missing)}.")
    if "stats_last_nonzero" not in tensors:
        tensors["stats_last_nonzero"] = tensors["latent_bias"].new_zeros(len(tensors["latent_bias"])).long()
    return tensors


def _check_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors that are no plain arrays, before any of them is computed with.

    Raises:
        ValueError: for sparse, quantized and meta tensors, other types than floats, and tensors that stand for more
            numbers than the file holds.
    """
    import torch

    for name, tensor in tensors.items():
        is_count = name == "stats_last_nonzero"
        is_plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
        kinds = (
            (torch.int64, torch.int32) if is_count else (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        )
        if not is_plain or tensor.dtype not in kinds:
            kind = f"{tensor.layout}, {tensor.dtype}{', without data' if tensor.is_meta else ''}"
            raise ValueError(f"`{name}` in {path} is {kind}; a head has plain {'integers' if is_count else 'floats'}.")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise ValueError(f"`{name}` in {path} stands for {tensor.numel():,} numbers that the file does not hold.")


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the content of a head's config.json says of a head, as it may be published again.

    Raises:
        ValueError: for values that no head has.
    """
    from csr_hf.configuration_csr import AUTO_MAP, CSRConfig

    fields = CSRConfig.from_dict(config).to_dict().keys() & CSRConfig.__annotations__.keys()
    version = str(config.get("transformers_version"))
    beside = {
        "architectures": config.get("architectures") == ["CSRModel"],
        "auto_map": config.get("auto_map") == AUTO_MAP,
        # Checked above.
        **dict.fromkeys(("dtype", "torch_dtype"), True),
        "model_type": is_head_config(config),
        "transformers_version": re.fullmatch(r"[\w.+-]{1,40}", version, re.ASCII) is not None,
    }
    return {name: value for name, value in config.items() if name in fields or beside.get(name)}


def _unpickle_tensors(path: Path) -> dict[str, Any]:
    """Read the state dict of a torch file; optimizer states in it are memory-mapped, not read."""
    import pickle

    import torch

    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a file that the code of CSR or CSRv2 wrote.")
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


def _find_number(path: Path, name: str) -> int | None:
    """Find the number after `topk_` or `auxk_` in the file's name, else in its folder's; None without one."""
    for part in (path.name, path.absolute().parent.name):
        found = re.search(rf"(?:^|_){name}_(\d+)", part)
        if found:
            return int(found[1])
    return None
