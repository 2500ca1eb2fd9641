"""Dataclasses of settings: checked by pydantic, one line for what is wrong, docstrings below the fields as help."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Flag:
    """How the command line takes a field, where its type does not tell: `Annotated[list[int], Flag("k")]`."""

    name: str | None = None
    """Of the flag, without dashes; default that of the field."""
    nargs: str | None = None
    """Take it by its place instead of by a flag: "" for one that must be given, "?" or "*" as argparse has them."""
    parse: Callable[[str], Any] | None = None
    """Read one value; the flag may be repeated."""


@dataclass_transform(kw_only_default=True)
def settings(kind: type[_Settings]) -> type[_Settings]:
    """Make a class a dataclass whose values pydantic checks and converts ("2e-3" becomes 0.002); all by keyword.

    Making an instance with a wrong value or an unknown key raises a `ValueError` of one line that names the key, the
    value, and the rule or the nearest known key. A rule that needs several fields belongs into `__post_init__`.
    """
    checked: Any = pydantic_dataclass(
        kind, config=ConfigDict(extra="forbid", coerce_numbers_to_str=True), kw_only=True
    )
    initialize = checked.__init__

    @functools.wraps(initialize)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            initialize(self, *args, **values)
        except ValidationError as error:
            raise ValueError(describe_error(error, kind)) from None

    checked.__init__ = __init__
    result: type[_Settings] = checked
    return result


def from_mapping(kind: type[_Settings], content: dict[str, Any]) -> _Settings:
    """Make settings from nested dictionaries, as a YAML file holds them.

    Raises:
        ValueError: for an unknown key (the nearest known one is named) or a wrong value.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise ValueError(describe_error(error, kind)) from None


def describe_error(error: ValidationError, kind: type) -> str:
    """Describe the first thing that is wrong, in one line.

    Args:
        error: of pydantic.
        kind: the settings that were to be made, whose keys may be meant by an unknown one.
    """
    first = error.errors()[0]
    # Members of a union stand in the path too.
    path = [part for part in first["loc"] if isinstance(part, int) or not part[:1].isupper()]
    key = ".".join(map(str, path))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    if first["type"] in ("unexpected_keyword_argument", "dataclass_exact_type"):
        known = known_keys(kind, path[:-1])
        return f"`{key}` is not a setting. {suggest(str(path[-1]), known, prefix=key.rpartition('.')[0])}"
    if first["type"] == "dataclass_type":
        return f"`{key}` ({first['input']!r}) must be a section with keys: {', '.join(known_keys(kind, path))}."
    return f"`{key}` ({first['input']!r}): {first['msg'].removeprefix('Input ')}."


def suggest(word: str, known: Sequence[str], *, prefix: str = "") -> str:
    """Name the known word that is nearest to a wrong one, or all of them where none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    full = f"{prefix}." if prefix else ""
    return f"Did you mean `{full}{near[0]}`?" if near else f"Known: {', '.join(known)}."


def known_keys(kind: type, path: Sequence[Any] = ()) -> list[str]:
    """Return the names of the fields of settings, or of the section that `path` leads to."""
    for part in path:
        if isinstance(part, str):
            kind = next((section for name, section in sections(kind).items() if name == part), kind)
    return [entry.name for entry in fields(kind)]


def sections(kind: type) -> dict[str, type]:
    """Return the fields that are settings themselves, alone or in a list, and their classes."""
    found = {}
    for name, annotation in get_type_hints(kind).items():
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and hasattr(inner, "__pydantic_fields__"):
                found[name] = inner
    return found


def field_docs(kind: type) -> dict[str, str]:
    """Read the docstrings below the fields of a class and of those it inherits from, each as one line."""
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, doc in itertools.pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr):
                if isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str):
                    docs[field.target.id] = " ".join(doc.value.value.split())
    return docs


def read_yaml(text: str) -> Any:
    """Read one value of a command line as YAML.

    Raises:
        ValueError: if it is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a YAML value.") from error


def read_overrides(text: str) -> dict[str, Any]:
    """Read `section.key=value,section.key=value`, values as YAML; commas within brackets belong to a value.

    Raises:
        ValueError: for anything else.
    """
    found = {}
    for pair in re.split(r",(?![^\[{]*[\]}])", text):
        key, equals, value = pair.strip().partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not key=value.")
        found[key] = read_yaml(value)
    return found
