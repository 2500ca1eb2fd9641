"""Code of a model card that depends on how the backbone is used."""

from __future__ import annotations

import json
from typing import Any

from csr_hf.embedding.arguments import BackboneSettings


def render_assembly(config: dict[str, Any], base_model: str | None, repo_id: str) -> str:
    """Render the code that puts a backbone and a head which was published alone into a `SparseEncoder`, as `model`.

    What the config holds is written as literals, so that it is no code whatever it is.

    Args:
        config: the head's config.json.
        base_model: Hub id of the backbone.
        repo_id: of the head.

    Raises:
        ValueError: if `base_model_settings` of the config are wrong.
    """
    settings, modalities = read_settings(config, repo_id), config.get("modalities")
    native, package = ("Router", "base") if modalities else ("SparseAutoEncoder", "sparse_encoder")
    # CLIP gives texts and images norms of their own, so csr_hf scales embeddings of images and texts to unit norm.
    before = ["*backbone.children()", *(["Normalize()"] if modalities else [])]
    after = ["Normalize()"] if is_compared_by_cosine(settings) else []
    lines = [*_render_backbone(config, settings, base_model)]
    if settings.truncate_dim is not None:
        rows = f"torch.eye({settings.truncate_dim}, width)"
        lines += [
            "width = backbone.get_embedding_dimension()",
            f"cut = Dense(width, {settings.truncate_dim}, bias=False, activation_function=None, init_weight={rows})",
        ]
        before.append("cut")
    modules = ", ".join([*before, "head", *after])
    names = [name for name in ("Dense", "Normalize") if f"{name}(" in modules + "".join(lines)]
    imports = [
        *(["import torch"] if settings.truncate_dim is not None else []),
        "from sentence_transformers import SentenceTransformer, SparseEncoder",
        *([f"from sentence_transformers.sentence_transformer.modules import {', '.join(names)}"] if names else []),
        f"from sentence_transformers.{package}.modules import {native}",
    ]
    lines += [
        f"head = {native}.load({_literal(repo_id)}, {_literal(native)})",
        f"model = SparseEncoder(modules=[{modules}], prompts=prompts)",
        "head.float()  # sentence-transformers gave it the type of the backbone",
    ]
    return "\n".join([*imports, "", *lines])


def read_settings(config: dict[str, Any], name: str) -> BackboneSettings:
    """Read the settings of the backbone that a head's config records.

    Args:
        config: the head's config.json.
        name: of the repository, for errors.

    Raises:
        ValueError: if they are wrong.
    """
    return BackboneSettings.from_config(config.get("base_model_settings"), name)


def is_compared_by_cosine(settings: BackboneSettings) -> bool:
    """Tell whether codes are scaled to unit norm, so that their dot product is the cosine."""
    return settings.similarity in (None, "cosine")


def _render_backbone(config: dict[str, Any], settings: BackboneSettings, base_model: str | None) -> list[str]:
    """Render the lines that load the backbone with its settings, as `backbone`, and its `prompts`."""
    revision = config.get("base_model_revision")
    model = dict(settings.model_kwargs)
    if settings.dtype != "auto":
        model["dtype"] = settings.dtype
    options = {"revision": revision, "model_kwargs": model, "processor_kwargs": settings.processor_kwargs}
    given = "".join(f", {name}={_literal(value)}" for name, value in options.items() if value)
    lines = [f"backbone = SentenceTransformer({_literal(base_model)}{given})", "prompts = backbone.prompts"]
    chosen = {task: text for task, text in settings.prompts.items() if task in ("query", "document")}
    if chosen:
        lines[1] = f"chosen = {_literal(chosen)}"
        lines.append(
            "prompts = {**backbone.prompts, **{task: backbone.prompts.get(p, p) for task, p in chosen.items()}}"
        )
    if settings.max_seq_length is not None:
        lines.append(f"backbone.max_seq_length = {settings.max_seq_length}")
    return lines


def _literal(value: Any) -> str:
    """Write a value of JSON as a literal of Python, on one line and in ASCII."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
