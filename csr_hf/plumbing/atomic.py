"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write a file or a folder under; it takes the place of `path` at the end.

    On any failure what was written is removed, and an older `path` stays as it was.

    Args:
        path: the file or folder to write. Missing parent folders are made.

    Yields:
        The temporary path, which does not exist yet.

    Raises:
        OSError: if the folder cannot be written, also where safetensors has an error of its own for that.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield temporary
        _replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        _remove(temporary)


def check_writable(folder: str | Path) -> None:
    """Find out before hours of work whether `folder`, which need not exist, can be written.

    Raises:
        ValueError: if it cannot, with the reason; nothing is left behind.
    """
    existing = Path(folder).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


def _replace(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    # A folder cannot be replaced in one step: the old one steps aside, and comes back should the new one fail.
    aside = temporary.with_name(temporary.name + ".old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
