"""Measure what steering adds to the time of a search, on real rows of a run.

    python recipes/explain/steering_time.py runs/all-MiniLM-L6-v2_general_k32 recipes/results/steering_time.json

Searches are timed by the processor time of one thread, a query at a time, given as embeddings: plain ones and steered
ones by turns, the median of each.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from csr_hf import CSREncoder, InvertedIndex, SearchIndex
from csr_hf.coding.fitting import fit_index_coder
from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.folder import RunFolder
from csr_hf.search.params import SearchParams

_DOCUMENTS, _QUERIES = 150_000, 1_000


def main(run: str, output: str) -> None:
    """Index rows of the run's embeddings, search for others, and write medians in milliseconds."""
    encoder = CSREncoder.from_pretrained(run, device="cpu")
    rows = _read_rows(RunFolder.of(run).embeddings, encoder.head.config.input_dim)
    documents, queries = rows[:_DOCUMENTS], rows[_DOCUMENTS : _DOCUMENTS + _QUERIES]
    coder = fit_index_coder(encoder.head, documents, row_bytes=48, residual_bytes=128)
    index = SearchIndex(InvertedIndex.build(documents, coder), encoder, SearchParams(threads=1))
    codes = index.index.codes
    counts = np.bincount(codes.indices[codes.values > 0], minlength=codes.dim)
    order = np.argsort(counts)
    # Latents of three ranks: a rare one, the median, and one that a fiftieth of all has more often.
    rare, middle, often = (int(order[int(len(order) * share)]) for share in (0.1, 0.5, 0.98))
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "more": {"more": {middle: 0.3}},
        "more, 4 latents": {"more": {int(latent): 0.2 for latent in order[500:504]}},
        "without": {"without": [middle]},
        "without, 4 latents": {"without": [int(latent) for latent in order[500:504]]},
        "must, a rare latent": {"must": [rare]},
        "must, the median latent": {"must": [middle]},
        "must, a frequent latent": {"must": [often]},
    }
    for steer in ways.values():
        index.search(queries[0], 10, **steer)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for query in queries:
        for name, steer in ways.items():
            began = time.process_time_ns()
            index.search(query, 10, **steer)
            times[name].append((time.process_time_ns() - began) / 1e6)
    medians = {name: float(np.median(own)) for name, own in times.items()}
    found = [{"search": name, "ms": own, "times plain": own / medians["plain"]} for name, own in medians.items()]
    having = {"rare": int(counts[rare]), "median": int(counts[middle]), "frequent": int(counts[often])}
    content = {**provenance(), "documents": len(documents), "queries": len(queries), "documents with a latent": having}
    Path(output).write_text(json.dumps({**content, "rows": found}, indent=1) + "\n", encoding="utf-8")
    for each in found:
        sys.stdout.write(f"{each['search']:28} {each['ms']:.3f} ms  {each['times plain']:.2f}\n")


def _read_rows(folder: Path, width: int) -> np.ndarray:
    """Read embeddings of the caches beside a run until there are enough, and mix them."""
    parts: list[np.ndarray] = []
    for path in sorted(folder.iterdir()):
        cache = EmbeddingCache.load(path)
        if cache.dim == width and len(cache) >= 1000:
            parts.append(cache.to_numpy())
        if sum(map(len, parts)) >= 2 * (_DOCUMENTS + _QUERIES):
            break
    rows = np.unique(np.concatenate(parts).astype(np.float32), axis=0)
    return np.asarray(np.random.default_rng(0).permutation(rows)[: _DOCUMENTS + _QUERIES], np.float32)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    record_command(" ".join(["python", *sys.argv]))
    main(*sys.argv[1:])
