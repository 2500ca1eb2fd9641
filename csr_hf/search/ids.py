"""Names of documents: integers, strings or anything hashable, and where each is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np


class Ids:
    """Unique ids of the documents of a segment, by position.

    Args:
        array: int64, str or object, shape (n,); None numbers documents from `first` on.
        first: id of the first document.
        n: documents.
    """

    def __init__(self, array: np.ndarray | None, n: int, first: int = 0) -> None:
        self.array, self.first, self.n = array, first, n
        self._order: np.ndarray | None = None
        self._places: dict[Hashable, int] | None = None

    @classmethod
    def checked(cls, ids: Sequence[Hashable] | np.ndarray | None, n: int, first: int = 0) -> Ids:
        """From what a caller gives.

        Raises:
            ValueError: for a wrong length, a mixture of strings and numbers, fractions, or ids that repeat.
            TypeError: for an id that is not hashable.
        """
        if ids is None:
            return cls(None, n, first)
        array = _as_array(ids)
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
        return "integers" if self.array is None or self.array.dtype.kind == "i" else _KINDS[self.array.dtype.kind]

    @property
    def none(self) -> Any:
        """What stands where there is no document."""
        return {"integers": -1, "strings": "", "objects": None}[self.kind]

    @property
    def largest(self) -> int:
        """The largest of integers; -1 if there are none."""
        return self.first + self.n - 1 if self.array is None else int(self.array.max(initial=-1))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Ids of documents."""
        return positions + self.first if self.array is None else self.array[positions]

    def positions_of(self, ids: Iterable[Hashable]) -> np.ndarray:
        """Where documents are, int64, one for each id; -1 for ids that are not here."""
        wanted = _as_array(list(ids))
        if not len(wanted) or not self.n or Ids(wanted, len(wanted)).kind != self.kind:
            return np.full(len(wanted), -1, np.int64)
        if self.array is None:
            positions = wanted - self.first
            return np.where((positions >= 0) & (positions < self.n), positions, -1)
        if self.kind == "objects":
            if self._places is None:
                self._places = {one: place for place, one in enumerate(self.array)}
            return np.array([self._places.get(one, -1) for one in wanted], np.int64)
        if self._order is None:
            self._order = np.argsort(self.array, kind="stable")
        places = np.searchsorted(self.array, wanted, sorter=self._order)
        positions = self._order[np.minimum(places, self.n - 1)]
        return np.where(self.array[positions] == wanted, positions, -1)

    def _repeated(self) -> Any:
        if self.array is None or self.n < 2:
            return None
        if self.kind == "objects":
            seen: set[Hashable] = set()
            return next((one for one in self.array if one in seen or seen.add(one)), None)  # type: ignore[func-returns-value]
        ordered = np.sort(self.array)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        return ordered[same[0]].item() if len(same) else None


_KINDS = {"U": "strings", "O": "objects"}


def _as_array(ids: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """int64, str or object; numbers and strings are not mixed, for numpy would make strings of both."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iU" and ids.ndim == 1:
        return ids.astype(np.int64) if ids.dtype.kind == "i" else ids.copy()
    listed = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    types = {bool if isinstance(one, bool | np.bool_) else _type_of(one) for one in listed}
    if types <= {int}:
        return np.array(listed, np.int64)
    if types == {str}:
        return np.array(listed)
    if types & {float, bool} or len(types & {int, str}) == 2:
        raise ValueError("`ids` must be all integers, all strings, or other hashable objects. Convert them first.")
    # One by one: numpy would make a table of tuples.
    array = np.empty(len(listed), object)
    for place, one in enumerate(listed):
        hash(one)
        array[place] = one
    return array


def _type_of(one: Any) -> type:
    if isinstance(one, int | np.integer):
        return int
    if isinstance(one, float | np.floating):
        return float
    return str if isinstance(one, str) else object
