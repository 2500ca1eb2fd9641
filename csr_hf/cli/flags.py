"""Flags of the command line, generated from settings: names and types of the fields, their docstrings as help."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from csr_hf.plumbing.settings import Flag, field_docs, parse_yaml_value, plain_type, sections

# Keys that a recipe refuses, saying what to give instead.
_REFUSED = ("training.output_dir",)


class Parser(argparse.ArgumentParser):
    """A parser that raises, so that wrong arguments give one line like every other error."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message.removesuffix('.')}. `{self.prog} --help` shows examples.")


class _Field(NamedTuple):
    name: str
    kind: Any
    flag: Flag
    help: str
    is_required: bool


def add_settings(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add a flag, or an argument by place, for every field of settings.

    Lists are split at commas, mappings are read as YAML, booleans are switched on by the flag alone.

    Args:
        parser: gets the flags; values that are not given are left out of its namespace.
        kind: class of the settings.
    """
    for field in _fields(kind):
        flag, help_text = field.flag, field.help.replace("%", "%%")
        given: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
        if flag.nargs is not None:
            given |= {"nargs": flag.nargs} if flag.nargs else {}
            parser.add_argument(field.name, **given)
            continue
        name = "--" + (flag.name or field.name).replace("_", "-")
        short = ["-o"] if field.name == "output" else []
        given |= {"dest": field.name, "required": field.is_required}
        if flag.parse is not None:
            parser.add_argument(name, *short, **given, type=_reporting(flag.parse), action="append", metavar="VALUE")
        elif field.kind is bool:
            given.pop("required")
            parser.add_argument(name, *short, **given, action="store_true")
        else:
            parser.add_argument(name, *short, **given, type=_reader(field.kind), **_shown(field.kind))


def add_keys(parser: argparse.ArgumentParser, kind: type, words: Sequence[str]) -> None:
    """Add a flag `--section.key VALUE` for every key of a recipe; values are read as YAML.

    Args:
        parser: gets a group of flags for each section.
        kind: class of the recipe.
        words: the command line. The keys inside a mapping are the user's own: `--data.columns.anchor` is a flag where
            it is given.
    """
    for section, section_kind in sections(kind).items():
        group = parser.add_argument_group(f"keys of `{section}`", field_docs(kind).get(section))
        for field in _fields(section_kind):
            name = f"{section}.{field.name}"
            given: dict[str, Any] = {
                "default": argparse.SUPPRESS,
                "type": _reporting(parse_yaml_value),
                "metavar": "VALUE",
            }
            help_text = argparse.SUPPRESS if name in _REFUSED else field.help.replace("%", "%%")
            group.add_argument(f"--{name}", dest=name, help=help_text, **given)
            if get_origin(field.kind) is dict:
                # A text stays as it is: "query: " would be a mapping in YAML.
                inside = {**given, "type": str} if get_args(field.kind)[1] is str else given
                for inner in _keys_inside(name, words):
                    group.add_argument(f"--{inner}", dest=inner, help=argparse.SUPPRESS, **inside)
    # The one key of a recipe that is no field: it sets many of them.
    parser.add_argument("--training.preset", dest="training.preset", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """List the flags that a parser knows."""
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _keys_inside(name: str, words: Sequence[str]) -> list[str]:
    """List the keys of a mapping that a command line names."""
    flags = dict.fromkeys(word.partition("=")[0] for word in words)
    return [flag[2:] for flag in flags if flag.startswith(f"--{name}.")]


def _fields(kind: type) -> Iterator[_Field]:
    docs, hints = field_docs(kind), get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotation = hints[field.name]
        extras = get_args(annotation)[1:] if hasattr(annotation, "__metadata__") else ()
        flag = next((extra for extra in extras if isinstance(extra, Flag)), Flag())
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield _Field(field.name, plain_type(annotation), flag, docs.get(field.name, ""), missing)


def _reader(kind: Any) -> Any:
    """Return the function that reads a value; pydantic converts and checks what it gives."""
    origin = get_origin(kind)
    if origin is list:
        return lambda text: [part.strip() for part in text.split(",") if part.strip()]
    return _reporting(parse_yaml_value) if origin is dict else str


def _reporting(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let a reader say what is wrong: of a `ValueError`, argparse would tell the name of the reader alone."""

    def read_value(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read_value


def _shown(kind: Any) -> dict[str, Any]:
    """Return how a value is shown in the help."""
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"metavar": {int: "N", float: "X"}.get(kind, "A,B" if get_origin(kind) is list else "VALUE")}
