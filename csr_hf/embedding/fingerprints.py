"""Identify a sentence-transformers model by the weights and settings that its embeddings depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

_SAMPLES_PER_TENSOR = 4096


def digest_weights(model: SentenceTransformer) -> bytes:
    """Hash names, shapes, types and evenly spaced values of all tensors, 16 bytes.

    Up to 4096 to 8191 values of a tensor are read: enough to tell models apart, at a fraction of the time of all.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + sample.tobytes())
    return digest.digest()


def describe_settings(model: SentenceTransformer, default_prompt: str | None) -> str:
    """Describe what changes an embedding beside the weights: modules, prompts, lengths, and the processing of images.

    Args:
        model: the loaded model.
        default_prompt: the text before inputs without a prompt name; None for none.
    """
    # The settings that the first module saves name files; of those that change an embedding, the length is below.
    modules = [
        (type(module).__name__, _read_settings(module) if number else "") for number, module in enumerate(model)
    ]
    prompts = sorted((name, prompt or "") for name, prompt in model.prompts.items()), default_prompt
    settings = repr((modules, prompts, model.max_seq_length, model.truncate_dim))
    return settings + _describe_image_processing(model) if "image" in model.modalities else settings


def _read_settings(module: Module) -> str:
    """Read what a module saves of itself, such as its pooling mode, as JSON."""
    read: Callable[[], dict] = getattr(module, "get_config_dict", dict)
    return json.dumps(read(), sort_keys=True, default=str)


def _describe_image_processing(model: SentenceTransformer) -> str:
    """Describe how images are resized, cropped and scaled, as JSON."""
    processor = getattr(model[0], "processor", None)
    read = getattr(getattr(processor, "image_processor", processor), "to_dict", dict)
    return json.dumps(read(), sort_keys=True, default=str)
