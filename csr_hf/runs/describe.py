"""Describe what a folder or file holds, in a few lines: the answer of `csr-hf info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from csr_hf.evaluation.results import Results, Row, find_other_head
from csr_hf.heads import is_head_config, load_head
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder


def describe(path: str | Path) -> list[str]:
    """Return lines that describe a run, a head, an index, an embedding cache, results, or a file of sparse codes.

    Raises:
        ValueError: if the path does not exist, is damaged, or is nothing that csr_hf writes.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    for is_kind, describe_kind in _KINDS:
        if is_kind(path):
            return describe_kind(path)
    raise ValueError(f"{path} is not a run, model, index, embedding cache, results or file of sparse codes.")


def _describe_run(path: Path) -> list[str]:
    folder = RunFolder.of(path)
    lines = [f"run {path}", *("  " + line for line in _describe_model(folder.model))]
    if folder.index.is_dir():
        lines += ["  " + line for line in _describe_index(folder.index)]
    if folder.results.is_file():
        other = find_other_head(folder.results, load_head(open_repository(path)).fingerprint)
        lines += ["  " + line for line in ([f"results {other}"] if other else _describe_results(path))]
    return lines


def _describe_model(path: Path) -> list[str]:
    from csr_hf.configuration_csr import CSRConfig

    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"config.json of {path} is not JSON: {error}. Download or save it again.") from error
    is_native = isinstance(content, dict) and {"input_dim", "hidden_dim"} <= content.keys()
    if not is_native and not is_head_config(content):
        raise ValueError(f"{path} holds no CSR head: its config.json is that of another model. Give a head's folder.")
    config = CSRConfig.from_pretrained(path)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    settings = f", settings {json.dumps(config.base_model_settings)}" if config.base_model_settings else ""
    encodes = f" of {' and '.join(config.modalities)}" if config.modalities else ""
    return [
        f"head {path}: {config.input_dim} -> {config.hidden_dim} latents{encodes}, k {config.k}, "
        f"{'tied' if config.tied_decoder else 'untied'} decoder, {size / 1e6:.1f} MB",
        f"  backbone {config.base_model_name_or_path}, revision {config.base_model_revision or 'unknown'}{settings}",
    ]


def _describe_index(path: Path) -> list[str]:
    from csr_hf.search.index import InvertedIndex

    index = InvertedIndex.load(path)
    copies = f", {' and '.join(index.copies)} copies" if index.copies else ""
    return [
        f"index {path}: {len(index):,} documents, k {index.k} of {index.dim} latents{copies}, head {index.head}",
        f"  {index.bytes_per_vector:.0f} bytes a document, {index.postings_per_query:.2f} postings a document and "
        f"query, segments: {index.segments}",
    ]


def _describe_cache(path: Path) -> list[str]:
    from csr_hf.embedding.cache import EmbeddingCache

    cache = EmbeddingCache.load(path)
    origin = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["origin"]
    return [
        f"embedding cache {path}: {len(cache):,} x {cache.dim}, {origin['dtype']}",
        f"  backbone {origin['backbone']}, prompt {origin['prompt']!r}, at most {origin['max_seq_length']} tokens",
    ]


def _describe_results(path: Path) -> list[str]:
    results = Results.load(path)
    lines = []
    for task in dict.fromkeys(row.task for row in results.rows):
        rows = results.select(task=task)
        rows = [row for row in rows if row.metric == rows[0].metric]
        best = max((row for row in rows if row.k), key=lambda row: (row.k or 0, row.retention), default=None)
        lines.append(f"results {task}: {len(results.select(task=task))} figures{_describe_row(best) if best else ''}")
    return lines


def _describe_row(row: Row) -> str:
    low, high = row.retention_interval or (row.retention, row.retention)
    sure = f" ± {(high - low) / 2:.3f}" if low < high else ""
    queries = f" on {row.n_queries:,} queries" if row.n_queries is not None else ""
    return (
        f": {row.method} at k={row.k}, {row.bytes_per_vector:,} bytes a document, keeps {row.retention:.3f}{sure} of "
        f"{row.metric}{queries}"
    )


def _describe_codes(path: Path) -> list[str]:
    from csr_hf.sparse_codes import SparseCodes

    codes = SparseCodes.load(path)
    return [f"sparse codes {path}: {codes}, values {codes.values.dtype}, head {codes.head_fingerprint or 'unknown'}"]


def _is_index(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.json")) and not RunFolder.of(path).results.exists()


def _is_results(path: Path) -> bool:
    return path.name == RunFolder.of(path.parent).results.name or RunFolder.of(path).results.exists()


_KINDS: list[tuple[Callable[[Path], bool], Callable[[Path], list[str]]]] = [
    (lambda path: RunFolder.of(path).model_config.is_file(), _describe_run),
    (lambda path: (path / "config.json").is_file(), _describe_model),
    (lambda path: path.is_dir() and any(path.glob("shard-*.arrow")), _describe_cache),
    (_is_index, _describe_index),
    (_is_results, _describe_results),
    (lambda path: path.suffix == ".safetensors", _describe_codes),
]
