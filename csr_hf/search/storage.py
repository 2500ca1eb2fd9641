"""An index as a folder: one safetensors file for every segment, and a manifest that names all that counts.

Files are never changed once they are written. A save lists the names that it is about to write, adds what is new under
these names, exchanges the manifest in one step, then removes what the older manifest or the list names and the new
manifest does not: whenever it is killed, the manifest that stands is whole, and no other file is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.locks import lock_file
from csr_hf.search.manifest import (
    LOCK,
    MANIFEST,
    PENDING,
    files_of,
    has_manifest,
    is_temporary,
    make_manifest,
    make_pending,
    read_manifest,
    read_pending,
)
from csr_hf.search.segment_files import parse_arrays, read_content, write_arrays

if TYPE_CHECKING:
    import pyarrow as pa

Seen = MutableMapping[Path, str]
"""What an index knows of the folders that it was loaded from or saved to: the checksums of their manifests."""


class StoredSegment(NamedTuple):
    """What is kept of a segment."""

    name: str
    """16 hexadecimal digits, unique for ever: another segment never gets them."""
    arrays: dict[str, np.ndarray]
    """By name; they never change."""
    alive: np.ndarray | None
    """bool, shape (n,); None while no document is deleted."""
    details: dict[str, Any]
    """JSON values."""
    documents: pa.Table | None = None
    """Texts and metadata by position; they never change."""


class _Damaged(ValueError):
    """The manifest is whole, but a file that it names is not."""


def save_folder(
    folder: str | Path,
    segments: Callable[[], Sequence[StoredSegment]],
    settings: dict[str, Any],
    seen: Seen | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write segments and settings to a folder; an index already there is replaced once the new one is complete.

    Args:
        folder: where to write; it and its parents are created. Files in it that are not of an index stay.
        segments: gives them once no other process or thread writes to the folder. Those it holds already are not
            written again.
        settings: JSON values kept in the manifest.
        seen: of the index that is saved; the new manifest is added.
        overwrite: replace an index that `seen` does not know, with all its documents.

    Raises:
        ValueError: if the path holds something that is not an index, or an index that was saved by others since this
            one was loaded or saved; it is left alone.
        OSError: if writing fails; an index already there is left as it was.
    """
    folder, seen = Path(folder).resolve(), {} if seen is None else seen
    _refuse_foreign(folder)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_file(folder / LOCK):
            # Again: another process may have written here before the lock was free.
            _refuse_foreign(folder)
            earlier = read_manifest(folder) if has_manifest(folder) else None
            if earlier is not None and not overwrite and seen.get(folder) != earlier["checksum"]:
                raise ValueError(_unseen(folder, known=folder in seen))
            try:
                seen[folder] = _write(folder, segments(), settings, earlier)
            finally:
                _remove_unnamed(folder, earlier)
    except BaseException:
        if fresh:
            _remove_fresh(folder)
        raise


def load_folder(
    folder: str | Path,
    *,
    mmap: bool = True,
    verify: bool = False,
    documents: bool = False,
    check: Callable[[StoredSegment, dict[str, Any]], None] | None = None,
    seen: Seen | None = None,
) -> tuple[list[StoredSegment], dict[str, Any]]:
    """Read what `save_folder` wrote: segments of read-only arrays, and the settings.

    Args:
        folder: the index.
        mmap: map the files into memory instead of reading them.
        verify: compare every file with its checksum.
        documents: read texts and metadata too.
        check: raises ValueError for a segment and settings whose arrays contradict them or each other.
        seen: of the index that is loaded; the manifest is added.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not an index, of another version, or if a file is missing, damaged or of another size.
    """
    folder = Path(folder).resolve()
    while True:
        manifest = read_manifest(folder)
        try:
            found = []
            for entry in manifest["segments"]:
                segment = _read_segment(folder, entry, mmap=mmap, verify=verify, documents=documents)
                _check(folder, entry, check, segment, manifest["settings"])
                found.append(segment)
        except _Damaged as error:
            # Another process may have saved meanwhile, and removed what this manifest named.
            if read_manifest(folder)["checksum"] == manifest["checksum"]:
                raise ValueError(str(error)) from error
            continue
        if seen is not None:
            seen[folder] = manifest["checksum"]
        return found, manifest["settings"]


def new_name() -> str:
    """Return the name of a new segment."""
    return uuid.uuid4().hex[:16]


def _check(
    folder: Path,
    entry: dict[str, Any],
    check: Callable[[StoredSegment, dict[str, Any]], None] | None,
    segment: StoredSegment,
    settings: dict[str, Any],
) -> None:
    try:
        if check is not None:
            check(segment, settings)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        # JSON values of other kinds than expected give any of these.
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        reason = " ".join(reason.split())[:200]
        raise _damaged(folder, entry["arrays"]["file"], f"contradicts itself or the manifest: {reason}") from error


def _read_segment(folder: Path, entry: dict[str, Any], *, mmap: bool, verify: bool, documents: bool) -> StoredSegment:
    def read(part: str, *, mmap: bool = mmap, verify: bool = verify) -> Any:
        described = entry[part]
        try:
            content = read_content(folder / described["file"], described, mmap=mmap, verify=verify)
            if part != "documents":
                return parse_arrays(content)
            from csr_hf.search.documents import parse_documents

            return parse_documents(content)
        except ValueError as error:
            raise _damaged(folder, described["file"], str(error)) from error

    arrays = read("arrays")
    table = read("documents") if documents and entry["documents"] is not None else None
    alive = None
    if entry["alive"] is not None:
        marks = read("alive", mmap=False, verify=True)
        alive = marks.get("alive")
        if alive is None or len(marks) != 1 or alive.dtype != bool or alive.ndim != 1:
            raise _damaged(folder, entry["alive"]["file"], "holds no marks of deleted documents")
        # Any other byte would be a bool that is neither.
        alive = alive.view(np.uint8) == 1
    return StoredSegment(entry["name"], arrays, alive, entry["details"], table)


def _damaged(folder: Path, file: str, what: str) -> _Damaged:
    return _Damaged(f"the index {folder} is damaged: {file} {what}. Copy or build it again.")


def _unseen(folder: Path, *, known: bool) -> str:
    if known:
        return (
            f"{folder} was saved by another process since this index was loaded or saved: its documents would be "
            "lost. Load it again, and repeat what was added or deleted."
        )
    return (
        f"{folder} holds an index that this one was not loaded from: its documents would be lost. Load it and add to "
        "it, choose another folder, or pass `overwrite=True` to replace it."
    )


def _refuse_foreign(folder: Path) -> None:
    """Raise for a path that is not an index, empty, or what a killed first save left."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; an index is a folder. Choose another path.")
    if has_manifest(folder):
        try:
            read_manifest(folder)
        except ValueError as error:
            raise ValueError(f"{error} It is not replaced: remove the folder, or choose another path.") from error
        return
    written = read_pending(folder)
    for path in folder.iterdir():
        left = path.name in written or is_temporary(path.name)
        if path.name not in (LOCK, PENDING) and not (left and _is_file(path)):
            raise ValueError(
                f"{folder} is not empty and not an index (it holds {path.name!r:.80}), so it is not replaced. Choose "
                "another path."
            )


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _write(
    folder: Path, segments: Sequence[StoredSegment], settings: dict[str, Any], earlier: dict[str, Any] | None
) -> str:
    """Write what is not there yet, and exchange the manifest; its checksum is returned."""
    before = {entry["name"]: entry for entry in (earlier or {"segments": []})["segments"]}
    entries = []
    for segment in segments:
        found = before.get(segment.name, {})
        if found and found["documents"] is not None and segment.documents is None:
            raise ValueError(f"{folder} keeps texts or metadata of its documents: save it with `SearchIndex.save`.")
        entries.append(
            {
                "name": segment.name,
                "arrays": _kept(folder, found.get("arrays")) or _add(folder, segment, "arrays"),
                "alive": _write_alive(folder, segment, found.get("alive")),
                "documents": None
                if segment.documents is None
                else _kept(folder, found.get("documents")) or _add(folder, segment, "documents"),
                "details": segment.details,
            }
        )
    manifest = make_manifest(settings, entries)
    if earlier is not None:
        # Once the manifest is exchanged, nothing else says whose these are.
        _announce(folder, set(files_of(earlier)) - set(files_of(manifest)))
    _write_json(folder / MANIFEST, manifest)
    return str(manifest["checksum"])


def _kept(folder: Path, entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the entry of a file that is there already, and whole by its size; None otherwise."""
    if entry is None:
        return None
    path = folder / entry["file"]
    return entry if _is_file(path) and path.stat().st_size == entry["bytes"] else None


def _write_alive(folder: Path, segment: StoredSegment, earlier: dict[str, Any] | None) -> dict[str, Any] | None:
    if segment.alive is None:
        return None
    # Named after its content, so that equal marks are written once.
    marks = hashlib.blake2b(segment.alive.tobytes(), digest_size=8).hexdigest()
    if earlier is not None and earlier["file"].endswith(f".alive-{marks}.safetensors") and _kept(folder, earlier):
        return earlier
    return _add(folder, segment, "alive", f"alive-{marks}.safetensors")


def _add(folder: Path, segment: StoredSegment, part: str, ending: str = "") -> dict[str, Any]:
    """Write one file of a segment under a name that nothing in the folder has."""
    ending = ending or {"arrays": "safetensors", "documents": "documents.arrow"}[part]
    name = f"{segment.name}.{ending}"
    while os.path.lexists(folder / name):
        name = f"{new_name()}.{ending}"
    _announce(folder, {name})
    with write_whole(folder / name) as temporary:
        if part == "documents":
            from csr_hf.search.documents import write_documents

            return {"file": name, **write_documents(temporary, segment.documents)}
        arrays = segment.arrays if segment.alive is None or part == "arrays" else {"alive": segment.alive}
        return {"file": name, **write_arrays(temporary, arrays)}


def _announce(folder: Path, names: set[str]) -> None:
    """List names before files get them, or before no manifest names them, beside those of saves that were killed."""
    known = read_pending(folder)
    if not names <= known:
        _write_json(folder / PENDING, make_pending(known | names))


def _remove_unnamed(folder: Path, earlier: dict[str, Any] | None) -> None:
    """Remove what saves wrote and the manifest does not name; what others put into the folder stays."""
    named = set(files_of(read_manifest(folder))) if has_manifest(folder) else set()
    written = read_pending(folder) | (set() if earlier is None else set(files_of(earlier)))
    for name in written - named:
        if _is_file(folder / name):
            (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if is_temporary(path.name) and _is_file(path):
            path.unlink(missing_ok=True)
    (folder / PENDING).unlink(missing_ok=True)


def _remove_fresh(folder: Path) -> None:
    """Remove a folder that a failed save made, if there is nothing in it but the lock."""
    try:
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
        folder.rmdir()
    except OSError:  # Somebody else has put something there.
        return


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with write_whole(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
