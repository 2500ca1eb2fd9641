"""Describe what a folder or file holds, in a few lines: the answer of `csr-hf info`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from csr_hf.code_files import read_format
from csr_hf.evaluation.results import Results, Row, find_other_head
from csr_hf.heads import is_head_config, load_head
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder


class Description(NamedTuple):
    """What a path holds, for programs and for readers."""

    facts: dict[str, Any]
    """`kind`, `path` and what there is to say of that kind."""
    lines: list[str]


def examine(path: str | Path) -> Description:
    """Describe a run, a head, an index, an embedding cache, results, a coder, or a file of codes.

    Raises:
        ValueError: if the path does not exist, is damaged, or is nothing that csr_hf writes.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist. Give the path of something that csr_hf wrote.")
    for kind, is_kind, describe_kind in _KINDS:
        if is_kind(path):
            facts, lines = describe_kind(path)
            return Description({"kind": kind, "path": path, **facts}, lines)
    raise ValueError(
        f"{path} is not a run, model, index, embedding cache, results, coder or file of codes. Give the path of "
        "something that csr_hf wrote."
    )


def _describe_run(path: Path) -> Description:
    folder = RunFolder.of(path)
    parts = {"head": _describe_model(folder.model)}
    if folder.index.is_dir():
        parts["index"] = _describe_index(folder.index)
    if folder.results.is_file():
        other = find_other_head(folder.results, load_head(open_repository(path)).fingerprint)
        parts["results"] = Description({"left_out": other}, [f"results {other}"]) if other else _describe_results(path)
    lines = [f"  {line}" for part in parts.values() for line in part.lines]
    return Description({name: part.facts for name, part in parts.items()}, [f"run {path}", *lines])


def _describe_unfinished(path: Path) -> Description:
    """Describe a run without a head, or a sweep without results: it was interrupted, or is at work."""
    from csr_hf.runs.state import RunState

    state = RunState.read(RunFolder.of(path))
    kind = state.kind if state else "a run"
    nothing = "results" if kind == "a sweep" else "head"
    return Description(
        {"begun": kind}, [f"{kind} in {path}, not finished: no {nothing} yet. The same command goes on with it."]
    )


def _describe_model(path: Path) -> Description:
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
    facts = {
        "input_dim": config.input_dim,
        "hidden_dim": config.hidden_dim,
        "k": config.k,
        "modalities": config.modalities,
        "tied_decoder": config.tied_decoder,
        "bytes": size,
        "backbone": config.base_model_name_or_path,
        "backbone_revision": config.base_model_revision,
        "backbone_settings": config.base_model_settings,
        "holds_backbone": (path / "modules.json").is_file(),
    }
    encodes = f" of {' and '.join(config.modalities)}" if config.modalities else ""
    head = (
        f"head {path}: {config.input_dim} -> {config.hidden_dim} latents{encodes}, k {config.k}, "
        f"{'tied' if config.tied_decoder else 'untied'} decoder, {size / 1e6:.1f} MB"
    )
    return Description(facts, [head, f"  {_name_backbone(facts)}"])


def _name_backbone(facts: dict[str, Any]) -> str:
    """Say which embedding model a head belongs to, and where it is."""
    settings = f", settings {json.dumps(facts['backbone_settings'])}" if facts["backbone_settings"] else ""
    if facts["backbone"] is not None:
        return f"backbone {facts['backbone']}, revision {facts['backbone_revision'] or 'unknown'}{settings}"
    return f"backbone {'in this folder' if facts['holds_backbone'] else 'not named'}{settings}"


def _describe_index(path: Path) -> Description:
    from csr_hf.runs.index_recall import describe_size
    from csr_hf.search.index import InvertedIndex

    index = InvertedIndex.load(path)
    facts = {
        "documents": len(index),
        "k": index.k,
        "latents": index.dim,
        "copies": list(index.copies),
        "head": index.head,
        "bytes_per_document": index.bytes_per_document,
        "table_bytes": index.table_bytes,
        "partitions": index.partitions,
        "nprobe": index.nprobe,
        "candidates": index.candidates,
        "segments": index.segments,
    }
    lines = [
        f"index {path}: {len(index):,} documents, k {index.k} of {index.dim} latents, head {index.head}",
        f"  {describe_size(index)}",
        f"  {index.partitions:,} partitions, of which a search visits {index.nprobe:,} and reranks "
        f"{index.candidates:,} documents; segments: {index.segments}",
    ]
    return Description(facts, lines)


def _describe_cache(path: Path) -> Description:
    from csr_hf.embedding.cache import EmbeddingCache

    cache = EmbeddingCache.load(path)
    origin = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["origin"]
    lines = [
        f"embedding cache {path}: {len(cache):,} x {cache.dim}, {origin['dtype']}",
        f"  backbone {origin['backbone']}, prompt {origin['prompt']!r}, at most {origin['max_seq_length']} tokens",
    ]
    return Description({"rows": len(cache), "dim": cache.dim, **origin}, lines)


def _describe_results(path: Path) -> Description:
    results = Results.load(path)
    lines = []
    for task in dict.fromkeys(row.task for row in results.rows):
        rows = results.select(task=task)
        rows = [row for row in rows if row.metric == rows[0].metric]
        best = max((row for row in rows if row.k), key=lambda row: (row.k or 0, row.retention), default=None)
        lines.append(f"results {task}: {len(results.select(task=task))} figures{_describe_row(best) if best else ''}")
    return Description({"rows": [dataclasses.asdict(row) for row in results.rows]}, lines)


def _describe_row(row: Row) -> str:
    queries = f" on {row.n_queries:,} {row.unit}" if row.n_queries is not None else ""
    return (
        f": {row.method} at k={row.k}, {row.bytes_per_vector:,} bytes a document, keeps {row.shown()[1]} of "
        f"{row.metric}{queries}"
    )


def _describe_codes(path: Path) -> Description:
    from csr_hf.sparse_codes import SparseCodes

    codes = SparseCodes.load(path)
    facts = {
        "rows": len(codes),
        "k": codes.k,
        "latents": codes.dim,
        "dtype": codes.values.dtype.name,
        "head": codes.head_fingerprint,
    }
    line = f"sparse codes {path}: {codes}, values {codes.values.dtype}, head {codes.head_fingerprint or 'unknown'}"
    return Description(facts, [line])


def _describe_packed(path: Path) -> Description:
    from csr_hf.coding.packing import PackedCodes

    codes = PackedCodes.load(path)
    facts = {
        "rows": len(codes),
        "k": codes.k,
        "latents": codes.dim,
        "bits": codes.bits,
        "bytes_per_row": codes.bytes_per_row,
        "residual_bytes": codes.bytes_per_row - codes.row_bytes,
        "head": codes.head_fingerprint,
    }
    return Description(facts, [f"packed codes {path}: {codes}, head {codes.head_fingerprint or 'unknown'}"])


def _describe_compact(path: Path) -> Description:
    from csr_hf.coding.compact import CompactCodes

    codes = CompactCodes.load(path)
    facts = {
        "rows": len(codes),
        "bytes_per_row": codes.bytes_per_row,
        "residual_bytes": codes.bytes_per_row - codes.row_bytes,
        "coder": codes.coder,
        "head": codes.head_fingerprint,
    }
    line = f"compact codes {path}: {codes}, coder {codes.coder}, head {codes.head_fingerprint or 'unknown'}"
    return Description(facts, [line])


def _describe_coder(path: Path) -> Description:
    from csr_hf.code_files import open_codes, read_head

    with open_codes(path) as file:
        metadata = file.metadata()
    try:
        row_bytes, residual, head = int(metadata["row_bytes"]), int(metadata["residual_bytes"]), read_head(metadata)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no file of a coder ({error}). Save it again.") from error
    facts = {"bytes": row_bytes + residual, "residual_bytes": residual, "head": head}
    parts = f"{row_bytes + residual} bytes an embedding, {residual} of them residual"
    return Description(facts, [f"coder {path}: {parts}, for head {facts['head']}; csr_hf.load_coder reads it"])


def _is_coder(path: Path) -> bool:
    from csr_hf.coding.coder import Coder
    from csr_hf.coding.compact_coder import CompactCoder

    return path.is_file() and read_format(path) in (Coder.format, CompactCoder.format)


def _is_packed(path: Path) -> bool:
    from csr_hf.coding.packed_files import PACKED_FORMAT

    return path.is_file() and read_format(path) == PACKED_FORMAT


def _is_compact(path: Path) -> bool:
    from csr_hf.coding.compact import COMPACT_FORMAT

    return path.is_file() and read_format(path) == COMPACT_FORMAT


def _is_sparse(path: Path) -> bool:
    from csr_hf.sparse_codes import SPARSE_FORMAT

    return path.suffix == ".safetensors" or (path.is_file() and read_format(path) == SPARSE_FORMAT)


def _is_index(path: Path) -> bool:
    from csr_hf.search.manifest import has_manifest

    return path.is_dir() and has_manifest(path)


def _is_results(path: Path) -> bool:
    return path.name == RunFolder.of(path.parent).results.name or RunFolder.of(path).results.exists()


_KINDS: list[tuple[str, Callable[[Path], bool], Callable[[Path], Description]]] = [
    ("run", lambda path: RunFolder.of(path).model_config.is_file(), _describe_run),
    ("head", lambda path: (path / "config.json").is_file(), _describe_model),
    ("embedding cache", lambda path: path.is_dir() and any(path.glob("shard-*.arrow")), _describe_cache),
    ("results", _is_results, _describe_results),
    ("unfinished", lambda path: RunFolder.of(path).state.is_file(), _describe_unfinished),
    ("index", _is_index, _describe_index),
    ("packed codes", _is_packed, _describe_packed),
    ("compact codes", _is_compact, _describe_compact),
    ("coder", _is_coder, _describe_coder),
    ("codes", _is_sparse, _describe_codes),
]
