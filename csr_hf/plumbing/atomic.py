"""Files and folders that are written whole or not at all, whenever the process is killed."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

TEMPORARY = r"\.\d+\.\d+\.\d+(\.old)?"
"""What a temporary name adds to that of the file or folder, as a regular expression: machine, process, thread."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, or of the user's share of it, that is full."""

_OLD = ".old"
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_LITTLE = 2**16
_FORGOTTEN_SECONDS = 24 * 3600.0
_PATIENCE_SECONDS = 5.0
_open: set[Path] = set()


@contextmanager
def write_whole(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Write a file or a folder under a temporary name beside `path`, and give it the name `path` at the end.

    On any failure the temporary file or folder is removed, and an older `path` stays as it was. What killed processes
    left of earlier writes to `path` is removed too.

    Args:
        path: the file or folder to write. Missing parent folders are created.
        folder: write a folder, which may take the place of another; a file takes the place of none.

    Yields:
        The temporary path, which does not exist yet.

    Raises:
        IsADirectoryError: if a file is to be written where a folder is, which stays as it is.
        OSError: if the folder cannot be written, also where a library has an error of its own for that. Of a full disk
            the message says what to do, and `errno` is one of `FULL`.
    """
    path = Path(path)
    if not folder:
        check_no_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{threading.get_ident()}")
    restore(path)
    _remove_leftovers(path)
    _open.add(temporary)
    try:
        # Inside, since what was written takes its space until it is removed.
        with explain_full_disk(path):
            yield temporary
            if not folder:
                check_no_folder(path)
            _replace(temporary, path)
    finally:
        _remove(temporary)
        _open.discard(temporary)


@contextmanager
def explain_full_disk(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk, in whatever form a library gives it, into a line that says what to do.

    Args:
        path: the file or folder that is written.

    Raises:
        OSError: for a full disk, `errno` is one of `FULL` then; also where safetensors has an error of its own.
    """
    path = Path(path)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = _full_disk(error, path.parent)
        if number is not None:
            raise _make_full_disk_error(path, number) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"cannot write {path}: {error}") from error
        raise


def restore(path: str | Path) -> None:
    """Put a folder back that a process was replacing by two renames when it was killed between them.

    Args:
        path: the folder; nothing happens if it is there, or nothing of it is left.
    """
    path = Path(path)
    until = time.monotonic() + _PATIENCE_SECONDS
    while not os.path.lexists(path) and (left := [each for each in _leftovers(path) if each.name.endswith(_OLD)]):
        # A process that lives is about to put the new folder there.
        if any(_is_abandoned(each) for each in left) or time.monotonic() > until:
            os.replace(max(left, key=lambda each: each.stat().st_mtime), path)
        else:
            time.sleep(0.05)


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


def check_no_folder(path: str | Path) -> None:
    """Check that a file can be written at a path, since no folder is there.

    Raises:
        IsADirectoryError: if there is one.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the name of a file, such as {Path(path) / 'file'}.")


def check_space(path: str | Path, size: int) -> None:
    """Check that a file fits on its disk, where the library that writes it ends the process on a full one.

    Args:
        path: the file; its folder exists.
        size: bytes that it takes at most.

    Raises:
        OSError: if fewer are free.
    """
    if shutil.disk_usage(Path(path).parent).free < size:
        raise _make_full_disk_error(Path(path), errno.ENOSPC)


def _replace(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    # A folder cannot be replaced in one step, but two can change their names; the older one is removed after that.
    if _exchange(temporary, path):
        return
    aside = temporary.with_name(temporary.name + _OLD)
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    _remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system or the file system cannot.

    Raises:
        OSError: if one of them does not exist, or may not be renamed.
    """
    rename = _renameat2()
    if rename is None:
        return False
    here = -100  # AT_FDCWD: relative paths start at the working directory.
    if rename(here, os.fsencode(first), here, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


@functools.cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


@functools.cache
def _machine() -> int:
    """Return a number of what process ids are unique in: a container, or a machine since it was started."""
    parts = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        if os.path.exists(file):
            parts.append(os.readlink(file) if os.path.islink(file) else Path(file).read_text())
    return int.from_bytes(hashlib.blake2b(" ".join(parts).encode(), digest_size=4).digest(), "little")


def _leftovers(path: Path) -> list[Path]:
    """List temporary files and folders of `path`."""
    if not path.parent.is_dir():
        return []
    begin, name = f".{path.name}.", re.compile(re.escape(f".{path.name}") + TEMPORARY)
    with os.scandir(path.parent) as entries:
        found = [entry.name for entry in entries if entry.name.startswith(begin)]
    return [path.with_name(each) for each in found if name.fullmatch(each)]


def _remove_leftovers(path: Path) -> None:
    for each in _leftovers(path):
        if _is_abandoned(each):
            _remove(each)


def _is_abandoned(temporary: Path) -> bool:
    """Return whether nobody writes to it any more: its process has ended, or has not written for a day elsewhere."""
    own = temporary.with_name(temporary.name.removesuffix(_OLD))
    _, machine, process, _ = own.name.rsplit(".", 3)
    if int(machine) != _machine():
        return time.time() - _last_change(temporary) > _FORGOTTEN_SECONDS
    if int(process) == os.getpid():
        return own not in _open
    import psutil

    return not psutil.pid_exists(int(process))


def _last_change(path: Path) -> float:
    changes = [0.0]
    for each in (path, *path.rglob("*")):
        try:
            changes.append(each.lstat().st_mtime)
        except FileNotFoundError:  # Its process lives, and has removed it.
            return time.time()
    return max(changes)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _full_disk(error: BaseException, folder: Path) -> int | None:
    """Return the number of the error of a full disk that is behind an error; None if it is another one.

    Libraries that write by themselves hide it: safetensors says its number, torch has it as the context of a
    RuntimeError, numpy drops it.
    """
    numbers: list[int | None] = []
    each: BaseException | None = error
    while each is not None:
        said = re.search(r"os error (\d+)", str(each))
        numbers.append(int(said[1]) if said else getattr(each, "errno", None))
        each = each.__cause__ or each.__context__
    found = next((number for number in numbers if number in FULL), None)
    if found is None and not any(numbers) and shutil.disk_usage(folder).free < _LITTLE:
        return errno.ENOSPC
    return found


def _make_full_disk_error(path: Path, number: int) -> OSError:
    error = OSError(
        f"cannot write {path}: {os.strerror(number)}. Free some space in {path.parent}, or choose another folder; "
        "what was finished is kept."
    )
    error.errno = number
    return error
