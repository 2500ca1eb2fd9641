"""List the embedding caches of a folder, and remove them; files of others stay."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr_hf.embedding.cache_manifest import FORMAT, MANIFEST

_NAME = re.compile(r"[0-9a-f]{24}")
# What `embed_dataset` writes into a cache, and what it leaves there if it is killed.
_FILES = re.compile(r"manifest\.json|(piece-)?shard-[0-9-]+\.arrow|\.((piece-)?shard-|manifest\.).*")


@dataclass(frozen=True)
class CacheFolder:
    """One embedding cache, finished or not."""

    folder: Path
    files: tuple[Path, ...]
    """Those that csr_hf wrote."""
    size: int
    """Bytes of these files."""
    modified: float
    """When the newest of them was written, in seconds since 1970."""
    finished: bool
    backbone: str | None
    """None where it is not finished."""
    rows: int | None

    @property
    def days(self) -> float:
        """Days since it was written."""
        return max(0.0, (time.time() - self.modified) / 86_400)

    def remove(self) -> bool:
        """Remove the files that csr_hf wrote, the manifest first, and the folder if nothing else is in it.

        Returns:
            Whether the folder is gone.
        """
        # Without its manifest a cache is unfinished: a kill in between leaves nothing that looks whole.
        for path in sorted(self.files, key=lambda path: path.name != MANIFEST):
            path.unlink(missing_ok=True)
        if any(self.folder.iterdir()):
            return False
        self.folder.rmdir()
        return True


def find_caches(folder: str | Path) -> list[CacheFolder]:
    """Find the embedding caches in a folder, the newest first.

    Subfolders count that are named like a fingerprint and hold nothing but a manifest of csr_hf or shards. Links to
    folders do not.

    Args:
        folder: for example `runs/embeddings`.

    Raises:
        ValueError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, so no embeddings are in it. Name their folder with --cache-dir.")
    found = [_read(path) for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
    return sorted((cache for cache in found if cache is not None), key=lambda cache: -cache.modified)


def _read(folder: Path) -> CacheFolder | None:
    """Read what a cache says of itself; None for another folder."""
    if not folder.is_dir():
        return None
    files = tuple(path for path in folder.iterdir() if _FILES.fullmatch(path.name) and path.is_file())
    manifest = _read_manifest(folder / MANIFEST)
    if manifest is None or not files:
        return None
    stats = [path.stat() for path in files]
    origin = manifest.get("origin", {})
    return CacheFolder(
        folder,
        files,
        sum(stat.st_size for stat in stats),
        max(stat.st_mtime for stat in stats),
        finished=bool(manifest),
        backbone=origin.get("backbone"),
        rows=origin.get("rows"),
    )


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Read a manifest; {} where there is none yet, None where it is that of something else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_ours = isinstance(content, dict) and str(content.get("format")).startswith(FORMAT.rstrip("0123456789"))
    return content if is_ours and isinstance(content.get("origin"), dict) else None
