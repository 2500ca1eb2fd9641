"""Configure a CSR head: its sizes, which are validated. A copy of this file is saved in each model repository."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

VERSION = "0.1.0"
"""Of the csr_hf that this file came with; saved heads record it."""

OLD_MODEL_TYPE = "csr"
"""The `model_type` of heads that were saved before it was "csr_hf"."""

# What transformers writes into configurations beside the fields of its own class.
_OF_TRANSFORMERS = {each.name for each in fields(PretrainedConfig)} | {
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "torch_dtype",
    "transformers_weights",
    "use_cache",
}
# What is believed of a saved configuration beside the fields of a head. All else that transformers knows is for other
# models: code of other repositories, kernels, labels by the million.
_KEPT = {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "return_dict", "_commit_hash"}
AUTO_MAP = {"AutoConfig": "configuration_csr.CSRConfig", "AutoModel": "modeling_csr.CSRModel"}
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_MOST_MODALITIES = 16
_LONGEST_NAME = 4096
_NOT_QUANTIZED = "a CSR head is not quantized: it has a few MB. Leave this out, or load it with dtype=torch.float16."
_REFUSED = {
    "normalize": "a CSR head does not normalize its inputs (layer norm, in sentence-transformers).",
    "quantization_config": _NOT_QUANTIZED,
    "load_in_4bit": _NOT_QUANTIZED,
    "load_in_8bit": _NOT_QUANTIZED,
}
# Words of the caller and secrets: never written into a repository, nor believed when one says them.
_NEVER_RECORDED = {"trust_remote_code", "token", "use_auth_token"}


class CSRConfig(PretrainedConfig):
    r"""Configuration of a CSR head (Contrastive Sparse Representation, arXiv 2503.01776, section 3).

    Every value is checked at construction, at assignment and at saving.

    Args:
        input_dim: width of the dense embeddings.
        hidden_dim: number of latents; 4 * input_dim works best in the paper.
        k: active latents of a code.
        k_aux: dead latents that the auxiliary loss revives; None means min(512, hidden_dim // 2), 0 switches it off.
        dead_threshold: a latent is dead when it was not active for this many training examples.
        tied_decoder: decode with the transpose of the encoder's matrix; False adds a decoder matrix.
        base_model_name_or_path: backbone whose embeddings the head takes.
        base_model_revision: commit of the backbone, when known.
        base_model_settings: how the backbone embeds, where that is not its default, as JSON holds it: prompts,
            `max_seq_length` and more. Whoever loads the head loads the backbone with them.
        modalities: the modalities that the head encodes, such as ["image", "text"], where the backbone has a tower for
            each. The mean of the modality is then subtracted from embeddings before the head takes them, see
            `CSRModel.subtract_modality_mean`. None: one modality, and no mean is subtracted.
        fingerprints: of weights that were converted to another float type: the hash of what they became, and their
            fingerprint before. `CSRModel` keeps it.
        csr_hf_version: of the library that saved the head; saving sets it.

    Raises:
        ValueError: if a size is not a positive integer, `k` or `k_aux` exceeds `hidden_dim`, another value has the
            wrong type, `modalities` has less than two entries or the same twice, `base_model_settings` holds what must
            not be recorded, a name is unknown, or the head is to normalize its inputs or to be quantized.
    """

    model_type = "csr_hf"
    # Makes `save_pretrained` copy this file, so that saved folders load where csr_hf is not installed.
    _auto_class = "AutoConfig"

    input_dim: int = 384
    hidden_dim: int = 1536
    k: int = 32
    k_aux: int | None = None
    dead_threshold: int = 50_000
    tied_decoder: bool = True
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_model_settings: dict[str, Any] = field(default_factory=dict)
    modalities: list[str] | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    csr_hf_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unsupported(kwargs)
        others = {name: value for name, value in kwargs.items() if name not in (*_REFUSED, "model_type")}
        for name in others.keys() - _OF_TRANSFORMERS:
            known = ", ".join(_FIELDS)
            raise ValueError(f"`{name}` is no setting of a CSR head. {_suggest(name, 0.6) or f'They are: {known}.'}")
        super().__post_init__(**others)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_unsupported({name: value})
        if name in _FIELDS:
            if name == "k_aux" and value is None:
                value = min(512, self.hidden_dim // 2)
            value = _FIELDS[name](name, value)
            sizes = {**self.__dict__, name: value}
            for smaller in ("k", "k_aux"):
                if sizes.get(smaller, 0) > sizes.get("hidden_dim", 0):
                    raise ValueError(
                        f"`{smaller}` ({sizes[smaller]}) must not exceed `hidden_dim` ({sizes['hidden_dim']}). "
                        f"Lower {smaller} or raise hidden_dim."
                    )
        elif name not in _OF_TRANSFORMERS:
            _refuse_misspelt([name])
        super().__setattr__(name, value)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Check all values again, since lists and mappings can be changed in place, and write config.json.

        Raises:
            ValueError: as the class does; nothing is written.
        """
        self.csr_hf_version = VERSION
        for name in _FIELDS:
            setattr(self, name, getattr(self, name))
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json; the old `model_type` of a head becomes the present one. Otherwise as in transformers.

        Raises:
            OSError: if there is none.
            ValueError: if it is no mapping, or nested deeply.
        """
        try:
            config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
            if not config:  # As transformers has it for a folder without the file.
                raise FileNotFoundError(f"{pretrained_model_name_or_path} has no config.json. Save the head again.")
            return _renew(config), unused
        except (RecursionError, AttributeError, TypeError) as error:
            raise ValueError(f"config.json of {pretrained_model_name_or_path} is no mapping of settings.") from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of what config.json says, and of fields in `kwargs` that replace it.

        Names that are no setting of a head and resemble none are left out, with a warning. So is, without one, what
        transformers knows of other models: code of other repositories, kernels, labels.

        Raises:
            ValueError: as the class does, or if a newer csr_hf saved settings that this one does not know.
        """
        refuse_unsupported(kwargs)
        given = {name: kwargs.pop(name) for name in _FIELDS if name in kwargs}
        settings = {**_renew(config_dict), **given}
        refuse_unsupported(settings)
        auto_map = _keep_own_code(settings.get("auto_map"))
        settings = {name: value for name, value in settings.items() if name in _KEPT or name not in _OF_TRANSFORMERS}
        if auto_map:
            settings["auto_map"] = auto_map
        for name in ("dtype", "torch_dtype"):
            _check_dtype(name, settings.get(name))
        unknown = sorted(settings.keys() - _FIELDS.keys() - _OF_TRANSFORMERS - _REFUSED.keys())
        _check_version(settings.get("csr_hf_version"), unknown)
        _refuse_misspelt([*unknown, *(name for name in kwargs if name not in _OF_TRANSFORMERS)])
        if unknown:
            logger.warning(f"a CSR head has no settings named {', '.join(unknown)}; they are left out.")
        return super().from_dict({name: value for name, value in settings.items() if name not in unknown}, **kwargs)


def _keep_own_code(auto_map: Any) -> dict[str, str]:
    """Keep what names the code of this class and of its model, in the repository that is read and in no other."""
    if not isinstance(auto_map, dict):
        return {}
    # transformers puts the repository before the name, with two hyphens.
    places = {name: str(place).rpartition("--")[2] for name, place in auto_map.items()}
    return {name: place for name, place in places.items() if AUTO_MAP.get(name) == place}


def refuse_unsupported(settings: dict[str, Any]) -> None:
    """Refuse what other models of transformers can do and a head cannot: quantization, normalized inputs.

    Args:
        settings: of a configuration, or options of `from_pretrained`.

    Raises:
        ValueError: if such an option is set.
    """
    for name, reason in _REFUSED.items():
        if settings.get(name):
            raise ValueError(f"`{name}`: {reason}")


def _check_version(saved: Any, unknown: list[str]) -> None:
    """Compare the version that saved a head with this one.

    Args:
        saved: of the configuration; None for heads that record none.
        unknown: settings that this version does not know.

    Raises:
        ValueError: if a newer one saved it, with such settings or another first number.
    """
    newer, own = _parse_version(saved), _parse_version(VERSION)
    if newer <= own:
        return
    if unknown or newer[0] > own[0]:
        named = f" and has settings that this one lacks: {', '.join(unknown)[:200]}" if unknown else ""
        raise ValueError(
            f"csr_hf {saved} saved this head, which is newer than this one, {VERSION}{named}. "
            "Update: pip install -U csr_hf."
        )
    logger.warning(f"csr_hf {saved} saved this head, which is newer than this one, {VERSION}: pip install -U csr_hf.")


def _parse_version(version: Any) -> tuple[int, ...]:
    """Return the first three numbers of a version; zeros for what is none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version) if isinstance(version, str) else None
    return tuple(int(number or 0) for number in found.groups()) if found else (0, 0, 0)


def _renew(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "model_type": CSRConfig.model_type} if config.get("model_type") == OLD_MODEL_TYPE else config


def _suggest(name: str, cutoff: float) -> str:
    """Say which setting a name resembles; an empty string if none."""
    near = difflib.get_close_matches(name.lower(), _FIELDS, 1, cutoff)
    return f"Did you mean `{near[0]}`?" if near else ""


def _refuse_misspelt(names: Iterable[str]) -> None:
    for name in names:
        # Only what can hardly be anything else: programs may keep notes of their own in a configuration.
        suggestion = _suggest(name, 0.8)
        if suggestion:
            raise ValueError(f"`{name}` is no setting of a CSR head. {suggestion}")


def _check_size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise ValueError(f"`{name}` ({value!r:.200}) must be a positive integer below 2**31.")
    return value


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError(
            f"`{name}` ({value!r:.200}) must be an integer, 0 or more and below 2**31 (0: no auxiliary loss)."
        )
    return value


def _check_switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` ({value!r:.200}) must be True or False.")
    return value


def _check_text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"`{name}` ({value!r:.200}) must be a string or None.")
    if value is not None and (len(value) > _LONGEST_NAME or not value.isprintable()):
        raise ValueError(f"`{name}` ({value!r:.200}) must be a name: one line of at most {_LONGEST_NAME} characters.")
    return value


def _check_word(name: str, value: Any) -> str | None:
    """Check what stands in code that readers of a card paste."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[\w./-]{1,200}", value, re.ASCII)):
        raise ValueError(f"`{name}` ({value!r:.200}) must be one word of letters, digits, '.', '/', '-' and '_'.")
    return value


def _check_dtype(name: str, value: Any) -> None:
    is_named = isinstance(value, str) and value.removeprefix("torch.") in _DTYPES
    # PyTorch's own type, which no file holds.
    if not (value is None or is_named or type(value).__name__ == "dtype"):
        raise ValueError(f"`{name}` ({value!r:.200}) must be one of {', '.join(_DTYPES)}.")


def _check_modalities(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    is_list = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if not is_list or not 2 <= len(value) <= _MOST_MODALITIES or len(set(value)) < len(value):
        raise ValueError(f"`{name}` ({value!r:.200}) must be two or more different names, or None for one modality.")
    for each in value:
        _check_word(name, each)
    return list(value)


def _check_settings(name: str, value: Any) -> dict[str, Any]:
    try:
        copied = json.loads(json.dumps({} if value is None else value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`{name}` must hold what JSON holds: {error}.") from error
    if not isinstance(copied, dict):
        raise ValueError(f"`{name}` ({value!r:.200}) must be a mapping of settings.")
    for key in _list_keys(copied):
        if key in _NEVER_RECORDED:
            raise ValueError(f"`{name}` holds `{key}`, which is never recorded. Remove it; give it when loading.")
    return copied


def _list_keys(value: Any) -> Iterable[str]:
    """List the keys of mappings, and of those inside of them."""
    yield from value if isinstance(value, dict) else ()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _list_keys(each)


def _check_fingerprints(name: str, value: Any) -> dict[str, str]:
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise ValueError(f"`{name}` ({value!r:.200}) must be a mapping of strings to strings.")
    return value


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "input_dim": _check_size,
    "hidden_dim": _check_size,
    "k": _check_size,
    "k_aux": _check_count,
    "dead_threshold": _check_size,
    "tied_decoder": _check_switch,
    "base_model_name_or_path": _check_text,
    "base_model_revision": _check_word,
    "base_model_settings": _check_settings,
    "modalities": _check_modalities,
    "fingerprints": _check_fingerprints,
    "csr_hf_version": _check_word,
}
