"""Errors that no change of the code would avoid, and what to do about those of the operating system."""

from __future__ import annotations

import errno
import os


class ExpectedError(RuntimeError):
    """What this program depends on failed, and the message says what and what to do; no traceback is needed."""


_NEXT_STEPS = {
    errno.EACCES: "Check who may read and write it: `ls -l`.",
    errno.EPERM: "Check who may read and write it: `ls -l`.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.ENOENT: "Check how it is spelled.",
    errno.EISDIR: "Give a file.",
    errno.ENOTDIR: "Give a folder.",
    errno.ENOSPC: "Free some space there, then give the same command again.",
    errno.EDQUOT: "Free some space there, then give the same command again.",
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its links lead in a circle: check them.",
}


def explain(error: BaseException) -> str:
    """Say in one line what went wrong, and the next step where the operating system refused something."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return text
    reason = " ".join(error.strerror.split())
    if reason != os.strerror(error.errno):
        # The library says more than the system does.
        return reason
    text = f"{error.filename}: {reason[0].lower()}{reason[1:]}" if error.filename is not None else reason
    return f"{text}. {_NEXT_STEPS[error.errno]}" if error.errno in _NEXT_STEPS else text
