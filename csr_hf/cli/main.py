"""The command line: `csr-hf COMMAND ...`. What the commands are is in table.py, how they are read in parsing.py."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

from csr_hf.cli.invocation import Invocation
from csr_hf.cli.parsing import build_overview, parse
from csr_hf.cli.table import COMMANDS
from csr_hf.plumbing.atomic import FULL
from csr_hf.plumbing.devices import check_device
from csr_hf.plumbing.errors import ExpectedError, explain
from csr_hf.plumbing.foreign import visible
from csr_hf.plumbing.launcher import launched_processes
from csr_hf.plumbing.logs import disable_progress_bars, enable_progress_bars, is_first_process
from csr_hf.plumbing.provenance import record_command, recorded_command
from csr_hf.plumbing.redaction import without_secrets
from csr_hf.plumbing.threads import spin_briefly

_LIBRARIES = ("transformers", "datasets", "sentence_transformers", "huggingface_hub", "accelerate", "mteb", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; default that of this process.

    Returns:
        0; 1 when a part of the work failed and the rest was done; 2 when the input was wrong or something that is
        needed failed (one line on stderr; the traceback with `--debug`).
    """
    spin_briefly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        build_overview().print_help()
        return 0
    record_command(without_secrets("csr-hf " + shlex.join(words)))
    debug, called = "--debug" in words, None
    try:
        with _printable_output():
            called = parse(words)
            return _call(called)
    except (ValueError, OSError, ImportError, MemoryError, ExpectedError) as error:
        if debug:
            raise
        if isinstance(error, BrokenPipeError):
            return _stop_printing()
        is_full = isinstance(error, OSError) and error.errno in FULL and _goes_on(called)
        way_on = f" Then go on{_launcher()} with: {recorded_command()}" if is_full else ""
        sys.stderr.write(f"csr-hf: error: {without_secrets(visible(explain(error)))}{way_on}\n")
        return 2
    except KeyboardInterrupt:
        kept = f"; what was finished is kept. Go on{_launcher()} with:\n  {recorded_command()}"
        if is_first_process():
            sys.stderr.write(f"csr-hf: interrupted{kept if _goes_on(called) else ''}\n")
        return 130
    finally:
        # What Python does next in this process is not this command's work.
        record_command("")


def _call(called: Invocation) -> int:
    """Run a command, print what it reports, and return its exit code."""
    stdout = sys.stdout
    level = logging.DEBUG if called.debug else logging.ERROR if called.quiet else logging.INFO
    show_transfers = called.name == "push" and not called.no_progress
    with _shown_log(level), nullcontext() if called.debug else _quiet_libraries(show_transfers):
        (disable_progress_bars if called.no_progress else enable_progress_bars)()
        if called.device is not None:
            check_device(called.device, "--device")
        call = COMMANDS[called.name].load_call()
        if not called.json:
            report = call(called)
            if report is not None:
                report.print(quiet=called.quiet)
        else:
            # Whatever is printed meanwhile, by whomever, would break the document.
            with redirect_stdout(sys.stderr):
                report = call(called)
            if report is not None:
                report.write_json(stdout)
    return 0 if report is None else report.code


@contextmanager
def _printable_output() -> Iterator[None]:
    """Replace what the terminal's encoding does not have, instead of failing at the first such character."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _stop_printing() -> int:
    """End quietly when nobody reads on, as behind `| head`; Python would fail once more when it flushes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


class _ConsoleHandler(logging.Handler):
    """Prints messages as plain lines; of several processes only the first one speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        from csr_hf.cli.output import print_line

        if is_first_process():
            print_line(self.format(record))


@contextmanager
def _shown_log(shown: int) -> Iterator[None]:
    """Print the library's log of a level and above while a command runs."""
    logger, handler = logging.getLogger("csr_hf"), _ConsoleHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(shown)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _quiet_libraries(show_transfers: bool) -> Iterator[None]:
    """Silence the libraries below while a command runs: they have bars and warnings for every file they touch.

    Args:
        show_transfers: let the Hub client show what it transfers.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    if not show_transfers:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    loggers = [logging.getLogger(name) for name in (None, *_LIBRARIES)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _goes_on(called: Invocation | None) -> bool:
    """Return whether the same command goes on where it stopped."""
    return called is not None and (COMMANDS[called.name].takes_recipe or called.name in ("evaluate", "push"))


def _launcher() -> str:
    """Word that the command needs its launcher, whose own command line is not known here."""
    return " by the same torchrun or accelerate launch" if launched_processes() > 1 else ""


if __name__ == "__main__":
    sys.exit(main())
