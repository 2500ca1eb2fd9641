"""What the documents of a collection have in common; it is stored inside the backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from csr_hf.backends.metadata import arrow_field
from csr_hf.plumbing.settings import settings, suggest
from csr_hf.sparse_codes import SparseCodes


@settings
class Schema:
    """What all documents of a collection have in common; it is stored inside the backend."""

    dim: int
    """Length of the latents axis, `codes.dim`."""
    k: int
    """Largest number of latents of a document."""
    ids: Literal["integers", "strings"] = "integers"
    """Type of the ids."""
    head: str | None = None
    """Fingerprint of the head, `codes.head_fingerprint`. Codes of another head are refused."""
    decoded: bool = False
    """Whether scores are divided by the norms of the decoded documents instead of those of the codes."""
    columns: dict[str, str] = field(default_factory=dict)
    """Metadata of the documents, column -> kind: "text", "numeric text" (whose texts are all numbers, or empty),
    "integer", "number", "boolean", or a type of Arrow for dates and times."""
    created: str = ""
    """Random word that `create` chooses, so that two collections of the same name can be told apart."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.dim:
            raise ValueError(f"`k` ({self.k}) must be between 1 and `dim` ({self.dim}).")
        for column, kind in self.columns.items():
            arrow_field(column, kind)

    def check_fits(self, other: Schema, collection: str) -> None:
        """Raise ValueError if documents of another schema do not fit into the existing collection."""
        if other.k > self.k:
            raise ValueError(
                f"`k` ({other.k}) is above that of the collection {collection!r} ({self.k}). Choose another "
                "`collection`, or pass `replace=True` to remove the existing one."
            )
        self._check_columns(other.columns, collection)
        for name in ("dim", "ids", "head", "decoded"):
            old, new = getattr(self, name), getattr(other, name)
            # Codes of an unknown head go with those of any head.
            if old != new and not (name == "head" and None in (old, new)):
                raise ValueError(
                    f"`{name}` ({new!r}) is not that of the collection {collection!r} ({old!r}). Choose another "
                    "`collection`, or pass `replace=True` to remove the existing one."
                )

    def check_codes(self, codes: SparseCodes) -> None:
        """Raise ValueError if codes come from another head."""
        if codes.dim != self.dim:
            raise ValueError(
                f"`codes.dim` ({codes.dim}) is not the collection's dim ({self.dim}). Encode with its head."
            )
        if None not in (codes.head_fingerprint, self.head) and codes.head_fingerprint != self.head:
            raise ValueError(
                f"`codes.head_fingerprint` ({codes.head_fingerprint}) is not the head of the collection "
                f"({self.head}). Encode with that head, or create another collection."
            )

    def _check_columns(self, others: Mapping[str, str], collection: str) -> None:
        for column, kind in others.items():
            if column not in self.columns:
                advice = suggest(column, list(self.columns)) if self.columns else "It was created without metadata."
                raise ValueError(f"`columns` has {column!r}, which the collection {collection!r} has not. {advice}")
            if kind != self.columns[column]:
                raise ValueError(
                    f"`columns`: {column!r} is {kind}, in the collection {collection!r} it is {self.columns[column]}. "
                    "Convert it, or pass `replace=True` to remove the existing collection."
                )
