"""One process and one thread at a time in a folder."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_here = threading.Lock()


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock until the block ends; where the system has no flock, against threads of this process alone.

    Args:
        path: a file that is made if it is not there; its content, if it has one, stays as it is.

    Raises:
        ValueError: for a link, which is not followed.
        OSError: if the file cannot be opened or locked.
    """
    if fcntl is None:
        with _here:
            yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise ValueError(f"{path} is a link, which is not followed. Remove it.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made; without effect where folders cannot be locked.

    Raises:
        ValueError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process writes to {folder}. Wait until it ends, or choose another --output-dir."
            ) from error
        except OSError as error:  # Some network file systems lock no folders.
            logger.debug("%s cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(descriptor)
