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
def write_whole(path: str | Path) -> Iterator[Path]:
    """Write a file or a folder under a temporary name beside `path`, and rename it to `path` at the end of the block.

    On any failure the temporary file or folder is removed, and an older `path` stays as it was.

    Args:
        path: the file or folder to write. Missing parent folders are created.

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
    """Check before hours of work that a folder can be written; nothing is left behind.

    Args:
        folder: it need not exist.

    Raises:
        ValueError: if it cannot be written, with the reason.
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
    # A folder cannot be replaced in one step: the old one is renamed first, and renamed back if that fails.
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
