"""The log of the library, `logging.getLogger("csr_hf")`, and its progress bars.

Unless the application configures logging or calls one of the functions below, as the command line does, warnings and
errors alone are printed, to stderr: Python's logging does so with what nobody handles. Bars are shown on terminals; in
a file or a pipe, the log says every few seconds how far a step is. Of several processes only the first one does so.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from csr_hf.plumbing.foreign import visible

if TYPE_CHECKING:
    from csr_hf.plumbing.progress import Bar, LoggedProgress

_LOGGER = logging.getLogger("csr_hf")
_bars_enabled = True


class _Plain(logging.Formatter):
    """Leaves out what steers a terminal: messages name files, ids and columns that somebody else may have named."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def set_verbosity(level: int) -> None:
    """Show log messages of this level and above on stderr, unless the log has a handler already.

    Args:
        level: of `logging`, for example `logging.INFO`.
    """
    _LOGGER.setLevel(level)
    if not _LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Plain())
        _LOGGER.addHandler(handler)


def set_verbosity_debug() -> None:
    """Show all log messages."""
    set_verbosity(logging.DEBUG)


def set_verbosity_info() -> None:
    """Show what happens: data read, embeddings made or found, results, files written."""
    set_verbosity(logging.INFO)


def set_verbosity_warning() -> None:
    """Show warnings and errors alone."""
    set_verbosity(logging.WARNING)


def set_verbosity_error() -> None:
    """Show errors alone."""
    set_verbosity(logging.ERROR)


def enable_progress_bars() -> None:
    """Show progress bars on terminals, which is the default."""
    global _bars_enabled
    _bars_enabled = True


def disable_progress_bars() -> None:
    """Show no progress bars, unless a call asks for one with `show_progress_bar=True`."""
    global _bars_enabled
    _bars_enabled = False


def is_first_process() -> bool:
    """Return whether this process is the first of those that a launcher such as torchrun started, or alone."""
    return os.environ.get("RANK", "0") == "0"


def shows_progress(show: bool | None = None) -> bool:
    """Return whether to draw a bar.

    Args:
        show: True or False as the caller says; None draws on terminals, unless bars are disabled, and of several
            processes only in the first.
    """
    return _bars_enabled and is_first_process() and sys.stderr.isatty() if show is None else show


def progress_bar(
    iterable: Iterable[Any] | None = None, *, desc: str, unit: str, show: bool | None = None, **options: Any
) -> Bar | LoggedProgress:
    """Make a bar that is drawn where `shows_progress` says so; where there is no terminal, a line in the log instead.

    Args:
        iterable: what to loop over; None for a bar that is updated by hand.
        desc: what is being done, in a word or two.
        unit: what is counted.
        show: as for `shows_progress`.
        **options: `total` and `initial` of tqdm.
    """
    from csr_hf.plumbing.progress import Bar, LoggedProgress

    if show is None and _bars_enabled and is_first_process() and not sys.stderr.isatty():
        return LoggedProgress(iterable, desc=desc, unit=unit, **options)
    return Bar(iterable, desc=desc, unit=unit, disable=not shows_progress(show), **options)
