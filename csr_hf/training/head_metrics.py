"""What a run reports of its head, measured on an even sample of the training embeddings."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.modeling_csr import CSRModel
from csr_hf.training.rows import TrainingRows
from csr_hf.training.sparse_ops import Codes, inner_products

_SAMPLE = 16_384
_QUERIES = 512
_NEIGHBORS = 10
_BLOCK = 2048


@torch.inference_mode()
def measure(model: CSRModel, rows: TrainingRows, sample: int = _SAMPLE) -> dict[str, float]:
    """Figures of a head at its own k.

    Args:
        model: the head.
        rows: what it was trained on.
        sample: rows to look at.

    Returns:
        `explained_variance`; `dead_fraction`, of the latents by the training's clock; `active_latents` of a code;
        `postings_per_document`: sum_j p_j^2 with p_j the share of codes that use latent j, the number of postings a
        query touches for each document of the index (k^2 / hidden_dim, `postings_per_document_if_even`, is the least
        possible); `most_used_latent`, the largest p_j; `neighbor_recall`, the share of the backbone's 10 nearest
        neighbors, among the sample, that are the codes' 10 nearest too.
    """
    config = model.config
    chosen = np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(np.int64)
    embeddings = torch.from_numpy(rows.rows(chosen)).to(model.pre_bias)
    parts = [model.encode(part) for part in embeddings.split(_BLOCK)]
    values, indices = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    error = sum(
        float((model.decode(*codes) - part).pow(2).sum())
        for codes, part in zip(parts, embeddings.split(_BLOCK), strict=True)
    )
    spread = float((embeddings - embeddings.mean(0)).pow(2).sum())
    share = torch.bincount(indices[values > 0].flatten().cpu(), minlength=config.hidden_dim) / len(chosen)
    return {
        "explained_variance": 1 - error / max(spread, 1e-12),
        **dead_fractions(model),
        "active_latents": float(share.sum()),
        "postings_per_document": float(share.pow(2).sum()),
        "postings_per_document_if_even": config.k**2 / config.hidden_dim,
        "most_used_latent": float(share.max()),
        "neighbor_recall": _neighbor_recall(embeddings, Codes(values, indices), config.hidden_dim),
    }


def dead_fractions(model: CSRModel) -> dict[str, float]:
    """Share of the latents that have not fired for more than `dead_threshold` training examples.

    Returns:
        `dead_fraction`, and `dead_fraction_image` and the like, over the examples of each of several modalities.
    """
    limit = model.config.dead_threshold
    found = {"dead_fraction": float((model.stats_last_nonzero > limit).float().mean())}
    for number, name in enumerate(model.config.modalities or ()):
        found[f"dead_fraction_{name}"] = float((model.modality_last_nonzero[number] > limit).float().mean())
    return found


def _neighbor_recall(embeddings: torch.Tensor, codes: Codes, hidden_dim: int) -> float:
    count = min(_NEIGHBORS, len(embeddings) - 1)
    if count < 1:
        return 1.0
    queries = torch.linspace(0, len(embeddings) - 1, min(_QUERIES, len(embeddings))).long().to(embeddings.device)
    unit, codes = F.normalize(embeddings, dim=-1), codes.normalized()

    def nearest(similarities: torch.Tensor) -> torch.Tensor:
        similarities[torch.arange(len(queries)), queries] = -torch.inf
        return similarities.topk(count, dim=-1).indices

    asked = Codes(codes.values[queries], codes.indices[queries])
    wanted, found = nearest(unit[queries] @ unit.t()), nearest(inner_products(asked, codes, hidden_dim))
    return float((wanted[:, :, None] == found[:, None, :]).any(-1).float().mean())
