"""What names all that counts in the folder of an index, and the names that its files may have.

Every name is checked before anything is opened: nothing outside of the folder can be named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csr_hf.plumbing.atomic import TEMPORARY
from csr_hf.search.segment_files import read_text

FORMAT = "csr_hf.inverted_index"
VERSION = 10
MANIFEST, PENDING, LOCK = "manifest.json", ".pending.json", ".lock"
_PENDING_FORMAT = "csr_hf.inverted_index.pending"
_STEM = r"[0-9a-f]{16}"
_NAME = re.compile(_STEM)
_ENDINGS = {"arrays": r"\.safetensors", "alive": rf"\.alive-{_STEM}\.safetensors", "documents": r"\.documents\.arrow"}
_FILES = {part: re.compile(_STEM + ending) for part, ending in _ENDINGS.items()}
_ANY_FILE = rf"{_STEM}({'|'.join(_ENDINGS.values())})"
_TEMPORARY_FILE = re.compile(rf"\.({_ANY_FILE}|manifest\.json|\.pending\.json){TEMPORARY}")
_LONGEST = 2**26


def has_manifest(folder: Path) -> bool:
    """Tell whether there is something of the name of a manifest."""
    return os.path.lexists(folder / MANIFEST)


def is_temporary(name: str) -> bool:
    """Tell whether a save names files so while it writes them."""
    return _TEMPORARY_FILE.fullmatch(name) is not None


def make_manifest(settings: dict[str, Any], segments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a manifest with its checksum.

    Args:
        settings: JSON values.
        segments: "name", "details", and for each of "arrays", "alive" and "documents" its file, size and checksum.
    """
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "settings": settings, "segments": segments}
    # As JSON gives it back: tuples are lists there.
    manifest = json.loads(json.dumps(manifest, allow_nan=False))
    manifest["checksum"] = checksum_of(manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not an index, of another version, or if the manifest is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no index folder {folder}. Write one with `InvertedIndex.save`.")
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise ValueError(f"{folder} is not an index: it has no {MANIFEST}. Write one with `InvertedIndex.save`.")
    try:
        text = read_text(path, _LONGEST)
    except ValueError as error:
        raise ValueError(f"{path} {error}: the index is damaged. Build it again.") from error
    try:
        manifest = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: the index is damaged. Build it again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is not an index: {MANIFEST} is of another format. Write one with `InvertedIndex.save`."
        )
    if manifest.get("version") != VERSION:
        found = ascii(manifest.get("version"))[:20]
        raise ValueError(f"{folder} is an index of version {found}; this library reads {VERSION}. Build it again.")
    checksum = manifest.pop("checksum", None)
    if checksum != checksum_of(manifest):
        raise ValueError(f"{path} does not match its checksum: the index is damaged. Build it again.")
    wrong = _find_wrong(manifest)
    if wrong:
        raise ValueError(f"{path} {wrong}: the index is damaged, or not to be trusted. Build it again.")
    return {**manifest, "checksum": checksum}


def files_of(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all files that a manifest names."""
    return (entry[part]["file"] for entry in manifest["segments"] for part in _FILES if entry[part] is not None)


def checksum_of(manifest: dict[str, Any]) -> str:
    """Hash all of a manifest but its checksum."""
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()


def make_pending(files: set[str]) -> dict[str, Any]:
    """Return a list of names that a save is about to write, as `read_pending` reads it."""
    return {"format": _PENDING_FORMAT, "files": sorted(files)}


def read_pending(folder: Path) -> set[str]:
    """Read the names of files that a save was about to write; none without a list.

    Raises:
        ValueError: for a file of somebody else in its place.
    """
    path = folder / PENDING
    if not os.path.lexists(path):
        return set()
    try:
        found = json.loads(read_text(path, _LONGEST))
        files = found["files"] if found["format"] == _PENDING_FORMAT else None
        if isinstance(files, list) and all(isinstance(one, str) and re.fullmatch(_ANY_FILE, one) for one in files):
            return set(files)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path} is no list of an index's files. Remove it, or choose another path.")


def _find_wrong(manifest: dict[str, Any]) -> str | None:
    """Say what is wrong in a manifest; None if nothing is."""
    settings, segments = manifest.get("settings"), manifest.get("segments")
    if set(manifest) != {"format", "version", "settings", "segments"}:
        return "has other keys than a manifest"
    if not isinstance(settings, dict) or not isinstance(segments, list):
        return "has no settings and segments"
    for entry in segments:
        wrong = _find_wrong_segment(entry)
        if wrong:
            return wrong
    names = [entry["name"] for entry in segments]
    files = list(files_of(manifest))
    return "names something twice" if len({*names}) < len(names) or len({*files}) < len(files) else None


def _find_wrong_segment(entry: Any) -> str | None:
    if not isinstance(entry, dict) or set(entry) != {"name", "details", *_FILES}:
        return "describes a segment by other keys than segments have"
    if not (isinstance(entry["name"], str) and _NAME.fullmatch(entry["name"])):
        return f"names a segment {ascii(entry['name'])[:80]}, as no index does"
    if not isinstance(entry["details"], dict):
        return "has a segment without details"
    for part, pattern in _FILES.items():
        described = entry[part]
        if described is None and part != "arrays":
            continue
        if not isinstance(described, dict) or set(described) != {"file", "bytes", "checksum"}:
            return f"does not describe the {part} of a segment"
        file, size = described["file"], described["bytes"]
        if not (isinstance(file, str) and pattern.fullmatch(file)):
            return f"names a file {ascii(file)[:80]}, as no index does"
        if type(size) is not int or size < 0 or not isinstance(described["checksum"], str):
            return f"has no size and checksum of {file}"
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
