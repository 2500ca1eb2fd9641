"""`Latents`: what is known of the latents of a head, by number or name, as `latents.json` keeps it."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.foreign import one_line

DOUBTFUL = 0.7
"""AUC below which a name is marked: it hardly tells texts with the latent from texts without."""
FOUND_AGAIN = 0.7
"""Cosine of two atoms from which on they count as the same latent."""
_FORMAT = "csr_hf.latents/1"
_LONGEST_NAME, _MOST_SHOWN = 200, 3


@dataclass(frozen=True)
class Example:
    """A text, or a picture with its caption, in which a latent is active."""

    text: str
    value: float
    """Of the latent."""
    thumbnail: bytes | None = None
    """A small JPEG of a picture; not kept in files."""


@dataclass(frozen=True)
class Latent:
    """What is known of one latent."""

    number: int
    name: str
    """One to four words; empty for a latent that never fires."""
    fires: float
    """Share of the texts in which it is active."""
    auc: float | None = None
    """How well the name, embedded by the backbone, tells texts with the latent from texts without; None: too rare."""
    auc_words: float | None = None
    """The same by BM25 of the words of the name."""
    together: Sequence[tuple[int, float]] = ()
    """Latents that fire with it, and the correlations."""
    examples: Sequence[Example] = ()
    """Texts over its range, the strongest first."""
    again: float | None = None
    """Cosine of its atom and its partner's in a head of another seed; None where none was given."""

    @property
    def is_doubtful(self) -> bool:
        """Whether the name says little: its AUC is below 0.7, or unknown."""
        return self.auc is None or self.auc < DOUBTFUL


_KEYS = {each.name for each in fields(Latent)} | {"doubtful"}


@dataclass(frozen=True)
class Latents:
    """The latents of a head."""

    latents: Sequence[Latent]
    """Latent i at place i."""
    head: str
    """Fingerprint of the head."""
    texts: int
    """Texts that they were named by."""
    scores: Sequence[dict[str, Any]] = field(default_factory=tuple)
    """How well names predict, by method, measure and share of the texts: rows of a table."""

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, number: int) -> Latent:
        return self.latents[number]

    def __iter__(self) -> Iterator[Latent]:
        return iter(self.latents)

    @property
    def live(self) -> list[Latent]:
        """Those that fire."""
        return [latent for latent in self.latents if latent.fires > 0]

    @property
    def found_again(self) -> float | None:
        """Share of the live latents whose atom another seed has too; None where none was compared."""
        known = [latent.again for latent in self.live if latent.again is not None]
        return sum(cosine >= FOUND_AGAIN for cosine in known) / len(known) if known else None

    def name(self, number: int) -> str:
        """Return the name of a latent, with its number where others have the same, or its number alone."""
        name = self.latents[number].name
        if not name:
            return f"latent {number}"
        return f"{name} #{number}" if name.lower() in self._shared else name

    @cached_property
    def _shared(self) -> set[str]:
        """Names that several latents have."""
        counts = Counter(each.name.lower() for each in self.latents if each.name)
        return {name for name, count in counts.items() if count > 1}

    def find(self, latent: int | str) -> int:
        """Find a latent by number or name.

        Args:
            latent: its number, as an integer or in digits, or its name as given or as `name` shows it, case aside.

        Raises:
            ValueError: if there is no such latent (the nearest name is given), or several have the name.
        """
        if not isinstance(latent, str) or latent.strip().isdecimal():
            number = int(latent)
            if not 0 <= number < len(self):
                raise ValueError(f"latent {number} does not exist. Give a number from 0 to {len(self) - 1:,}.")
            return number
        wanted = latent.strip().lower()
        named = {each.number: self.name(each.number) for each in self.latents if each.name}
        found = [number for number, name in named.items() if wanted in (name.lower(), str(self[number].name).lower())]
        if not found:
            raise ValueError(f"{latent!r} names no latent. {_suggest(wanted, list(named.values()))}")
        if len(found) > 1:
            raise ValueError(f"{latent!r} names the latents {', '.join(map(str, found))}. Give one of the numbers.")
        return found[0]

    def without_examples(self) -> Latents:
        """Leave out the texts that latents were named by: names are published, texts of a training are not."""
        return replace(self, latents=[replace(latent, examples=()) for latent in self.latents])

    def save(self, path: str | Path) -> None:
        """Write one JSON file, whole or not at all; pictures are left out.

        Raises:
            OSError: if the folder cannot be written.
        """
        content = {"format": _FORMAT, "head": self.head, "texts": self.texts, "scores": list(self.scores)}
        latents = [_to_record(latent) for latent in self.latents]
        with write_whole(path) as temporary:
            lines = ",\n".join(json.dumps(record, ensure_ascii=False, allow_nan=False) for record in latents)
            head = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)[:-2]
            temporary.write_text(f'{head},\n "latents": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, head: str | None = None) -> Latents:
        """Read what `save` wrote.

        Args:
            path: the JSON file.
            head: fingerprint of the head that it must be of; None takes any.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else, or is of another head.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"it is not of the format {_FORMAT}")
            records = content["latents"]
            latents = [_from_record(record, number, len(records)) for number, record in enumerate(records)]
            found = cls(latents, str(content["head"]), int(content["texts"]), tuple(content["scores"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged, or no file of latents ({error}). `csr-hf explain RUN` makes one."
            ) from error
        if head is not None and found.head != head:
            raise ValueError(f"{path} names the latents of another head ({found.head}) than {head}. Explain it again.")
        return found


def _suggest(wanted: str, names: Sequence[str]) -> str:
    """Name what a wrong name resembles: a part of a name, or its letters."""
    words = set(wanted.split())
    sharing = [name for name in names if words & set(name.lower().replace(",", "").split())][:_MOST_SHOWN]
    near = sharing or difflib.get_close_matches(wanted, names, n=_MOST_SHOWN, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return "`csr-hf explain RUN` lists the names; numbers are taken as well."


def _to_record(latent: Latent) -> dict[str, Any]:
    record = asdict(latent)
    record["examples"] = [{"text": each.text, "value": each.value} for each in latent.examples]
    record["doubtful"] = latent.is_doubtful
    return record


def _from_record(record: dict[str, Any], number: int, count: int) -> Latent:
    """Read a latent that a stranger may have written."""
    if record["number"] != number:
        raise ValueError(f"latent {record['number']} stands at place {number}")
    unknown = sorted(record.keys() - _KEYS)
    if unknown:
        raise ValueError(f"latent {number} has {unknown[0]!r}")
    together = tuple((int(other), float(strength)) for other, strength in record["together"])
    if any(not 0 <= other < count for other, _ in together):
        raise ValueError(f"latent {number} fires with one that there is not")
    examples = tuple(Example(str(each["text"]), float(each["value"])) for each in record["examples"])
    numbers = {name: None if record[name] is None else float(record[name]) for name in ("auc", "auc_words", "again")}
    name, fires = one_line(str(record["name"]))[:_LONGEST_NAME], float(record["fires"])
    return Latent(number, name, fires, together=together, examples=examples, **numbers)
