"""An index as a folder: a folder of .npy files for every segment, and a manifest that names all that counts.

Files are never changed once they are written. A save adds what is new under new names, then exchanges the manifest in
one step, then removes what no manifest names any more: whenever it is killed, the manifest that stands is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csr_hf.plumbing.atomic import TEMPORARY, write_whole

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None  # type: ignore[assignment]

FORMAT = "csr_hf.inverted_index"
VERSION = 6
_MANIFEST = "manifest.json"
_ALIVE = "alive"
_LOCK = ".lock"
_FLAT = "decoded_norms|documents|ids|indices|inverse_norms|scale|starts|values|weights"
_OWN = re.compile(rf"\.lock|\.?[0-9a-f]{{16}}({TEMPORARY})?|\.?manifest\.json({TEMPORARY})?|({_FLAT})\.npy")
"""Names that saves give: segments, their temporary names, and arrays of versions 1 and 2."""


class StoredSegment(NamedTuple):
    """What is kept of a segment."""

    name: str
    """Unique for ever: another segment never gets it."""
    arrays: dict[str, np.ndarray]
    """By name; they never change."""
    alive: np.ndarray | None
    """bool, shape (n,); None while no document is deleted."""
    details: dict[str, Any]
    """JSON values."""


def save_folder(folder: str | Path, segments: Callable[[], Sequence[StoredSegment]], settings: dict[str, Any]) -> None:
    """Write segments and settings to a folder; an index already there is replaced once the new one is complete.

    Args:
        folder: where to write; it and its parents are created. Files in it that are not of an index stay.
        segments: gives them once no other process or thread writes to the folder. Those it holds already are not
            written again.
        settings: JSON values kept in the manifest.

    Raises:
        ValueError: if the path holds something that is not an index; it is left alone.
        OSError: if writing fails; an index already there is left as it was.
    """
    folder = Path(folder).resolve()
    _refuse_foreign(folder)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            try:
                _write(folder, segments(), settings, _earlier(folder))
            finally:
                _remove_unnamed(folder)
    except BaseException:
        if fresh and not (folder / _MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def load_folder(
    folder: str | Path, *, mmap: bool = True, verify: bool = False
) -> tuple[list[StoredSegment], dict[str, Any]]:
    """Read what `save_folder` wrote: segments of read-only arrays, and the settings.

    Args:
        folder: the index.
        mmap: map the files into memory instead of reading them.
        verify: compare every file with its checksum.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not an index, of another version, or if a file is missing, damaged or of another size.
    """
    folder = Path(folder)
    while True:
        manifest = _read_manifest(folder)
        try:
            return [_read_segment(folder, entry, mmap, verify) for entry in manifest["segments"]], manifest["settings"]
        except (ValueError, FileNotFoundError):
            # Another process may have saved meanwhile, and removed what this manifest named.
            if _read_manifest(folder) == manifest:
                raise


def _read_segment(folder: Path, entry: dict[str, Any], mmap: bool, verify: bool) -> StoredSegment:
    place = folder / entry["name"]
    arrays = {name: _read(place / f"{name}.npy", file, mmap, verify) for name, file in entry["files"].items()}
    alive = None if entry["alive"] is None else _read(place / entry["alive"]["file"], entry["alive"], False, True)
    return StoredSegment(entry["name"], arrays, alive, entry["details"])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, of all processes and threads; without effect where there is no flock."""
    if fcntl is None:
        yield
        return
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_foreign(folder: Path) -> None:
    """Raise for a path that is not an index, empty, or what a killed first save left."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; an index is a folder. Choose another path.")
    if all(_OWN.fullmatch(path.name) for path in folder.iterdir()) and not (folder / _MANIFEST).exists():
        return
    try:
        _read_manifest(folder, any_version=True)
    except ValueError as error:
        raise ValueError(
            f"{folder} is not empty and not an index, so it is not replaced. Choose another path."
        ) from error


def _earlier(folder: Path) -> dict[str, dict[str, Any]]:
    """Segments of the index in a folder by name, as far as they are whole."""
    try:
        manifest = _read_manifest(folder)
    except ValueError:
        return {}
    return {
        entry["name"]: entry for entry in manifest["segments"] if _is_whole(folder / entry["name"], entry["files"])
    }


def _is_whole(place: Path, files: dict[str, dict[str, Any]]) -> bool:
    found = {path.name: path.stat().st_size for path in place.glob("*.npy")}
    return all(found.get(f"{name}.npy") == entry["bytes"] for name, entry in files.items())


def _write(
    folder: Path, segments: Sequence[StoredSegment], settings: dict[str, Any], earlier: dict[str, dict[str, Any]]
) -> None:
    entries = []
    for segment in segments:
        place = folder / segment.name
        files = earlier.get(segment.name, {}).get("files")
        if files is None:
            with write_whole(place) as temporary:
                temporary.mkdir()
                files = {name: _save(temporary / f"{name}.npy", array) for name, array in segment.arrays.items()}
        alive = None if segment.alive is None else _save_alive(place, segment.alive)
        entries.append({"name": segment.name, "files": files, "alive": alive, "details": segment.details})
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "settings": settings, "segments": entries}
    # As JSON gives it back: tuples are lists there.
    manifest = json.loads(json.dumps(manifest))
    manifest["checksum"] = _checksum(manifest)
    with write_whole(folder / _MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _save_alive(place: Path, alive: np.ndarray) -> dict[str, Any]:
    # Named after its content: another one never takes its place.
    name = f"{_ALIVE}-{hashlib.blake2b(alive.tobytes(), digest_size=8).hexdigest()}.npy"
    with write_whole(place / name) as temporary:
        return {"file": name, **_save(temporary, alive)}


def _save(path: Path, array: np.ndarray) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {
        "bytes": path.stat().st_size,
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "checksum": _file_checksum(path),
    }


def _read(path: Path, entry: dict[str, Any], mmap: bool, verify: bool) -> np.ndarray:
    size = path.stat().st_size if path.is_file() else None
    shown = f"{path.parent.name}/{path.name}"
    if size != entry["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
        raise ValueError(f"the index {path.parent.parent} is incomplete: {shown} {found}. Copy or build it again.")
    damaged = f"the index {path.parent.parent} is damaged: {shown}"
    if verify and _file_checksum(path) != entry["checksum"]:
        raise ValueError(f"{damaged} does not match its checksum. Copy or build it again.")
    array: np.ndarray = np.load(path, mmap_mode="r" if mmap and 0 not in entry["shape"] else None, allow_pickle=False)
    if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise ValueError(f"{damaged} is {array.dtype} {array.shape}. Build it again.")
    array.flags.writeable = False
    return array


def _remove_unnamed(folder: Path) -> None:
    """Remove what saves made and the manifest does not name; what others put into the folder stays."""
    named = {}
    if (folder / _MANIFEST).exists():
        try:
            named = {entry["name"]: entry["alive"] for entry in _read_manifest(folder)["segments"]}
        except ValueError:
            # Of another version: the save failed before it could replace it. A later one cleans up.
            return
    for path in folder.iterdir():
        if path.name in named:
            marks = named[path.name]
            for mark in [*path.glob(f"{_ALIVE}-*.npy"), *path.glob(f".{_ALIVE}-*")]:
                if marks is None or mark.name != marks["file"]:
                    mark.unlink(missing_ok=True)
        elif path.name not in (_MANIFEST, _LOCK) and _OWN.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
