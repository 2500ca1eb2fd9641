"""Names of documents: integers or texts, and where each document is."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from csr_hf.search.given_ids import distinct_ids, is_integer, list_ids, show_id

__all__ = ["DocIds", "distinct_ids", "list_ids", "number_after", "show_id"]

_SMALLEST, _LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class DocIds:
    """Unique ids of documents, by position; they never change.

    Texts are kept as UTF-8 one behind the other, so that a long one costs its own length alone.

    Args:
        n: documents.
        first: id of the first document, where they are numbered.
        numbers: int64, shape (n,); None where they are numbered from `first` on, or have texts.
        texts: UTF-8 of all texts, uint8, and where each begins and the last ends, int64, shape (n + 1,).
    """

    def __init__(
        self,
        n: int,
        first: int = 0,
        *,
        numbers: np.ndarray | None = None,
        texts: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.n, self.first, self._numbers, self._texts = n, first, numbers, texts
        self._keys: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def check(cls, ids: Iterable[Hashable] | None, n: int, first: int = 0) -> DocIds:
        """Check the ids that a caller gives.

        Args:
            ids: integers of 64 bits or texts, in the order of the documents; None numbers them from `first` on.
            n: documents.
            first: id of the first document without ids.

        Raises:
            ValueError: for what has no order, another number of ids than documents, ids that are neither all integers
                nor all strings or that no file can keep, and ids that repeat.
        """
        if ids is None:
            if first + n - 1 > _LARGEST:
                raise ValueError(f"`ids` must be given: there is no number after {first - 1}.")
            return cls(n, first)
        given = list_ids(ids, "ids")
        if len(given) != n:
            raise ValueError(f"`ids` holds {len(given)} ids, but there are {n} documents. Give one id a document.")
        found = cls._of(given)
        repeated = found._find_repeated()
        if repeated is not None:
            shown = show_id(found.at(repeated[None])[0])
            raise ValueError(f"`ids` must be unique; {shown} appears more than once. Merge or rename them.")
        return found

    @classmethod
    def _of(cls, given: Sequence[Any] | np.ndarray) -> DocIds:
        """Store ids that may repeat."""
        if isinstance(given, np.ndarray) and given.dtype.kind == "i":
            return cls(len(given), numbers=_frozen(given.astype(np.int64)))
        every = given.tolist() if isinstance(given, np.ndarray) else given
        for one in every:
            if one is None:
                raise ValueError("`ids` holds None, which names no document. Give every document an id.")
            if not (is_integer(one) or isinstance(one, str)):
                raise ValueError(
                    f"`ids` holds {show_id(one)}, a {type(one).__name__}; ids are integers or strings. Convert them."
                )
        kinds = {isinstance(one, str) for one in every}
        if len(kinds) == 2:
            raise ValueError("`ids` holds both integers and strings. Convert them to strings.")
        if kinds == {True}:
            return cls(len(every), texts=_to_bytes(every))
        for one in every:
            if not _SMALLEST <= one <= _LARGEST:
                raise ValueError(f"`ids`: {one} does not fit into 64 bits. Use strings.")
        return cls(len(every), numbers=_frozen(np.array(every, np.int64)))

    @classmethod
    def join(cls, parts: Sequence[DocIds], positions: Sequence[np.ndarray]) -> DocIds:
        """Take some ids of several, in order.

        Args:
            parts: at least one, of one kind as far as they are not empty.
            positions: of the ids to take of each, int64.
        """
        chosen = [(part, rows) for part, rows in zip(parts, positions, strict=True) if len(rows)]
        if not chosen:
            return cls(0)
        if chosen[0][0].kind == "integers":
            numbers = np.concatenate([part.at(rows) for part, rows in chosen])
            return cls(len(numbers), numbers=_frozen(numbers))
        taken = [_take_texts(*part._texts, rows) for part, rows in chosen if part._texts is not None]
        lengths = np.concatenate([np.diff(begins) for _, begins in taken])
        texts = np.concatenate([characters for characters, _ in taken])
        return cls(len(lengths), texts=(_frozen(texts), _begins(lengths)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that keep the ids in a file; none where they are numbered from `first` on."""
        if self._texts is not None:
            return {"id_texts": self._texts[0], "id_indptr": self._texts[1]}
        return {} if self._numbers is None else {"ids": self._numbers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], n: int, first: int = 0) -> DocIds:
        """Read what `to_arrays` gave, checking every number that leads to a text.

        Args:
            arrays: of `to_arrays`, perhaps among others.
            n: documents.
            first: id of the first, where they are numbered.

        Raises:
            ValueError: for arrays of other types or sizes, and for what is no text.
        """
        if "id_texts" in arrays or "id_indptr" in arrays:
            texts, begins = arrays.get("id_texts"), arrays.get("id_indptr")
            if texts is None or begins is None:
                raise ValueError("of the texts of its ids a part is missing")
            _check_array("id_texts", texts, np.uint8, len(texts))
            _check_array("id_indptr", begins, np.int64, n + 1)
            _check_texts(texts, begins)
            return cls(n, texts=(texts, begins))
        if "ids" in arrays:
            _check_array("ids", arrays["ids"], np.int64, n)
            return cls(n, numbers=arrays["ids"])
        if type(first) is not int or not _SMALLEST <= first <= _LARGEST - n + 1:
            raise ValueError(f"its first id ({first!r:.80}) is no number that {n:,} others can follow")
        return cls(n, first)

    @property
    def kind(self) -> Literal["integers", "strings"]:
        """What all ids are."""
        return "integers" if self._texts is None else "strings"

    @property
    def largest(self) -> int:
        """The largest of integers that are not negative; -1 if there are none.

        Raises:
            ValueError: for texts.
        """
        if self._texts is not None:
            raise ValueError("`ids` must be given: those of the index are strings.")
        if not self.n:
            return -1
        return max(self.first + self.n - 1, -1) if self._numbers is None else int(self._numbers.max(initial=-1))

    @property
    def nbytes(self) -> int:
        """Bytes of all ids."""
        return sum(array.nbytes for array in self.to_arrays().values())

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the ids at positions of any shape: int64, or objects that are texts."""
        if self._texts is None:
            return positions + self.first if self._numbers is None else self._numbers[positions]
        texts, begins = self._texts
        found = np.empty(positions.shape, object)
        for place, at in np.ndenumerate(positions):
            found[place] = texts[begins[at] : begins[at + 1]].tobytes().decode()
        return found

    def positions_of(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return where documents are, int64, one for each id; -1 for ids that are not here, of whatever type."""
        if not self.n:
            return np.full(len(ids), -1, np.int64)
        if self._texts is not None:
            return np.array([self._find_text(one) for one in ids], np.int64)
        wanted, comparable = _as_numbers(ids)
        if self._numbers is None:
            here = comparable & (wanted >= self.first) & (wanted <= self.first + self.n - 1)
            return np.where(here, np.where(here, wanted, self.first) - self.first, -1)
        keys, order = self._sorted_keys()
        positions = order[np.minimum(np.searchsorted(keys, wanted), self.n - 1)]
        return np.where(comparable & (self._numbers[positions] == wanted), positions, -1)

    def _find_text(self, one: Any) -> int:
        """Find the position of a text among those of the same hash; -1 for none."""
        if not isinstance(one, str) or self._texts is None:
            return -1
        keys, order = self._sorted_keys()
        texts, begins = self._texts
        wanted, key = one.encode(errors="surrogatepass"), hash(str(one))
        for place in range(int(np.searchsorted(keys, key)), self.n):
            if keys[place] != key:
                break
            at = int(order[place])
            if texts[begins[at] : begins[at + 1]].tobytes() == wanted:
                return at
        return -1

    def _sorted_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers, or hashes of the texts, in ascending order, and the position of each."""
        if self._keys is None:
            keys = self._numbers
            if keys is None:
                every = self.at(np.arange(self.n)).ravel().tolist()
                keys = np.fromiter(map(hash, every), np.int64, self.n)
            order = np.argsort(keys, kind="stable")
            self._keys = keys[order], order
        return self._keys

    def _find_repeated(self) -> np.ndarray | None:
        """Return the position of an id that appears before, as an array without dimensions; None if none does."""
        if self._numbers is None and self._texts is None:
            return None
        keys, order = self._sorted_keys()
        same = np.flatnonzero(keys[1:] == keys[:-1])
        if self._numbers is not None or not len(same):
            return order[same[0] + 1] if len(same) else None
        # Hashes may agree where texts do not.
        seen: set[tuple[int, str]] = set()
        for place in np.union1d(same, same + 1):
            entry = int(keys[place]), self.at(order[place : place + 1])[0]
            if entry in seen:
                return order[place]
            seen.add(entry)
        return None

    def __getstate__(self) -> dict[str, Any]:
        # Another process hashes otherwise.
        return {**self.__dict__, "_keys": None}

    def __len__(self) -> int:
        return self.n


def _as_numbers(ids: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ids as int64, and which of them are integers of 64 bits at all."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return ids.astype(np.int64), np.ones(len(ids), bool)
    every = list(ids)
    fits = [is_integer(one) and _SMALLEST <= one <= _LARGEST for one in every]
    numbers = [int(one) if fit else 0 for one, fit in zip(every, fits, strict=True)]
    return np.array(numbers, np.int64), np.array(fits, bool)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _begins(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return where each of several texts begins, and where the last ends."""
    begins = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=begins[1:])
    return _frozen(begins)


def _to_bytes(every: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    try:
        encoded = [str(one).encode() for one in every]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`ids`: {show_id(error.object)} holds half a character (a surrogate), which no file can keep. Rename it."
        ) from error
    return _frozen(np.frombuffer(b"".join(encoded), np.uint8)), _begins([len(one) for one in encoded])


def _take_texts(texts: np.ndarray, begins: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(begins)[rows]
    new = _begins(lengths)
    places = np.repeat(begins[:-1][rows] - new[:-1], lengths) + np.arange(new[-1])
    return texts[places], new


def _check_array(name: str, array: np.ndarray, dtype: Any, n: int) -> None:
    if array.dtype != dtype or array.shape != (n,):
        raise ValueError(f"{name} is {array.dtype} {array.shape} instead of {np.dtype(dtype)} ({n},)")


def _check_texts(texts: np.ndarray, begins: np.ndarray) -> None:
    """Check that texts follow each other, and that each is one in UTF-8."""
    if begins[0] != 0 or begins[-1] != len(texts) or (begins[1:] < begins[:-1]).any():
        raise ValueError("id_indptr does not divide id_texts")
    starts = begins[:-1][begins[:-1] < len(texts)]
    try:
        texts.tobytes().decode()
    except UnicodeDecodeError:
        raise ValueError("id_texts is no UTF-8") from None
    # A byte inside of a character begins with the bits 10.
    if (texts[starts] & 0xC0 == 0x80).any():
        raise ValueError("id_indptr divides characters")


def number_after(parts: Iterable[DocIds]) -> int:
    """Return the number after the largest id of several.

    Raises:
        ValueError: if there are texts among them.
    """
    return max(itertools.chain([0], (part.largest + 1 for part in parts if part.n)))
