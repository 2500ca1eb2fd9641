"""Signatures that show the keywords which a function takes as `**options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def show_keywords(kind: type, **defaults: Any) -> Callable[[_Function], _Function]:
    """Put the keys of a `TypedDict` in place of `**options` in the signature of a function that takes them.

    Type checkers read `Unpack[...]` themselves; `help`, notebooks and consoles read the signature.

    Args:
        kind: the TypedDict.
        **defaults: of keys, where it is not None.
    """
    annotations = {name: getattr(each, "__forward_arg__", each) for name, each in kind.__annotations__.items()}

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=annotation)
            for name, annotation in annotations.items()
            if name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return decorate
