"""Names of documents: integers, strings or anything hashable, and where each is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set
from typing import Any

import numpy as np

_LARGEST = np.iinfo(np.int64).max


class Ids:
    """Unique ids of the documents of a segment, by position.

    Args:
        array: int64, str or object, shape (n,); None numbers documents from `first` on.
        n: documents.
        first: id of the first document.
    """

    def __init__(self, array: np.ndarray | None, n: int, first: int = 0) -> None:
        self.array, self.n, self.first = array, n, first
        self._order: np.ndarray | None = None
        self._places: dict[Hashable, int] | None = None

    @classmethod
    def checked(cls, ids: Sequence[Hashable] | np.ndarray | None, n: int, first: int = 0) -> Ids:
        """From what a caller gives.

        Raises:
            ValueError: for a set, None among them, a wrong length, a mixture of strings and numbers, fractions,
                numbers beyond 64 bits, or ids that repeat.
            TypeError: for an id that is not hashable.
        """
        if ids is None:
            if first + n > _LARGEST:
                raise ValueError(f"`ids` must be given: there is no number after {first - 1}.")
            return cls(None, n, first)
        if isinstance(ids, Set):
            raise ValueError("`ids` is a set, which has no order. Give a list, in the order of the documents.")
        array = _stored(ids)
        if array.dtype == object and any(one is None for one in array):
            raise ValueError("`ids` holds None, which stands for no document. Give every document an id.")
        if len(array) != n:
            raise ValueError(f"`ids` holds {len(array)} ids, but there are {n} documents. Give one id a document.")
        found = cls(array, n)
        repeated = found._repeated()
        if repeated is not None:
            raise ValueError(f"`ids` must be unique; {repeated!r} appears more than once. Merge or rename them.")
        return found

    @property
    def kind(self) -> str:
        """integers, strings or objects."""
        return (
            "integers"
            if self.array is None
            else {"i": "integers", "U": "strings", "O": "objects"}[self.array.dtype.kind]
        )

    @property
    def none(self) -> Any:
        """What stands where there is no document."""
        return {"integers": -1, "strings": "", "objects": None}[self.kind]

    @property
    def largest(self) -> int:
        """The largest of integers; -1 if there are none."""
        if not self.n:
            return -1
        return self.first + self.n - 1 if self.array is None else int(self.array.max(initial=-1))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Ids of documents."""
        return positions + self.first if self.array is None else self.array[positions]

    def positions_of(self, ids: Sequence[Hashable] | np.ndarray) -> np.ndarray:
        """Where documents are, int64, one for each id; -1 for ids that are not here, of whatever type."""
        if not self.n:
            return np.full(len(ids), -1, np.int64)
        if self.kind == "objects":
            if self._places is None:
                assert self.array is not None
                self._places = {one: place for place, one in enumerate(self.array)}
            return np.array([self._places.get(one, -1) for one in ids], np.int64)
        wanted, comparable = _wanted(ids, self.kind)
        if self.array is None:
            positions = wanted - self.first
            return np.where(comparable & (positions >= 0) & (positions < self.n), positions, -1)
        if self._order is None:
            self._order = np.argsort(self.array, kind="stable")
        places = np.searchsorted(self.array, wanted, sorter=self._order)
        positions = self._order[np.minimum(places, self.n - 1)]
        return np.where(comparable & (self.array[positions] == wanted), positions, -1)

    def _repeated(self) -> Any:
        if self.array is None or self.n < 2:
            return None
        if self.kind == "objects":
            seen: set[Hashable] = set()
            for one in self.array:
                if one in seen:
                    return one
                seen.add(one)
            return None
        ordered = np.sort(self.array)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        return ordered[same[0]].item() if len(same) else None


def listed(ids: Iterable[Hashable], argument: str) -> Sequence[Hashable] | np.ndarray:
    """Ids to look up, from any iterable.

    Raises:
        ValueError: for a single string, whose letters nobody means.
    """
    if isinstance(ids, str | bytes):
        raise ValueError(f"`{argument}` is one string, {ids!r}. Pass a list of ids.")
    return ids if isinstance(ids, np.ndarray | list | tuple) else list(ids)


def _wanted(ids: Sequence[Hashable] | np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids as an array of the kind, and which of them could be in it at all."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == ("i" if kind == "integers" else "U"):
        return ids, np.ones(len(ids), bool)
    if kind == "strings":
        fits = [isinstance(one, str) for one in ids]
        return np.array([one if fit else "" for one, fit in zip(ids, fits, strict=True)], str), np.array(fits, bool)
    every: list[Any] = list(ids)
    fits = [_is_integer(one) and -_LARGEST <= one <= _LARGEST for one in every]
    numbers = [int(one) if fit else 0 for one, fit in zip(every, fits, strict=True)]
    return np.array(numbers, np.int64), np.array(fits, bool)


def _is_integer(one: Any) -> bool:
    return isinstance(one, int | np.integer) and not isinstance(one, bool)


def _stored(ids: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """int64, str or object; numbers and strings are not mixed, for numpy would make strings of both."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i" and ids.ndim == 1:
        return ids.astype(np.int64)
    every = ids.tolist() if isinstance(ids, np.ndarray) else list(listed(ids, "ids"))
    if all(_is_integer(one) for one in every):
        for one in every:
            if not -_LARGEST <= one <= _LARGEST:
                raise ValueError(f"`ids`: {one} does not fit into 64 bits. Use strings.")
        return np.array(every, np.int64)
    if all(isinstance(one, str) for one in every):
        for one in every:
            if one.endswith("\0"):
                raise ValueError(f"`ids`: {one!r} ends in a zero character, which cannot be stored. Rename it.")
        return np.array(every)
    plain = {type(one) for one in every if isinstance(one, bool | np.bool_ | float | np.floating)}
    if plain or {_is_integer(one) for one in every if isinstance(one, str) or _is_integer(one)} == {True, False}:
        raise ValueError("`ids` must be all integers, all strings, or other hashable objects. Convert them first.")
    # One by one: numpy would make a table of tuples.
    array = np.empty(len(every), object)
    for place, one in enumerate(every):
        hash(one)
        array[place] = one
    return array
