"""Data sets as rows by role, split by hash into what is trained on and what is held out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.arguments import LAYOUTS, DataArguments, SourceArguments, check_weight
from csr_hf.data.array_files import holds_arrays, read_arrays
from csr_hf.data.columns import class_names, find_columns, name_few, name_rows, number_labels, select_columns
from csr_hf.data.image_columns import check_images, make_previews
from csr_hf.data.image_folder import ImageFolder, is_image_folder, read_image_folder
from csr_hf.data.readers import is_file_name, read_dataset
from csr_hf.data.vectors import Vectors, as_vectors, check_finite, column_vectors
from csr_hf.embedding.arguments import TASKS_OF_ROLES, Task
from csr_hf.embedding.images import ImageColumn

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
_BLOCK_ROWS = 4096
_CONTENTS = {"image": "images", "embedding": "embeddings"}


@dataclass
class Source:
    """Rows of one data set: what they hold by role, which are held out, and their embeddings once there are any.

    Raises:
        ValueError: for roles that are no layout, if embeddings are no floats of two axes, labels no integers, or
            either not one a row, or the weight is not above 0.
    """

    name: str
    """Where the rows come from, as tables show it."""
    roles: tuple[str, ...]
    """What a row holds, labels aside; in whatever order they are given, kept in that of their layout."""
    held_out: np.ndarray
    """Bool, shape (n,): rows that are never trained on."""
    rows: Dataset | None = None
    """A column for each role of texts or images, and `id`: the name of the row (its number if the data has none)."""
    vectors: dict[str, Vectors] = field(default_factory=dict)
    """Role -> embeddings, shape (n, input_dim)."""
    labels: np.ndarray | None = None
    """Classes as integers, shape (n,); -1 where a row has none."""
    class_names: tuple[str, ...] = ()
    """Name of each class, where the data has names."""
    kept: tuple[str, ...] = ()
    """Columns of `rows` that are kept as text beside the roles."""
    weight: float | None = None
    """Share of the rows of a training batch, relative to other sources; None: the number of rows."""
    skipped: tuple[str, ...] = ()
    """Images that are not used: those that cannot be opened, and of a folder all that its report leaves out."""
    has_ids: bool = True
    """Whether the data names its rows; else they have numbers."""

    def __post_init__(self) -> None:
        self.roles = _order_roles(self.roles, self.name)
        arrays: dict[str, Any] = {**self.vectors, **({} if self.labels is None else {"labels": self.labels})}
        for name, array in arrays.items():
            if len(array) != len(self):
                raise ValueError(f"{self.name} has {len(self)} rows, but {len(array)} of {name!r}. Give one for each.")
        self.vectors = {role: as_vectors(array, f"{role} of {self.name}") for role, array in self.vectors.items()}
        if self.labels is not None:
            self.labels = np.asarray(self.labels)
            if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu":
                raise ValueError(f"the labels of {self.name} are {self.labels.dtype}. Number the classes: integers.")
        check_weight(self.weight, self.name)

    @classmethod
    def from_arrays(
        cls,
        vectors: Mapping[str, Vectors],
        *,
        labels: np.ndarray | None = None,
        weight: float | None = None,
        name: str = "arrays",
    ) -> Source:
        """Make a source of embeddings, all of which may be trained on.

        Args:
            vectors: role -> embeddings, each (n, input_dim), arrays or tensors: `embedding` alone; `anchor`,
                `positive` and perhaps `negative`; `image` and perhaps `text`; or `text` alone.
            labels: classes as integers, shape (n,); -1 for none.
            weight: share of the rows of a batch.
            name: for messages.
        """
        held_out = np.zeros(len(next(iter(vectors.values()))), bool)
        return cls(name, tuple(vectors), held_out, vectors=dict(vectors), labels=labels, weight=weight)

    def __len__(self) -> int:
        return len(self.held_out)

    @property
    def document_role(self) -> str:
        """The role that a search returns."""
        return LAYOUTS[self.roles]

    @property
    def query_role(self) -> str | None:
        """The role that finds the document of its row; None if rows are no pairs."""
        if self.roles == ("image", "text"):
            return "text"
        return "anchor" if "positive" in self.roles else None

    @staticmethod
    def modality(role: str) -> str:
        """Return what a role holds: "image" or "text"."""
        return "image" if role == "image" else "text"

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(next(iter(self.vectors.values())).shape[1])

    def inputs(self, role: str) -> Sequence[Any]:
        """Return what the backbone embeds: n texts, or a column of images."""
        if self.rows is None:
            raise ValueError(f"{self.name} holds embeddings alone: there is nothing to embed.")
        return ImageColumn(self.rows, role) if role == "image" else self.rows[role]

    def task(self, role: str) -> Task | None:
        """Return what the backbone embeds a role as: "query" or "document"; None for images."""
        return "query" if role == self.query_role else TASKS_OF_ROLES[role]

    def show_documents(self) -> Dataset | None:
        """Return what a search shows of the documents.

        Columns `id` and `text`, `thumbnail` of images, `anchor` of pairs, and those that are kept.

        None without texts or images.
        """
        role = self.document_role
        if self.rows is None or role not in self.rows.column_names:
            return None
        if role == "image":
            shown = make_previews(self.rows)
        else:
            columns = ["id", role, *(["anchor"] if self.query_role == "anchor" else [])]
            shown = self.rows.select_columns(columns).rename_columns({role: "text"})
        for name in self.kept:
            if name not in shown.column_names:
                shown = shown.add_column(name, list(self.rows[name]))
        return shown


def _order_roles(roles: Sequence[str], name: str) -> tuple[str, ...]:
    """Put roles into the order of their layout: training knows the parts of a row by their places."""
    layouts = list(dict.fromkeys(tuple(role for role in layout if role != "label") for layout in LAYOUTS))
    for layout in layouts:
        if sorted(layout) == sorted(roles):
            return layout
    allowed = "; ".join(" + ".join(layout) for layout in layouts)
    raise ValueError(f"`roles` ({', '.join(roles)}) of {name} are no layout. Give those of one of these: {allowed}.")


def load_sources(arguments: DataArguments) -> list[Source]:
    """Load every source of a run.

    Rows with an empty text or without their image are dropped. Whether a row is held out depends on a hash of its
    document (case and spaces aside) and the seed: the same document never lies on both sides, and more rows never move
    one.

    Raises:
        ValueError: for a source that cannot be read, a missing column (those present are named), a column that holds
            anything but strings (or floats, for embeddings, or images), or no rows.
    """
    return [_load_source(source, arguments) for source in arguments.sources or [arguments]]


def _load_source(source: SourceArguments, arguments: DataArguments) -> Source:
    if not source.source:
        raise ValueError("`data.source` is missing. Name a file, a folder or a Hub id of texts, images or embeddings.")
    limits = [limit for limit in (source.limit, arguments.limit) if limit is not None]
    source = replace(source, limit=min(limits, default=None), keep=source.keep or arguments.keep)
    path = Path(source.source).expanduser()
    # The name stands in tables, plots and model cards, where the folders of this machine have no place.
    name = path.name if is_file_name(source.source) or path.exists() else source.source
    folder = read_image_folder(source) if is_image_folder(path) else None
    dataset: Any
    dataset, embeddings = (folder.rows, None) if folder else _read_rows(source)
    columns = find_columns(dataset.column_names, source)
    dataset = _name_ids(dataset, source.id_column, {*columns.values(), *source.keep})
    layout = next(known for known in LAYOUTS if set(known) == set(columns))
    selected = {role: column for role, column in columns.items() if role != "embedding"}
    rows = select_columns(dataset, selected, arguments.max_characters, keep=source.keep, name=name)
    skipped: tuple[str, ...] = ()
    vectors: dict[str, Vectors] = {}
    keys: Iterable[str]
    if "embedding" in layout:
        given = column_vectors(dataset, columns["embedding"], source.source) if embeddings is None else embeddings
        vectors["embedding"] = as_vectors(given, source.source)
        check_finite(vectors["embedding"], name)
        keys = _embedding_keys(vectors["embedding"])
    elif "image" in layout:
        rows, skipped = _drop_images(rows, folder, name, arguments.skip_bad)
        keys = list(ImageColumn(rows, "image").hashes())
    else:
        keys = rows[LAYOUTS[layout]]
    if len(rows) == 0:
        kind = next((kind for role, kind in _CONTENTS.items() if role in layout), "text")
        raise ValueError(f"data set {source.source} has no rows with {kind}. Check `data.source` and `data.columns`.")
    return Source(
        name=name,
        roles=tuple(role for role in layout if role != "label"),
        held_out=_hold_out(keys, len(rows), arguments.held_out, arguments.seed),
        rows=rows,
        vectors=vectors,
        labels=_find_labels(rows, name),
        class_names=tuple(class_names(rows)) if "label" in layout else (),
        kept=tuple(source.keep),
        weight=source.weight,
        skipped=skipped,
        has_ids="id" in dataset.column_names or "image" in layout,
    )


def _read_rows(source: SourceArguments) -> tuple[Dataset, Vectors | None]:
    """Read at most `limit` rows, and the embeddings of npy and npz files."""
    from datasets import Dataset

    if holds_arrays(source.source):
        embeddings, others = read_arrays(Path(source.source).expanduser(), source.columns)
        # The array itself is no column of a data set: row numbers stand for it.
        columns: dict[str, Any] = {
            source.columns.get("embedding", "embedding"): np.arange(len(embeddings)),
            **others,
        }
        rows = {name: column[: source.limit] for name, column in columns.items()}
        is_whole = source.limit is None or source.limit >= len(embeddings)
        return Dataset.from_dict(rows), embeddings if is_whole else embeddings[: source.limit]
    return read_dataset(source), None


def _name_ids(rows: Dataset, column: str, used: set[str]) -> Dataset:
    """Call a column of ids `id`; one that has this name already makes room.

    Raises:
        ValueError: if that one is used too.
    """
    if column == "id":
        return rows
    if "id" in rows.column_names:
        if "id" in used:
            raise ValueError(f"`data.id_column` is {column!r}, but a column 'id' is kept too. Rename that one.")
        rows = rows.remove_columns("id")
    return rows.add_column("id", list(rows[column])) if column in used else rows.rename_column(column, "id")


def _drop_images(
    rows: Dataset, folder: ImageFolder | None, name: str, skip_bad: bool
) -> tuple[Dataset, tuple[str, ...]]:
    """Drop rows whose image is missing or, on request, broken; return the names of all images that are not used."""
    rows, broken = check_images(rows, skip_bad)
    if folder:
        folder.report(rows, broken)
        return rows, folder.names_left_out
    if broken:
        logger.warning("%s: %s images cannot be opened: %s", name, f"{len(broken):,}", name_few(broken))
    return rows, broken


def _find_labels(rows: Dataset, name: str) -> np.ndarray | None:
    """Number the classes; log which rows have none."""
    labels = number_labels(rows)
    if labels is not None and (labels < 0).any():
        without = np.flatnonzero(labels < 0)
        named = name_rows(without, rows["id"])
        logger.info("%s: %s of %s rows have no class: %s", name, f"{len(without):,}", f"{len(rows):,}", named)
    return labels


def _embedding_keys(vectors: Vectors) -> Iterator[str]:
    """Yield the bytes of each embedding: they decide on which side it lies."""
    for start in range(0, len(vectors), _BLOCK_ROWS):
        with np.errstate(over="ignore"):
            block = vectors[start : start + _BLOCK_ROWS].astype(np.float16)
        for row in block:
            yield row.tobytes().hex()


def _hold_out(documents: Iterable[str], count: int, share: float, seed: int) -> np.ndarray:
    """Choose a share of `count` documents by their hashes, bool, shape (count,)."""
    threshold = int(share * 2**64)
    chosen = np.zeros(count, bool)
    if not threshold:
        return chosen
    for row, text in enumerate(documents):
        key = " ".join(text.lower().split())
        digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        chosen[row] = int.from_bytes(digest, "little") < threshold
    return chosen
