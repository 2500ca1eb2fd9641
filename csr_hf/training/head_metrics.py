"""Figures of a head on an even sample of the training embeddings: what a run reports when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.codes import modality_means
from csr_hf.data.sources import Source
from csr_hf.modeling_csr import CSRModel
from csr_hf.training.dead_latents import compute_dead_fractions
from csr_hf.training.rows import TrainingRows
from csr_hf.training.sparse_ops import Codes, compute_inner_products

_SAMPLE = 16_384
_QUERIES = 512
_NEIGHBORS = 10
_ENCODED_AT_A_TIME = 2048
_ROUNDING = 1e-12


@torch.inference_mode()
def measure_head(model: CSRModel, rows: TrainingRows, sample: int = _SAMPLE) -> dict[str, float]:
    """Measure a head at its k.

    Args:
        model: the head.
        rows: what it was trained on.
        sample: rows to look at.

    Returns:
        explained_variance: 1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2; not there if all rows are equal, for
            which it is not defined.
        dead_fraction: see `compute_dead_fractions`.
        active_latents: mean number of positive values in a code.
        postings_per_document: sum_j p_j^2 with p_j the share of codes that use latent j: the postings that a query
            touches for each document of an index.
        postings_per_document_if_even: k^2 / hidden_dim, the least possible of those.
        most_used_latent: the largest p_j.
        mean_to_spread: ||mean(x)|| / sqrt(mean ||x - mean(x)||^2), which predicts how many latents of a head are dead
            that starts at random (arXiv 2605.31518); not there if all rows are equal.
        neighbor_recall: share of the backbone's 10 nearest neighbors, among the sample, that are among the 10 nearest
            by the cosine of codes.
    """
    config = model.config
    chosen = np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(np.int64)
    embeddings = torch.from_numpy(rows.rows(chosen)).to(model.pre_bias)
    blocks = embeddings.split(_ENCODED_AT_A_TIME)
    encoded = [model.encode(block) for block in blocks]
    values, indices = (torch.cat(tensors) for tensors in zip(*encoded, strict=True))
    error = sum(
        float((model.decode(*codes) - block).pow(2).sum()) for codes, block in zip(encoded, blocks, strict=True)
    )
    mean = embeddings.mean(0)
    spread = float((embeddings - mean).pow(2).sum())
    # What rounding makes of equal rows is no variance.
    is_defined = spread > _ROUNDING * float(embeddings.pow(2).sum())
    of_variance = (
        {
            "explained_variance": 1 - error / spread,
            "mean_to_spread": float(mean.norm()) / math.sqrt(spread / len(chosen)),
        }
        if is_defined
        else {}
    )
    share = torch.bincount(indices[values > 0].flatten().cpu(), minlength=config.hidden_dim) / len(chosen)
    return {
        **of_variance,
        **compute_dead_fractions(model),
        "active_latents": float(share.sum()),
        "postings_per_document": float(share.pow(2).sum()),
        "postings_per_document_if_even": config.k**2 / config.hidden_dim,
        "most_used_latent": float(share.max()),
        "neighbor_recall": _compute_neighbor_recall(embeddings, Codes(values, indices), config.hidden_dim),
    }


def measure_held_out_variance(model: CSRModel, sources: Sequence[Source]) -> dict[str, float]:
    """Measure `held_out_explained_variance` on the rows of sources that are not marked as held out.

    Args:
        model: the head.
        sources: of a run, with `held_out` turned round.

    Returns:
        Empty where there are no two such rows, or all of them are equal.
    """
    if sum(int((~source.held_out).sum()) for source in sources) < 2:
        return {}
    found = measure_head(model, TrainingRows(sources, modality_means=modality_means(model)))
    return {f"held_out_{name}": value for name, value in found.items() if name == "explained_variance"}


def describe_variance(figures: dict[str, float]) -> str:
    """Word the explained variance of the rows that are held out, and beside it that of the rows trained on."""
    trained, held_out = figures.get("explained_variance"), figures.get("held_out_explained_variance")
    if trained is None:
        return "not defined, all rows are equal"
    return f"{trained:.3f}" if held_out is None else f"{held_out:.3f} of held-out rows ({trained:.3f} in training)"


def _compute_neighbor_recall(embeddings: torch.Tensor, codes: Codes, hidden_dim: int) -> float:
    count = min(_NEIGHBORS, len(embeddings) - 1)
    if count < 1:
        return 1.0
    queries = torch.linspace(0, len(embeddings) - 1, min(_QUERIES, len(embeddings))).long().to(embeddings.device)
    unit, codes = F.normalize(embeddings, dim=-1), codes.normalized()

    def find_nearest(similarities: torch.Tensor) -> torch.Tensor:
        similarities[torch.arange(len(queries)), queries] = -torch.inf
        return similarities.topk(count, dim=-1).indices

    query_codes = Codes(codes.values[queries], codes.indices[queries])
    neighbors = find_nearest(unit[queries] @ unit.t())
    found = find_nearest(compute_inner_products(query_codes, codes, hidden_dim))
    return float((neighbors[:, :, None] == found[:, None, :]).any(-1).float().mean())
