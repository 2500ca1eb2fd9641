"""What mteb wants of a model beside its `encode`: a name for its results, and codes as its evaluators take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.embedding.backbone import Backbone

if TYPE_CHECKING:
    import torch
    from mteb.models.model_meta import ModelMeta

    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

MTEB_KEYWORDS = ("task_metadata", "hf_split", "hf_subset", "prompt_type")
"""What mteb says of a task when it calls `encode`."""


def make_meta(backbone: Backbone, head: CSRModel, name: str | None) -> ModelMeta:
    """Describe a backbone with a head so that mteb's cache keeps the results of every head, k and setting apart.

    Args:
        backbone: the frozen model.
        head: of this backbone.
        name: where the head was loaded from; None for one in memory.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    own = name or f"csr-{Path(backbone.name).name}"
    own = own if own.count("/") == 1 and not Path(own).exists() else f"local/{Path(own).name}"
    experiment = {"k": head.config.k, "backbone": backbone.fingerprint}
    fields = {
        "name": own,
        "revision": head.fingerprint,
        "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
        "embed_dim": head.config.hidden_dim,
        "modalities": list(reversed(backbone.modalities)),
        "max_tokens": backbone.model.max_seq_length,
        "framework": ["Sentence Transformers", "PyTorch"],
        "model_type": ["sparse"],
        "experiment_kwargs": experiment,
    }
    return ModelMeta.create_empty(overwrites=fields)


def encode_task(
    encode: Callable[..., SparseCodes], prompts: dict[str, str], batches: Iterable[Any], said: dict[str, Any]
) -> torch.Tensor | np.ndarray:
    """Encode the inputs of a task of mteb.

    Args:
        encode: of texts or images, with keywords `prompt` and `role`: "query", "document" or None.
        prompts: of the backbone, by name; one may be named like a task.
        batches: of mteb's loader, each with a column `text` or `image`.
        said: what mteb says of the task, see `MTEB_KEYWORDS`.

    Returns:
        A sparse tensor for a search, and for all else an array of shape (n, hidden_dim).
    """
    from mteb.models.abs_encoder import get_prompt_name
    from mteb.types import PromptType

    task, kind = said["task_metadata"], said.get("prompt_type")
    kind = None if kind is None else PromptType(kind)
    named = get_prompt_name(prompts, task, kind)
    gathered = list(batches)
    modality = "image" if gathered and "image" in gathered[0] and "text" not in gathered[0] else "text"
    inputs = [value for batch in gathered for value in batch[modality]]
    codes = encode(inputs, prompt=None if named is None else prompts[named], role=None if kind is None else kind.value)
    # Scores of a search are one product; other evaluators index, cluster or fit rows, which sparse tensors do not do.
    is_search = task.simplified_task_type == "retrieval" and "Reranking" not in task.type
    return codes.to_torch() if is_search else codes.to_torch("dense").numpy()
