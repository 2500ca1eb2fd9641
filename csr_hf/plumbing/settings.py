"""Dataclasses of settings: checked by pydantic, one line for what is wrong, docstrings below the fields as help."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ErrorDetails

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
    first, *others = error.errors()
    path = _path(kind, first["loc"])
    key = ".".join(map(str, path))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    if first["type"] in ("unexpected_keyword_argument", "dataclass_exact_type"):
        known = known_keys(kind, path[:-1])
        return f"`{key}` is not a setting. {suggest(str(path[-1]), known, prefix=key.rpartition('.')[0])}"
    if first["type"] == "dataclass_type":
        return f"`{key}` ({first['input']!r}) must be a section with keys: {', '.join(known_keys(kind, path))}."
    # A value that is no member of a union is wrong in as many ways.
    messages = [first["msg"], *(other["msg"] for other in others if _path(kind, other["loc"]) == path)]
    rule = "; or ".join(message.removeprefix("Input ") for message in messages)
    near = _near_choice(first)
    return f"`{key}` ({first['input']!r}): {rule}.{near and f' Did you mean `{near}`?'}"


def _near_choice(error: ErrorDetails) -> str:
    """Return the choice that was perhaps meant by a wrong one, or "" where none is near."""
    if error["type"] != "literal_error":
        return ""
    choices = re.findall(r"'([^']+)'", error["ctx"]["expected"])
    return next(iter(difflib.get_close_matches(str(error["input"]), choices, n=1, cutoff=0.5)), "")


def _path(kind: type, location: Sequence[int | str]) -> list[int | str]:
    """Return the keys, and numbers in lists, that lead to a value; pydantic's location has members of unions too."""
    path: list[int | str] = []
    annotation: Any = kind
    for part in location:
        if _is_settings(annotation):
            annotation = plain_type(get_type_hints(annotation).get(str(part)))
        elif get_origin(annotation) in (list, dict):
            annotation = plain_type(get_args(annotation)[-1])
        else:
            break
        path.append(part)
    return path


def plain_type(annotation: Any) -> Any:
    """Strip what is annotated, and None as an alternative."""
    if hasattr(annotation, "__metadata__"):
        return plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [plain_type(each) for each in get_args(annotation) if each is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__")


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
            if _is_settings(inner):
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


def parse_yaml_value(text: str) -> Any:
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
        found[key] = parse_yaml_value(value)
    return found
