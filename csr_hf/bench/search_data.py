"""What a search contest is held on: real embeddings, jittered up to the size wanted, and the exact answers.

Isotropic noise would be easier to make, but lies in no model's space: real embeddings fill a few directions out of
many, and codes and quantizers are fitted to those. On isotropic noise all of them do badly alike, graphs too, and
nothing is learnt of how they do on embeddings. So the noise has the covariance of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.evaluation.neighbors import unit_rows

if TYPE_CHECKING:
    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.embedding.backbone import Backbone

TOP_K = 10
"""Documents that every query asks for."""
_CHUNK = 16_384
_ARRAYS = (".npy", ".npz")
_MAX_CHARACTERS = 300


@dataclass(frozen=True)
class SearchData:
    """Documents, queries and the right answers."""

    documents: np.ndarray
    """Of unit norm, float32, shape (n, dim), memory-mapped."""
    queries: np.ndarray
    """Real embeddings that no document was made of, unit norm, float32, shape (m, dim)."""
    neighbors: np.ndarray
    """Positions of the dense exact top 10 of each query, best first, int64, shape (m, 10)."""
    origin: dict[str, Any]
    """Where they come from."""


def make_data(rows: np.ndarray, documents: int, queries: int, jitter: float, seed: int, folder: Path) -> SearchData:
    """Split real embeddings into queries and seeds, and jitter the seeds up to the size wanted.

    Args:
        rows: real embeddings, shape (r, dim).
        documents: how many to make.
        queries: how many to keep out; at most half of the rows.
        jitter: length of the noise that is added to a seed of unit norm.
        seed: of the split and of the noise.
        folder: where the documents' file goes.

    Raises:
        ValueError: for sizes out of range, or too few rows.
    """
    if documents < TOP_K:
        raise ValueError(f"`documents` ({documents}) must be at least {TOP_K}.")
    if queries < 1 or jitter < 0:
        raise ValueError(f"`queries` ({queries}) must be at least 1 and `jitter` ({jitter}) not negative.")
    if 2 * queries > len(rows):
        raise ValueError(
            f"`queries` ({queries}) may be half of the real embeddings at most, and there are {len(rows)}. "
            "Ask for fewer, or give a larger --source."
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    asked, seeds = unit_rows(rows[order[:queries]]), unit_rows(rows[order[queries:]])
    made = jittered(seeds, documents, jitter, seed + 1, folder / "documents.npy")
    origin = {"rows": len(rows), "seeds": len(seeds), "jitter": jitter, "seed": seed}
    return SearchData(made, asked, exact_neighbors(asked, made), origin)


def jittered(seeds: np.ndarray, n: int, jitter: float, seed: int, path: Path) -> np.ndarray:
    """Documents near real ones: unit(s + jitter * unit(e)), e Gaussian with the covariance of the seeds.

    Seeds take turns, so that each has as many documents around it as any other. The cosine of a document and its seed
    is 1 / sqrt(1 + jitter²) on average, up to what the noise and the seed have in common.

    Args:
        seeds: of unit norm, float32, shape (s, dim).
        n: documents to make.
        jitter: length of the noise; 0 repeats the seeds.
        seed: of the noise.
        path: npy file to write; it stays mapped, memory holds one chunk.

    Returns:
        float32, shape (n, dim).
    """
    rng = np.random.default_rng(seed)
    covariance = np.cov(seeds.astype(np.float64), rowvar=False)
    variances, directions = np.linalg.eigh(np.atleast_2d(covariance))
    spread = (directions * np.sqrt(np.maximum(variances, 0))).T.astype(np.float32)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (n, seeds.shape[1]))
    for start in range(0, n, _CHUNK):
        chosen = np.arange(start, min(start + _CHUNK, n)) % len(seeds)
        noise = unit_rows(rng.standard_normal((len(chosen), len(spread)), np.float32) @ spread)
        made[start : start + _CHUNK] = unit_rows(seeds[chosen] + np.float32(jitter) * noise)
    made.flush()
    # A plain array over the same pages, which torch and the rivals know; whoever writes changes a copy of his own.
    return np.asarray(np.load(path, mmap_mode="c"))


def exact_neighbors(queries: np.ndarray, documents: np.ndarray, top_k: int = TOP_K) -> np.ndarray:
    """Positions of the largest inner products, best first, some documents at a time.

    Args:
        queries: float32, shape (m, dim).
        documents: float32, shape (n, dim).
        top_k: neighbors of a query, at most n.

    Returns:
        int64, shape (m, top_k).
    """
    import torch

    asked = torch.from_numpy(np.ascontiguousarray(queries))
    best = torch.full((len(queries), 0), 0.0)
    found = torch.zeros((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(documents), _CHUNK):
        part = torch.from_numpy(np.array(documents[start : start + _CHUNK]))
        scores, positions = torch.topk(asked @ part.T, min(top_k, len(part)), dim=1)
        best, found = torch.cat([best, scores], 1), torch.cat([found, positions + start], 1)
        best, kept = torch.topk(best, min(top_k, best.shape[1]), dim=1)
        found = torch.gather(found, 1, kept)
    return found.numpy()


def real_embeddings(
    source: str,
    config: CSRConfig,
    backbone: Callable[[], Backbone],
    output_dir: Path,
    *,
    limit: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> np.ndarray:
    """Embeddings of what `source` names, by comma: embedding caches, npy files, and texts, which are embedded.

    Args:
        source: "python-docs", files or folders of texts or embeddings, Hub ids of data sets of texts.
        config: of the head that will encode them.
        backbone: loads the head's backbone; called only if there are texts.
        output_dir: texts are cached in `embeddings/` beside it, as runs do.
        limit: rows of each source of texts; default all.
        say: told what happens.
        progress: show bars.

    Returns:
        float32, shape (n, input_dim).

    Raises:
        ValueError: for a source that cannot be read, or embeddings of another width than the head takes.
    """
    parts = []
    for name in filter(None, (entry.strip() for entry in source.split(","))):
        if (Path(name) / "manifest.json").is_file():
            parts.append(EmbeddingCache.load(name).to_numpy())
        else:
            parts += _embedded(name, config, backbone, output_dir, limit, say, progress)
    if not parts:
        raise ValueError(f"`source` ({source!r}) names nothing. Give a file, a folder or python-docs.")
    for part in parts:
        if part.shape[1] != config.input_dim:
            raise ValueError(
                f"`source` {source} holds embeddings of width {part.shape[1]}, the head takes `input_dim` "
                f"{config.input_dim}. Give embeddings of the head's backbone."
            )
    return np.concatenate(parts).astype(np.float32)


def _embedded(
    name: str,
    config: CSRConfig,
    backbone: Callable[[], Backbone],
    output_dir: Path,
    limit: int | None,
    say: Callable[[str], None],
    progress: bool,
) -> list[np.ndarray]:
    """Embeddings of every role of a source that a recipe could name."""
    from csr_hf.runs import pipeline
    from csr_hf.runs.recipe import RunRecipe

    is_array = Path(name).suffix in _ARRAYS
    recipe = RunRecipe.from_dict(
        {
            "output_dir": str(output_dir),
            "data": {"source": name, "limit": limit, "max_characters": _MAX_CHARACTERS},
            "model": {"hidden_dim": config.hidden_dim, "k": config.k},
        }
    )
    loaded = None if is_array else backbone()
    embedded = pipeline.embed(recipe, say=say, progress=progress, backbone=loaded)
    return [source.embeddings(role) for source in embedded.sources for role in source.data.roles if role != "label"]
