"""Texts to learn from: a Hub data set, a local file, or the built-in corpus; columns by role, split by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

PYTHON_DOCS = "python-docs"
"""Name of the built-in corpus."""

# Roles of a data set -> the role whose texts are the documents of a search. The backbone's prompt goes by role.
_LAYOUTS = {("anchor", "positive"): "positive", ("text",): "text"}
_PROMPTS = {"anchor": "query", "positive": "document", "text": "document"}
FILE_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


@dataclass
class DataArguments:
    """Which texts a run learns from and is measured on.

    Raises:
        ValueError: for a value out of range or an unknown role, naming it.
    """

    source: str = PYTHON_DOCS
    """`python-docs`, a file (csv, tsv, json, jsonl, parquet, arrow), a folder of `save_to_disk`, or a Hub id."""
    config_name: str | None = None
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set or of a saved `DatasetDict`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """Role (`anchor` and `positive`, or `text`) -> column; default: columns named like the roles."""
    limit: int | None = None
    """Take at most this many rows."""
    held_out: float = 0.1
    """Share of the rows, chosen by hash, that is never trained on and on which the run is measured."""
    max_characters: int | None = None
    """Cut texts to this length before embedding."""
    seed: int = 0
    """Changes which rows are held out."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"`data.held_out` ({self.held_out}) must be in [0, 1).")
        for name in ("limit", "max_characters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`data.{name}` ({value}) must be at least 1.")
        if self.columns and tuple(sorted(self.columns)) not in _LAYOUTS:
            raise ValueError(
                f"`data.columns` names the roles {sorted(self.columns)}. Give `anchor` and `positive`, or `text`."
            )


@dataclass(frozen=True)
class TextData:
    """Texts by role, and which of them are held out."""

    name: str
    """Where they come from."""
    dataset: Dataset
    """One column a role, and `id`: a name of the row to show (its number if the source gives none)."""
    roles: tuple[str, ...]
    """`("anchor", "positive")` or `("text",)`."""
    held_out: np.ndarray
    """Bool, shape (n,)."""

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def document_role(self) -> str:
        """The role whose texts a search returns."""
        return _LAYOUTS[self.roles]

    @property
    def is_pairs(self) -> bool:
        """Whether each row is a query with its answer."""
        return self.roles == ("anchor", "positive")

    def prompt_name(self, role: str) -> str:
        """The backbone's prompt for a role."""
        return _PROMPTS[role]


def load_texts(arguments: DataArguments) -> TextData:
    """Load the texts of a run.

    Rows with an empty text are dropped. Whether a row is held out depends on a hash of its document (case and spaces
    aside) and the seed: the same document never lies on both sides, and more rows never move one.

    Raises:
        ValueError: for a source that cannot be read, a missing column (those present are named), a column that holds
            anything but strings, or no rows.
    """
    dataset = _python_docs(arguments.limit) if arguments.source == PYTHON_DOCS else _read(arguments)
    columns = arguments.columns or _columns_by_name(dataset.column_names, arguments.source)
    for role, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"`data.columns` gives {role}: {column!r}, but {arguments.source} has no such column. "
                f"Its columns: {', '.join(dataset.column_names)}."
            )
    roles = next(layout for layout in _LAYOUTS if set(layout) == set(columns))
    dataset = _select(dataset, {role: columns[role] for role in roles}, arguments)
    if len(dataset) == 0:
        raise ValueError(f"data set {arguments.source} has no rows with text. Check `data.source` and `data.columns`.")
    held_out = _held_out(dataset[_LAYOUTS[roles]], arguments.held_out, arguments.seed)
    # The name stands in tables, plots and model cards, where the folders of this machine have no place.
    path = Path(arguments.source)
    name = path.name if path.suffix in FILE_FORMATS or path.exists() else arguments.source
    return TextData(name, dataset, roles, held_out)


def fingerprint_texts(texts: Iterable[str]) -> str:
    """A hash of the texts and their order."""
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _python_docs(limit: int | None) -> Dataset:
    from datasets import Dataset

    from csr_hf.training.python_docs import python_docs

    names, summaries, bodies = zip(*python_docs(limit), strict=True)
    return Dataset.from_dict({"id": list(names), "anchor": list(summaries), "positive": list(bodies)})


def _read(arguments: DataArguments) -> Dataset:
    """The rows of a file, a folder or a Hub data set.

    Everything that the reading libraries raise for a bad file or an unknown name becomes one ValueError.
    """
    import datasets

    path = Path(arguments.source).expanduser()
    try:
        if path.is_dir():
            loaded: Any = datasets.load_from_disk(str(path))
        elif path.suffix in FILE_FORMATS or path.exists():
            return _read_file(path)
        else:
            loaded = datasets.load_dataset(
                arguments.source, arguments.config_name, split=arguments.split, revision=arguments.revision
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {arguments.source!r} cannot be read: {_causes(error)}") from error
    if isinstance(loaded, dict):
        if arguments.split not in loaded:
            raise ValueError(f"`data.split` ({arguments.split!r}) is not in {path}. Its splits: {', '.join(loaded)}.")
        loaded = loaded[arguments.split]
    return loaded


def _read_file(path: Path) -> Dataset:
    from datasets import Dataset

    if not path.is_file():
        raise ValueError("there is no such file.")
    if path.suffix not in FILE_FORMATS:
        raise ValueError(f"files ending in {path.suffix!r} are unknown. Known: {', '.join(FILE_FORMATS)}.")
    if path.stat().st_size == 0:
        raise ValueError("the file is empty.")
    kind = FILE_FORMATS[path.suffix]
    if kind == "arrow":
        return Dataset.from_file(str(path))
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    reader = {"csv": Dataset.from_csv, "json": Dataset.from_json, "parquet": Dataset.from_parquet}[kind]
    return reader(str(path), **options)


def _columns_by_name(present: Sequence[str], source: str) -> dict[str, str]:
    for layout in _LAYOUTS:
        if set(layout) <= set(present):
            return {role: role for role in layout}
    raise ValueError(
        f"{source} has neither a column `text` nor `anchor` and `positive`. Its columns: {', '.join(present)}. "
        "Say which is which with `data.columns`, for example {anchor: question, positive: answer}."
    )


def _select(dataset: Dataset, columns: dict[str, str], arguments: DataArguments) -> Dataset:
    """One column a role and `id`; empty rows dropped, texts cut, at most `limit` rows."""
    from datasets import Dataset

    if arguments.limit is not None and len(dataset) > arguments.limit:
        dataset = dataset.select(range(arguments.limit))
    ids = [str(value) for value in dataset["id"]] if "id" in dataset.column_names else None
    texts: dict[str, list[str]] = {role: list(dataset[column]) for role, column in columns.items()}
    for role, column in texts.items():
        for row, text in enumerate(column):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"column {columns[role]!r} holds {type(text).__name__}, not text, in row {row}.")
    rows = [row for row in range(len(dataset)) if all((texts[role][row] or "").strip() for role in texts)]
    selected = {role: [column[row][: arguments.max_characters] for row in rows] for role, column in texts.items()}
    return Dataset.from_dict({"id": [ids[row] if ids else str(row) for row in rows], **selected})


def _held_out(documents: Sequence[str], share: float, seed: int) -> np.ndarray:
    threshold = int(share * 2**64)
    chosen = np.zeros(len(documents), bool)
    for row, text in enumerate(documents):
        key = " ".join(text.lower().split())
        digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        chosen[row] = int.from_bytes(digest, "little") < threshold
    return chosen


def _causes(error: BaseException) -> str:
    """First lines of an error and of what caused it: `datasets` hides the reason in the cause."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None and len(lines) < 3:
        text = (str(current).strip() or type(current).__name__).splitlines()[0]
        if text not in lines:
            lines.append(text)
        current = current.__cause__
    return "; ".join(lines)
