"""Ids that a caller gives: in any iterable, of any kind, shown in messages on one line."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

_SHOWN = 60
"""Characters of an id that a message repeats."""


def list_ids(ids: Any, argument: str) -> Sequence[Any] | np.ndarray:
    """List ids that a caller gives in any iterable.

    Args:
        ids: a list, array, Series, column or generator.
        argument: what messages call them.

    Raises:
        ValueError: for a single text, whose letters nobody means, for what has no order, more than one dimension or no
            entries at all.
    """
    if isinstance(ids, str | bytes):
        raise ValueError(f"`{argument}` is one text, {show_id(ids)}. Pass a list of ids.")
    if isinstance(ids, Mapping | Set):
        raise ValueError(f"`{argument}` is a {type(ids).__name__}. Give a list, in the order of the documents.")
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise ValueError(f"`{argument}` has the shape {ids.shape}. Give one dimension.")
        return ids
    for convert in ("to_pylist", "tolist"):
        if hasattr(ids, convert):
            return list_ids(getattr(ids, convert)(), argument)
    if not isinstance(ids, Iterable):
        raise ValueError(f"`{argument}` is {show_id(ids)}. Pass a list of ids.")
    return ids if isinstance(ids, list | tuple) else list(ids)


def distinct_ids(ids: Any, argument: str) -> list[Any]:
    """List ids that a caller gives, each once; what can be no id is kept as it is.

    Args:
        ids: as for `list_ids`.
        argument: what messages call them.

    Raises:
        ValueError: as `list_ids` does.
    """
    every = list_ids(ids, argument)
    found: dict[Hashable, Any] = {}
    for place, one in enumerate(every.tolist() if isinstance(every, np.ndarray) else every):
        # Integers, texts and others are told apart: 1 equals True.
        key = (isinstance(one, str), one) if isinstance(one, str) or is_integer(one) else (None, place)
        found.setdefault(key, one)
    return list(found.values())


def show_id(one: Any) -> str:
    """Show an id in a message, on one line."""
    one = one.item() if isinstance(one, np.generic) else one
    text = ascii(one[:_SHOWN]) if isinstance(one, str | bytes) else " ".join(ascii(one).split())[:_SHOWN]
    return f"{text}..." if isinstance(one, str | bytes) and len(one) > _SHOWN else text


def is_integer(one: Any) -> bool:
    """Tell integers, those of NumPy too, from bools and everything else."""
    return isinstance(one, int | np.integer) and not isinstance(one, bool)
