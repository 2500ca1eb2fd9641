"""Identify a sentence-transformers model by all that its embeddings depend on: weights, tokenizers and settings."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor
    from torch.nn import Module

# Keys of configs that say where a model lies or who wrote it, and differ between copies of it.
_ORIGINS = {
    *("_commit_hash", "_name_or_path", "architectures", "auto_map", "dtype", "gradient_checkpointing"),
    *("name_or_path", "processor_class", "torch_dtype", "transformers_version", "use_cache"),
}
_TOKENIZER_SETTINGS = ["add_bos_token", "add_eos_token", "chat_template"]
_TOKENIZER_SETTINGS += ["padding_side", "special_tokens_map", "truncation_side"]


def digest_weights(model: SentenceTransformer) -> bytes:
    """Hash names, shapes, types and every byte of all tensors, 32 bytes."""
    # Processors have instructions for it, so it is quicker here than blake2b.
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not hasattr(tensor, "dtype"):
            digest.update(repr((name, tensor)).encode())
            continue
        digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(_bytes_of(tensor))
    return digest.digest()


def digest_tokenizers(tokenizers: Sequence[Any]) -> bytes:
    """Hash what tokenizers do to a text: vocabularies, rules and settings, 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for tokenizer in tokenizers:
        settings = {name: getattr(tokenizer, name, None) for name in _TOKENIZER_SETTINGS}
        for part in (_serialize(tokenizer), json.dumps(settings, sort_keys=True, default=str).encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def find_tokenizers(model: SentenceTransformer) -> list[Any]:
    """List the tokenizers of a model, those of a router's towers too, in the order of the modules."""
    found: list[Any] = []
    for _, module in _parts(model):
        tokenizer = getattr(module, "tokenizer", None)
        if tokenizer is not None and not any(tokenizer is other for other in found):
            found.append(tokenizer)
    return found


def describe_settings(model: SentenceTransformer, default_prompt: str | None) -> str:
    """Describe what changes an embedding beside weights and tokenizers: modules, configs, prompts, lengths, images.

    Args:
        model: the loaded model.
        default_prompt: the text before inputs without a prompt name; None for none.
    """
    modules = [(name, type(module).__name__, _read_settings(module)) for name, module in _parts(model)]
    prompts = sorted((name, prompt or "") for name, prompt in model.prompts.items()), default_prompt
    return repr((modules, prompts, model.max_seq_length, model.truncate_dim))


def _parts(model: SentenceTransformer) -> Iterator[tuple[str, Module]]:
    """Yield the modules of a model and those inside a router, with their names."""
    from sentence_transformers.base.modules import Router

    for name, module in model.named_children():
        yield name, module
        if isinstance(module, Router):
            for route, tower in module.sub_modules.items():
                yield from ((f"{name}.{route}.{number}", inner) for number, inner in tower.named_children())


def _read_settings(module: Module) -> str:
    """Read what a module saves of itself (its pooling mode), its config of transformers, and how it sees images."""
    read: Callable[[], dict] = getattr(module, "get_config_dict", dict)
    config = getattr(getattr(module, "config", None), "to_diff_dict", dict)
    processor = getattr(module, "processor", None)
    images = getattr(getattr(processor, "image_processor", processor), "to_dict", dict)
    # A tokenizer alone has no settings of images.
    is_tokenizer = processor is not None and processor is getattr(module, "tokenizer", None)
    kinds = [read(), config(), {} if is_tokenizer else images(), getattr(module, "max_seq_length", None)]
    return json.dumps(_without_origins(kinds), sort_keys=True, default=str)


def _without_origins(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_origins(each) for key, each in value.items() if key not in _ORIGINS}
    return [_without_origins(each) for each in value] if isinstance(value, list | tuple) else value


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _serialize(tokenizer: Any) -> bytes:
    """Write a tokenizer as bytes, without what it remembers of its last call."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        # Padding and truncation of the last call come before the tokens.
        return backend.to_str().partition('"added_tokens"')[2].encode()
    # Tokenizers written in Python: the files that they save.
    save = getattr(tokenizer, "save_vocabulary", None) or getattr(tokenizer, "save", None)
    if save is None:
        return repr(type(tokenizer)).encode()
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return b"".join(hashlib.blake2b(path.read_bytes()).digest() for path in files)
