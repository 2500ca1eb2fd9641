"""Flags of the command line, generated from settings: names and types of the fields, their docstrings as help."""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from csr_hf.plumbing.settings import Flag, field_docs, read_yaml, sections


class Parser(argparse.ArgumentParser):
    """A parser that raises, so that wrong arguments give one line like every other error."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message}. `{self.prog} --help` shows examples.")


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
            parser.add_argument(name, *short, **given, type=flag.parse, action="append", metavar="VALUE")
        elif field.kind is bool:
            given.pop("required")
            parser.add_argument(name, *short, **given, action="store_true")
        else:
            parser.add_argument(name, *short, **given, type=_reader(field.kind), **_shown(field.kind))


def add_keys(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add a flag `--section.key VALUE` for every key of a recipe; values are read as YAML.

    Args:
        parser: gets a group of flags for each section.
        kind: class of the recipe.
    """
    for section, section_kind in sections(kind).items():
        group = parser.add_argument_group(f"keys of `{section}`", field_docs(kind).get(section))
        for field in _fields(section_kind):
            name = f"--{section}.{field.name}"
            help_text = field.help.replace("%", "%%")
            given: dict[str, Any] = {"default": argparse.SUPPRESS, "type": read_yaml, "help": help_text}
            group.add_argument(name, dest=name[2:], metavar="VALUE", **given)
    # The one key of a recipe that is no field: it sets many of them.
    parser.add_argument("--training.preset", dest="training.preset", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """List the flags that a parser knows."""
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _fields(kind: type) -> Iterator[_Field]:
    docs, hints = field_docs(kind), get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotation = hints[field.name]
        extras = get_args(annotation)[1:] if hasattr(annotation, "__metadata__") else ()
        flag = next((extra for extra in extras if isinstance(extra, Flag)), Flag())
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield _Field(field.name, _plain(annotation), flag, docs.get(field.name, ""), missing)


def _plain(annotation: Any) -> Any:
    """Strip what is annotated, and None as an alternative."""
    if hasattr(annotation, "__metadata__"):
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [_plain(each) for each in get_args(annotation) if each is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _reader(kind: Any) -> Any:
    """Return the function that reads a value; pydantic converts and checks what it gives."""
    origin = get_origin(kind)
    if origin is list:
        return lambda text: [part.strip() for part in text.split(",") if part.strip()]
    return read_yaml if origin is dict else str


def _shown(kind: Any) -> dict[str, Any]:
    """Return how a value is shown in the help."""
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"metavar": {int: "N", float: "X"}.get(kind, "A,B" if get_origin(kind) is list else "VALUE")}
