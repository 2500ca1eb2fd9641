"""The command line: `csr-hf COMMAND ...`. What the commands are is in table.py, what they do in commands.py."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from csr_hf.cli.invocation import Invocation
from csr_hf.cli.table import COMMANDS, Command
from csr_hf.plumbing.atomic import FULL
from csr_hf.plumbing.logs import disable_progress_bars, enable_progress_bars, is_first_process
from csr_hf.plumbing.provenance import record_command, recorded_command
from csr_hf.plumbing.redaction import without_secrets
from csr_hf.plumbing.threads import spin_briefly

_RECIPE_NOTE = """
Any key of the recipe can be given as a flag and wins over the file: --training.max_steps 500 --data.source my.csv
"""
_LIBRARIES = ("transformers", "datasets", "sentence_transformers", "huggingface_hub", "accelerate", "mteb", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; default that of this process.

    Returns:
        0; 1 when a part of the work failed and the rest was done; 2 when the input was wrong (one line on stderr; the
        traceback with `--debug`).
    """
    spin_briefly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    record_command(without_secrets("csr-hf " + shlex.join(words)))
    debug = "--debug" in words
    try:
        called = parse(words)
        with _shown_log(debug):
            if not debug:
                _quiet_libraries(show_transfers=called.name == "push" and not called.no_progress)
            (disable_progress_bars if called.no_progress else enable_progress_bars)()
            return COMMANDS[called.name].load_call()(called) or 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        is_full = isinstance(error, OSError) and error.errno in FULL and _goes_on(words)
        way_on = f" Then go on with: {recorded_command()}" if is_full else ""
        sys.stderr.write(f"csr-hf: error: {_one_line(error)}{way_on}\n")
        return 2
    except KeyboardInterrupt:
        way_on = f"; what was finished is kept. Go on with:\n  {recorded_command()}" if _goes_on(words) else ""
        sys.stderr.write(f"csr-hf: interrupted{way_on}\n")
        return 130
    finally:
        # What Python does next in this process is not this command's work.
        record_command("")


def parse(words: Sequence[str]) -> Invocation:
    """Read a command line.

    Raises:
        ValueError: for an unknown command or flag (the nearest known one is named), or a value that does not fit.
        SystemExit: after `--help`.
    """
    name = next((word for word in words if not word.startswith("-")), None)
    if name not in COMMANDS:
        _overview().parse_args(list(words))
    command = COMMANDS[str(name)]
    from csr_hf.cli.flags import option_names
    from csr_hf.plumbing.settings import from_mapping, known_keys, suggest

    rest = list(words)
    rest.remove(str(name))
    parser, kinds = _parser(str(name), command, rest), command.load_kinds()
    found, unknown = parser.parse_known_intermixed_args(rest)
    if unknown:
        word = unknown[0].partition("=")[0]
        known = suggest(word, option_names(parser)) if word.startswith("-") else ""
        if not known.startswith("Did"):
            known = f"`csr-hf {name} --help` lists what there is."
        raise ValueError(f"unknown argument {word!r}. {known}")
    values = vars(found)
    return Invocation(
        name=str(name),
        options=[
            from_mapping(kind, {key: values[key] for key in known_keys(kind) if key in values}) for kind in kinds
        ],
        keys={key: value for key, value in values.items() if "." in key},
        device=values.get("device"),
        trust_remote_code=values.get("trust_remote_code", False),
        debug=values.get("debug", False),
        no_progress=values.get("no_progress", False),
    )


def _overview() -> argparse.ArgumentParser:
    """Build the parser of `csr-hf` without a command, which imports nothing of the commands."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = _LightParser(
        prog="csr-hf",
        usage="csr-hf COMMAND ...",
        description=f"Sparse, adaptive embeddings from any sentence-transformers model.\n\ncommands:\n{listing}",
        epilog="`csr-hf COMMAND --help` shows examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    return parser


class _LightParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(f"{message}. `csr-hf --help` lists the commands.")


def _parser(name: str, command: Command, words: Sequence[str]) -> argparse.ArgumentParser:
    from csr_hf.cli.flags import Parser, add_keys, add_settings

    parser = Parser(
        prog=f"csr-hf {name}",
        # All keys of a recipe would fill a screen.
        usage=f"csr-hf {name} [RECIPE] [--flag VALUE ...]" if command.takes_recipe else None,
        allow_abbrev=False,
        description=command.summary[0].upper() + command.summary[1:] + "." + _RECIPE_NOTE * command.takes_recipe,
        epilog=f"examples:{command.examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    for kind in command.load_kinds():
        add_settings(parser, kind)
    common = parser.add_argument_group("all commands")
    common.add_argument("--debug", action="store_true", help="show tracebacks, warnings and the log")
    common.add_argument("--no-progress", action="store_true", help="draw no progress bars")
    common.add_argument("--device", default=argparse.SUPPRESS, help="cpu, cuda, ...; default the best there is")
    if command.embeds:
        common.add_argument(
            "--trust-remote-code",
            action="store_true",
            default=argparse.SUPPRESS,
            help="run code of the backbone's repository; read it first",
        )
    if command.takes_recipe:
        from csr_hf.runs.recipe import RunRecipe

        add_keys(parser, RunRecipe, words)
    return parser


class _ConsoleHandler(logging.Handler):
    """Prints messages as plain lines; of several processes only the first one speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        from csr_hf.cli.output import print_line

        if is_first_process():
            print_line(self.format(record))


@contextmanager
def _shown_log(debug: bool) -> Iterator[None]:
    """Print the library's log while a command runs."""
    logger, handler = logging.getLogger("csr_hf"), _ConsoleHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _quiet_libraries(show_transfers: bool) -> None:
    """Silence the libraries below, which have bars and warnings for every file they touch.

    Args:
        show_transfers: let the Hub client show what it transfers.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    if not show_transfers:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _goes_on(words: Sequence[str]) -> bool:
    """Return whether the same command goes on where it stopped."""
    name = next((word for word in words if not word.startswith("-")), "")
    return name == "evaluate" or (name in COMMANDS and COMMANDS[name].takes_recipe)


def _one_line(error: BaseException) -> str:
    return without_secrets(" ".join((str(error) or type(error).__name__).split()))


if __name__ == "__main__":
    sys.exit(main())
