"""The manifest of an embedding cache: what its files are, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from csr_hf.embedding.shards import way_out
from csr_hf.plumbing.atomic import write_whole

MANIFEST = "manifest.json"
"""The file that completes a cache."""
FORMAT = "csr_hf.embeddings/1"
"""What a manifest says that it describes."""

_CHECKSUM = "checksum"


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, whole, with a checksum of what it says."""
    with write_whole(folder / MANIFEST) as temporary:
        text = json.dumps({**manifest, _CHECKSUM: _hash(manifest)}, indent=2)
        temporary.write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check it.

    Raises:
        ValueError: if there is none, or it is damaged, or describes something else, or names files elsewhere.
    """
    path = folder / MANIFEST
    if not path.is_file():
        found = "unfinished: embed again to go on" if any(folder.glob("shard-*.arrow")) else "not an embedding cache"
        raise ValueError(f"{folder} is {found} (no {MANIFEST}).")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is corrupt: {str(error)[:120]}. {way_out(folder)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe an embedding cache ({FORMAT}). {way_out(folder)}")
    said = manifest.pop(_CHECKSUM, None)
    wrong = _find_wrong(manifest)
    # Older caches have no checksum.
    if wrong or (said is not None and said != _hash(manifest)):
        raise ValueError(f"{path} is corrupt: {wrong or 'its checksum does not fit'}. {way_out(folder)}")
    return manifest


def _hash(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=12).hexdigest()


def _find_wrong(manifest: dict[str, Any]) -> str:
    """Name what is missing or of another kind; nothing where all is right."""
    shards = manifest.get("shards")
    if not isinstance(manifest.get("fingerprint"), str) or not _is_count(manifest.get("dim"), 1):
        return "its fingerprint is no text, or its dim no number"
    if not isinstance(shards, list) or not shards or not all(isinstance(shard, dict) for shard in shards):
        return "it has no list of shards"
    for number, shard in enumerate(shards):
        # No other name is a file of this folder that `embed_dataset` wrote.
        name = shard.get("file")
        if not isinstance(name, str) or not re.fullmatch(r"shard-[0-9]{5,9}\.arrow", name):
            return f"shard {number} is called {name!r:.40}"
        if not all(_is_count(shard.get(name), least) for name, least in (("rows", 1), ("bytes", 1), ("crc32", 0))):
            return f"shard {number} has other numbers than rows, bytes and a checksum"
    return ""


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**48
