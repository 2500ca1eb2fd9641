"""What a user says of a backbone: prompts, lengths, precision, and what is passed on to transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from csr_hf.plumbing.settings import from_mapping, settings, suggest

Task: TypeAlias = Literal["query", "document"]
"""What texts are embedded as, where a backbone tells queries from documents."""
Similarity: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]
"""How embeddings are compared, by sentence-transformers' names."""

TASKS_OF_ROLES: dict[str, Task | None] = {
    "anchor": "query",
    "positive": "document",
    "negative": "document",
    "text": "document",
    "image": None,
}
"""Role of a text in the data -> what it is embedded as."""

_Kinds: TypeAlias = Mapping[str, Any]
# Keywords that name files, repositories or code are missing on purpose: a config from the Hub may hold these.
_MODEL_KEYWORDS: _Kinds = {
    "attn_implementation": Literal[
        "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"
    ],
    "add_pooling_layer": bool,
    "default_task": Annotated[str, Field(pattern=r"^[\w.-]+$")],
}
_Side = Literal["left", "right"]
_Sizes = int | dict[str, int]
_PROCESSOR_KEYWORDS: _Kinds = {
    **dict.fromkeys(("padding_side", "truncation_side"), _Side),
    **dict.fromkeys(("model_max_length", "resample", "min_pixels", "max_pixels"), int),
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"), bool),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "use_fast", "clean_up_tokenization_spaces"), bool),
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), bool),
    **dict.fromkeys(("size", "crop_size"), _Sizes),
    **dict.fromkeys(("image_mean", "image_std"), list[float]),
    "rescale_factor": float,
}
_ELSEWHERE = {
    "trust_remote_code": "Only the caller says it: `trust_remote_code=True`, --trust-remote-code.",
    "dtype": "It is a setting of its own: `dtype`.",
    "torch_dtype": "It is a setting of its own: `dtype`.",
    "device_map": "Say `device`.",
    "max_length": "It is a setting of its own: `max_seq_length`.",
}
# Kernels of these are compiled for a machine, or fetched from the Hub where they are missing.
_PORTABLE_ATTENTION = ("eager", "sdpa")


@settings
class BackboneSettings:
    """How a backbone is loaded and how it embeds; every default is the model's own.

    Raises:
        ValueError: for a wrong value, a prompt of no role, or a keyword that is not passed on.
    """

    prompts: dict[str, str] = field(default_factory=dict)
    """What is put before texts. Key: query, document, or a role of the data (anchor, positive, negative, text); value:
    the name of one of the model's prompts, or the text itself."""
    max_seq_length: Annotated[int, Field(ge=1)] | None = None
    """Cut texts after this many tokens."""
    truncate_dim: Annotated[int, Field(ge=1)] | None = None
    """Keep this many dimensions of each embedding, the first ones (Matryoshka models)."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the weights; auto: as they are saved. Embeddings are float32 in any case."""
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed on to the model of transformers: attn_implementation, add_pooling_layer, default_task."""
    processor_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed on to the tokenizer and image processor of transformers, such as padding_side or do_resize."""
    similarity: Similarity | None = None
    """How embeddings are compared: cosine, dot, euclidean or manhattan."""

    def __post_init__(self) -> None:
        known = ["query", "document", *(role for role, task in TASKS_OF_ROLES.items() if task)]
        for key in self.prompts:
            if key not in known:
                raise ValueError(f"`prompts.{key}` is no task and no role. {suggest(key, known, prefix='prompts')}")
        _check_keywords("model_kwargs", self.model_kwargs, _MODEL_KEYWORDS)
        _check_keywords("processor_kwargs", self.processor_kwargs, _PROCESSOR_KEYWORDS)

    @classmethod
    def from_config(cls, content: Any, name: str) -> BackboneSettings:
        """Read what a head's config records as `base_model_settings`, which a stranger may have written.

        Args:
            content: of the config; None for nothing.
            name: of the head's repository, for errors.

        Raises:
            ValueError: for an unknown key or a wrong value.
        """
        if content is not None and not isinstance(content, Mapping):
            raise ValueError(f"`base_model_settings` of {name} ({content!r}) must be a mapping of settings.")
        try:
            found = from_mapping(cls, dict(content or {}))
        except ValueError as error:
            raise ValueError(f"`base_model_settings` of {name}: {error}") from None
        attention = found.model_kwargs.get("attn_implementation", "eager")
        if attention not in _PORTABLE_ATTENTION:
            raise ValueError(
                f"`base_model_settings` of {name}: `model_kwargs.attn_implementation` ({attention!r}) is for the "
                f"caller to say. A config may say {' or '.join(_PORTABLE_ATTENTION)}."
            )
        return found

    def changed(self, overrides: Mapping[str, Any]) -> BackboneSettings:
        """Return these settings with others in their place; prompts and keywords are merged key by key.

        Raises:
            ValueError: for an unknown key or a wrong value.
        """
        merged = self.keywords()
        for key, value in overrides.items():
            is_mapping = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
            merged[key] = {**merged[key], **value} if is_mapping else value
        return BackboneSettings(**merged)

    def keywords(self) -> dict[str, Any]:
        """Return all settings as the keywords of `load_backbone`."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(BackboneSettings)}

    def to_record(self) -> dict[str, Any]:
        """Return what is not a default, as a head's config records it.

        The implementation of attention is left out where it is a matter of the machine.
        """
        record = {}
        for entry in dataclasses.fields(BackboneSettings):
            value = getattr(self, entry.name)
            if entry.name == "model_kwargs" and value.get("attn_implementation") not in (None, *_PORTABLE_ATTENTION):
                value = {key: each for key, each in value.items() if key != "attn_implementation"}
            default = {} if entry.default_factory is not dataclasses.MISSING else entry.default
            if value != default:
                record[entry.name] = value
        return record

    def prompt_text(self, key: str, prompts: Mapping[str, str]) -> str | None:
        """Return the text of a prompt that the user chose; None where nothing is said of it.

        Args:
            key: query, document, or a role.
            prompts: of the model, by name.
        """
        chosen = self.prompts.get(key)
        return None if chosen is None else prompts.get(chosen, chosen)


def _check_keywords(name: str, given: Mapping[str, Any], kinds: _Kinds) -> None:
    for key, value in given.items():
        if key not in kinds:
            hint = _ELSEWHERE.get(key, f"{suggest(key, list(kinds))} For others load the model yourself: `Backbone`.")
            raise ValueError(f"`{name}.{key}` is not passed on. {hint}")
        try:
            TypeAdapter(kinds[key]).validate_python(value, strict=True)
        except ValidationError as error:
            rule = error.errors()[0]["msg"].removeprefix("Input ")
            raise ValueError(f"`{name}.{key}` ({value!r}): {rule}.") from None
