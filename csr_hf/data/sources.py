"""What a run learns from: columns of data sets by role, split by hash into what is trained on and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.arguments import LAYOUTS, PYTHON_DOCS, DataArguments, SourceArguments
from csr_hf.data.image_columns import check_images, image_column, show_images
from csr_hf.data.readers import ARRAY_FORMATS, FILE_FORMATS, read_array, read_dataset
from csr_hf.embedding.images import ImageColumn

if TYPE_CHECKING:
    from datasets import Dataset

# The backbone's prompt goes by role.
_PROMPTS = {"anchor": "query", "positive": "document", "negative": "document", "text": "document", "image": None}


@dataclass(frozen=True)
class SourceData:
    """The rows of a source, and which of them are held out."""

    name: str
    """Where they come from."""
    dataset: Dataset
    """One column a text role, `label` if there are labels, and `id`: a name of the row to show (its number if the
    source gives none)."""
    roles: tuple[str, ...]
    """What the rows hold, labels aside."""
    held_out: np.ndarray
    """Bool, shape (n,)."""
    embeddings: np.ndarray | None = None
    """Precomputed, shape (n, input_dim), where the role is `embedding`."""
    weight: float | None = None
    """Share of the rows of a batch."""
    skipped: tuple[str, ...] = ()
    """Images that were left out because they cannot be opened."""

    def __len__(self) -> int:
        return len(self.dataset)

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
        """What a role holds: "image" or "text"."""
        return "image" if role == "image" else "text"

    def inputs(self, role: str) -> Sequence[Any]:
        """What the backbone embeds."""
        return ImageColumn(self.dataset, role) if role == "image" else self.dataset[role]

    @property
    def labels(self) -> np.ndarray | None:
        """Classes as integers, shape (n,); -1 where a row has none."""
        if "label" not in self.dataset.column_names:
            return None
        values = ["" if value is None or value == -1 else str(value) for value in self.dataset["label"]]
        classes = {value: number for number, value in enumerate(sorted({*values} - {""}))}
        return np.array([classes.get(value, -1) for value in values], np.int64)

    def to_show(self) -> Dataset:
        """Columns `id` and `text` of the documents, and `thumbnail` of images, see `pictures.show_images`."""
        role = self.document_role
        if role != "image":
            return self.dataset.select_columns(["id", role]).rename_columns({role: "text"})
        return show_images(self.dataset)

    def prompt_name(self, role: str) -> str | None:
        """The backbone's prompt for a role."""
        return "query" if role == self.query_role else _PROMPTS[role]


def load_data(arguments: DataArguments) -> list[SourceData]:
    """Load every source of a run.

    Rows with an empty text or without their image are dropped. Whether a row is held out depends on a hash of its
    document (case and spaces aside) and the seed: the same document never lies on both sides, and more rows never move
    one.

    Raises:
        ValueError: for a source that cannot be read, a missing column (those present are named), a column that holds
            anything but strings (or floats, for embeddings, or images), or no rows.
    """
    return [_load(source, arguments) for source in arguments.sources or [arguments]]


def _load(source: SourceArguments, arguments: DataArguments) -> SourceData:
    limits = [limit for limit in (source.limit, arguments.limit) if limit is not None]
    source = replace(source, limit=min(limits, default=None))
    path = Path(source.source)
    # The name stands in tables, plots and model cards, where the folders of this machine have no place.
    name = path.name if path.suffix in (*FILE_FORMATS, *ARRAY_FORMATS) or path.exists() else source.source
    dataset, embeddings = _rows_of(source)
    skipped: tuple[str, ...] = ()
    columns = source.columns or _columns_by_name(dataset.column_names, source.source)
    for role, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"`data.columns` gives {role}: {column!r}, but {source.source} has no such column. "
                f"Its columns: {', '.join(dataset.column_names)}."
            )
    layout = next(known for known in LAYOUTS if set(known) == set(columns))
    if "embedding" in layout:
        if embeddings is None:
            embeddings = _embedding_column(dataset, columns["embedding"])
        selected = _select(dataset, {role: column for role, column in columns.items() if role == "label"})
        # The bytes of an embedding decide on which side it lies.
        keys: Sequence[str] = [row.tobytes().hex() for row in embeddings.astype(np.float16)]
    else:
        selected = _select(dataset, columns, arguments.max_characters)
        if "image" in layout:
            selected, skipped = check_images(selected, arguments.skip_bad)
            keys = list(ImageColumn(selected, "image").hashes())
        else:
            keys = selected[LAYOUTS[layout]]
    if len(selected) == 0:
        kind = "images" if "image" in layout else "text"
        raise ValueError(f"data set {source.source} has no rows with {kind}. Check `data.source` and `data.columns`.")
    held_out = _held_out(keys, arguments.held_out, arguments.seed)
    roles = tuple(role for role in layout if role != "label")
    return SourceData(name, selected, roles, held_out, embeddings, source.weight, skipped)


def _rows_of(source: SourceArguments) -> tuple[Dataset, np.ndarray | None]:
    """At most `limit` rows, and the array of an npy or npz file."""
    from datasets import Dataset

    if Path(source.source).suffix in ARRAY_FORMATS:
        embeddings, others = read_array(Path(source.source), source.columns)
        # The array itself is no column: its place is kept by row numbers.
        columns = {source.columns.get("embedding", "embedding"): list(range(len(embeddings))), **others}
        rows = {name: column[: source.limit] for name, column in columns.items()}
        return Dataset.from_dict(rows), embeddings[: source.limit]
    dataset = _python_docs(source.limit) if source.source == PYTHON_DOCS else read_dataset(source)
    if source.limit is not None and len(dataset) > source.limit:
        dataset = dataset.select(range(source.limit))
    return dataset, None


def _python_docs(limit: int | None) -> Dataset:
    from datasets import Dataset

    from csr_hf.data.python_docs import python_docs

    names, summaries, bodies = zip(*python_docs(limit), strict=True)
    return Dataset.from_dict({"id": list(names), "anchor": list(summaries), "positive": list(bodies)})


def _columns_by_name(present: Sequence[str], source: str) -> dict[str, str]:
    for layout in LAYOUTS:
        if set(layout) <= set(present):
            return {role: role for role in layout}
    raise ValueError(
        f"{source} has none of the columns `text`, `anchor` and `positive`, or `embedding`. "
        f"Its columns: {', '.join(present)}. "
        "Say which is which with `data.columns`, for example {anchor: question, positive: answer}."
    )


def _embedding_column(dataset: Dataset, column: str) -> np.ndarray:
    try:
        embeddings = np.array(dataset.with_format("numpy")[column][:], dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {column!r} does not hold embeddings of one width: {error}.") from error
    if embeddings.ndim != 2:
        raise ValueError(f"column {column!r} does not hold embeddings (lists of floats) of one width.")
    return embeddings


def _select(dataset: Dataset, columns: dict[str, str], max_characters: int | None = None) -> Dataset:
    """One column a role and `id`; empty rows dropped, texts cut."""
    from datasets import Dataset, concatenate_datasets

    ids = [str(value) for value in dataset["id"]] if "id" in dataset.column_names else None
    labels = {role: _labels(dataset, column) for role, column in columns.items() if role == "label"}
    texts = {
        role: [_text(value, column, row) for row, value in enumerate(dataset[column])]
        for role, column in columns.items()
        if role not in ("label", "image")
    }
    rows = [row for row in range(len(dataset)) if all(texts[role][row].strip() for role in texts)]
    selected = {role: [column[row][:max_characters] for row in rows] for role, column in texts.items()}
    selected |= {role: [column[row] for row in rows] for role, column in labels.items()}
    images = image_column(dataset, columns["image"]).select(rows) if "image" in columns else None
    if images is not None and ids is None:
        # An image is known by its file.
        names = [cell["path"] or str(row) for row, cell in zip(rows, images["image"], strict=True)]
    else:
        names = [ids[row] if ids else str(row) for row in rows]
    made = Dataset.from_dict({"id": names, **selected})
    return made if images is None else concatenate_datasets([made, images], axis=1)


def _labels(dataset: Dataset, column: str) -> list:
    """Classes by their names, where the data set knows them."""
    name_of = getattr(dataset.features[column], "int2str", None)
    values = list(dataset[column])
    if name_of is None:
        return values
    return [None if value is None or value < 0 else name_of(value) for value in values]


def _text(value: object, column: str, row: int) -> str:
    """One text, of a text or a list of them; nothing is an empty one."""
    parts: list[Any] = value if isinstance(value, list) else [value]
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise ValueError(f"column {column!r} holds {type(part).__name__}, not text, in row {row}.")
    return " ".join(part for part in parts if part)


def _held_out(documents: Sequence[str], share: float, seed: int) -> np.ndarray:
    threshold = int(share * 2**64)
    chosen = np.zeros(len(documents), bool)
    for row, text in enumerate(documents):
        key = " ".join(text.lower().split())
        digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        chosen[row] = int.from_bytes(digest, "little") < threshold
    return chosen
