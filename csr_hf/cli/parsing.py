"""Read a command line, in whatever order its parts stand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from csr_hf.cli.invocation import Invocation
from csr_hf.cli.table import COMMANDS, Command

if TYPE_CHECKING:
    from csr_hf.cli.flags import Parser

_RECIPE_NOTE = """
Any key of the recipe can be given as a flag and wins over the file: --training.max_steps 500 --data.source my.csv
"""
_SWITCHES = ("--json", "--quiet", "--debug", "--no-progress", "--trust-remote-code")
# No shell can put a NUL into a command line, so no word of a user looks like one of these.
_PLACE = "\0word "


def parse(words: Sequence[str]) -> Invocation:
    """Read a command line.

    The name of the command may stand behind options, and arguments between them. What stands behind `--` is no
    option, whatever it begins with.

    Raises:
        ValueError: for an unknown command or flag (the nearest known one is named), or a value that does not fit.
        SystemExit: after `--help` and `--version`.
    """
    words, literal = _split_literal(words)
    place = _find_command(words)
    if place is None:
        # Imports nothing of the commands, so help and version come at once.
        unknown = build_overview().parse_known_args(words)[1]
        strange = next((word for word in unknown if word.partition("=")[0] not in _SWITCHES), "")
        raise ValueError(f"give a command{strange and f', {strange!r} is none'}. `csr-hf --help` lists them.")
    name, rest = words[place], [*words[:place], *words[place + 1 :]]
    if name not in COMMANDS:
        from csr_hf.plumbing.settings import suggest

        raise ValueError(f"{name!r} is no command. {suggest(name, list(COMMANDS))} `csr-hf --help` lists them.")
    from csr_hf.cli.flags import option_names
    from csr_hf.plumbing.settings import from_mapping, known_keys, suggest

    command = COMMANDS[name]
    parser, kinds = build_parser(name, command, rest), command.load_kinds()
    stand_ins = [f"{_PLACE}{number}" for number in range(len(literal))]
    found, unknown = parser.parse_known_intermixed_args([*rest, *stand_ins])
    if unknown:
        word = _literally(unknown[0], literal).partition("=")[0]
        known = suggest(word, option_names(parser)) if word.startswith("-") else ""
        if not known.startswith("Did"):
            known = f"`csr-hf {name} --help` lists what there is."
        raise ValueError(f"unknown argument {word!r}. {known}")
    values = {key: _literally(value, literal) for key, value in vars(found).items()}
    return Invocation(
        name=name,
        options=[
            from_mapping(kind, {key: values[key] for key in known_keys(kind) if key in values}) for kind in kinds
        ],
        keys={key: value for key, value in values.items() if "." in key},
        device=values.get("device"),
        trust_remote_code=values.get("trust_remote_code", False),
        debug=values["debug"],
        no_progress=values["no_progress"] or values["quiet"],
        json=values["json"],
        quiet=values["quiet"],
    )


def _split_literal(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at its first `--`."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _literally(value: Any, literal: Sequence[str]) -> Any:
    """Put the words behind `--` in the place of what stood for them."""
    if isinstance(value, list):
        return [_literally(entry, literal) for entry in value]
    if isinstance(value, str) and value.startswith(_PLACE):
        return literal[int(value.removeprefix(_PLACE))]
    return value


def _find_command(words: Sequence[str]) -> int | None:
    """Find where the command is named: the first word that is neither an option nor the value of one."""
    plain, behind_options = None, []
    for place, word in enumerate(words):
        if word.startswith("-"):
            continue
        before = words[place - 1] if place else ""
        if not before.startswith("-") or "=" in before or before in _SWITCHES:
            plain = place
            break
        behind_options.append(place)
    if plain is not None and words[plain] in COMMANDS:
        return plain
    # An option without a value looks like one with it: `--skip-bad run recipe.yaml`.
    return next((place for place in behind_options if words[place] in COMMANDS), plain)


def build_overview() -> argparse.ArgumentParser:
    """Build the parser of `csr-hf` without a command, which imports nothing of the commands."""
    from csr_hf import __version__

    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="csr-hf",
        usage="csr-hf COMMAND ...",
        description=f"Sparse, adaptive embeddings from any sentence-transformers model.\n\ncommands:\n{listing}",
        epilog="`csr-hf COMMAND --help` shows examples, `csr-hf glossary` explains the words.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"csr-hf {__version__}", help="show the version")
    return parser


def build_parser(name: str, command: Command, words: Sequence[str]) -> Parser:
    """Build the parser of a command.

    Args:
        name: of the command.
        command: what it takes.
        words: the command line, which may name keys inside mappings.
    """
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
    _add_common(parser, command)
    if command.takes_recipe:
        from csr_hf.runs.recipe import RunRecipe

        add_keys(parser, RunRecipe, words)
    return parser


def _add_common(parser: Parser, command: Command) -> None:
    """Add the flags that all commands have."""
    common = parser.add_argument_group("all commands")
    switches = {
        "--json": "write the result as one JSON document on stdout, all else on stderr",
        "--quiet": "show errors and the result alone",
        "--no-progress": "draw no progress bars",
        "--debug": "show tracebacks, warnings of libraries and a longer log",
    }
    for switch, text in switches.items():
        common.add_argument(switch, action="store_true", help=text)
    common.add_argument("--device", default=argparse.SUPPRESS, help="cpu, cuda, ...; default the best there is")
    if command.embeds:
        common.add_argument(
            "--trust-remote-code",
            action="store_true",
            default=argparse.SUPPRESS,
            help="run code of the backbone's repository; read it first",
        )
