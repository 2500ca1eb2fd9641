"""An index as a folder: one .npy file per array and a manifest, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from csr_hf.atomic import written_whole

FORMAT = "csr_hf.inverted_index"
VERSION = 2
_MANIFEST = "manifest.json"


def save_folder(folder: str | Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Write arrays and settings to a folder; an index already there is replaced once the new one is complete.

    Args:
        folder: where to write; its parents are created.
        arrays: by name.
        settings: JSON values kept in the manifest.

    Raises:
        ValueError: if the path holds something that is not an index; it is left alone.
        OSError: if writing fails; an index already there is left as it was.
    """
    folder = Path(folder).resolve()
    _refuse_foreign(folder)
    with written_whole(folder) as temporary:
        temporary.mkdir()
        _write(temporary, arrays, settings)


def load_folder(folder: str | Path, *, mmap: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_folder` wrote: read-only arrays by name, and the settings.

    Args:
        folder: the index.
        mmap: map the files into memory instead of reading them.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not an index, of another version, or if a file is missing, damaged or of another size.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    arrays = {}
    for name, entry in manifest["files"].items():
        path = folder / f"{name}.npy"
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise ValueError(f"the index {folder} is incomplete: {path.name} {found}. Copy or build it again.")
        empty = 0 in entry["shape"]
        array = np.load(path, mmap_mode="r" if mmap and not empty else None, allow_pickle=False)
        if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
            raise ValueError(
                f"the index {folder} is damaged: {path.name} is {array.dtype} {array.shape}. Build it again."
            )
        array.flags.writeable = False
        arrays[name] = array
    return arrays, manifest["settings"]


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; an index is a folder. Choose another path.")
    if not any(folder.iterdir()):
        return
    try:
        _read_manifest(folder, any_version=True)
    except ValueError as error:
        raise ValueError(
            f"{folder} is not empty and not an index, so it is not replaced. Choose another path."
        ) from error


def _write(folder: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[name] = {"bytes": path.stat().st_size, "dtype": array.dtype.str, "shape": list(array.shape)}
    manifest = {"format": FORMAT, "version": VERSION, "settings": settings, "files": files}
    manifest["checksum"] = _checksum(manifest)
    with (folder / _MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(folder: Path, *, any_version: bool = False) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no index folder {folder}. Write one with `InvertedIndex.save`.")
    path = folder / _MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is not an index: it has no {_MANIFEST}. Write one with `InvertedIndex.save`.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: the index is damaged. Build it again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is not an index: {_MANIFEST} is of another format. Write one with `InvertedIndex.save`."
        )
    if any_version:
        return manifest
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{folder} is an index of version {manifest.get('version')}; this library reads {VERSION}. Build it again."
        )
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise ValueError(f"{path} does not match its checksum: the index is damaged. Build it again.")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()
