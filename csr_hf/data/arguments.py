"""What a user says of the data: sources, roles of their columns, and what is held out."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field

from csr_hf.plumbing.settings import settings

LAYOUTS = {
    ("image", "text"): "image",
    ("image", "label"): "image",
    ("image",): "image",
    ("anchor", "positive", "negative"): "positive",
    ("anchor", "positive"): "positive",
    ("text", "label"): "text",
    ("text",): "text",
    ("embedding", "label"): "embedding",
    ("embedding",): "embedding",
}
"""Roles of a data set -> the role whose rows are the documents of a search; the first that fit the columns."""


def check_weight(weight: float | None, name: str) -> None:
    """Check the weight of a source.

    Args:
        weight: share of the rows of a batch; None where it is not given.
        name: of the source.

    Raises:
        ValueError: if it is not above 0.
    """
    if weight is not None and not weight > 0:
        raise ValueError(f"`weight` ({weight}) of {name} must be above 0. Leave the source out.")


@settings
class SourceArguments:
    """One data set.

    Raises:
        ValueError: for a value out of range or unknown roles, naming it.
    """

    source: str = ""
    """A file (csv, tsv, txt, json, jsonl, parquet, arrow, npy, npz, tar of webdataset), a folder of `save_to_disk`,
    of images (captions in its `metadata.csv`, columns `file_name` and `text` or `caption`) or of npy and npz files, or
    a Hub id."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set or of a saved `DatasetDict`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """Role -> column; default: columns named like the roles. Roles are `anchor` and `positive` (and `negative`), or
    `text` (and `label`), or `image` (and `text`, its caption, or `label`), or `embedding` (and `label`): a column of
    floats, or the name of an array in an npz file."""
    id_column: str = "id"
    """Column that names the documents; rows are numbered where there is no column `id`."""
    keep: list[str] = field(default_factory=list)
    """Columns that are kept as text beside the roles, for searches to show and to filter by."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take at most this many rows."""
    streaming: bool = False
    """Read the first `limit` rows of a Hub data set or file, shuffled through a buffer, without the rest of it."""
    weight: float | None = None
    """Share of the rows of a training batch, relative to other sources; default: its number of rows."""

    def __post_init__(self) -> None:
        if self.streaming and self.limit is None:
            raise ValueError("`data.streaming` needs `data.limit`: how many rows to read.")
        check_weight(self.weight, self.source or "the data")
        if self.columns and set(self.columns) not in map(set, LAYOUTS):
            raise ValueError(
                f"`data.columns` names the roles {sorted(self.columns)}. Give `anchor` and `positive` (and "
                "`negative`), or `text` (and `label`), or `image` (and `text` or `label`), or `embedding` (and "
                "`label`)."
            )


@settings
class DataArguments(SourceArguments):
    """What a run learns from and is measured on: one data set, or several under `sources`.

    Raises:
        ValueError: for a value out of range or unknown roles, naming it.
    """

    sources: list[SourceArguments] = field(default_factory=list)
    """Several data sets, instead of the one that the other keys name; `limit` then holds for each."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the rows, chosen by hash, that is never trained on and on which the run is measured."""
    max_characters: Annotated[int, Field(ge=1)] | None = None
    """Cut texts to this length before embedding."""
    skip_bad: bool = False
    """Leave out images that cannot be opened, and say which; else the first of them ends the run."""
    seed: int = 0
    """Changes which rows are held out."""
