"""Read data sets: files, folders, the Hub, streams, and arrays of precomputed embeddings."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.data.arguments import SourceArguments

FILE_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tar": "webdataset",
}
ARRAY_FORMATS = (".npy", ".npz")
_SHUFFLE_BUFFER = 10_000
# Parts of webdataset shards are named after the suffixes of files.
_SHARD_PARTS = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "text", "cls": "label"}


def read_dataset(source: SourceArguments) -> Dataset:
    """Read the rows of a file, a folder or a Hub data set; of a stream the first `limit` ones.

    Raises:
        ValueError: for whatever the reading libraries raise for a bad file or an unknown name.
    """
    import datasets

    path = Path(source.source).expanduser()
    try:
        if source.streaming:
            return _read_stream(source, path)
        if path.is_dir():
            loaded: Any = datasets.load_from_disk(str(path))
        elif path.suffix in FILE_FORMATS or path.exists():
            return _read_file(path)
        else:
            loaded = datasets.load_dataset(
                source.source, source.config_name, split=source.split, revision=source.revision
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {source.source!r} cannot be read: {_causes(error)}") from error
    if isinstance(loaded, dict):
        if source.split not in loaded:
            raise ValueError(f"`data.split` ({source.split!r}) is not in {path}. Its splits: {', '.join(loaded)}.")
        loaded = loaded[source.split]
    return loaded


def read_array(path: Path, columns: dict[str, str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read the embeddings of an npy or npz file, an npy file memory-mapped, and its other arrays of the same length.

    Args:
        path: the file. An npz file may hold several arrays: `columns["embedding"]` names the embeddings, else they are
            the only one with two axes.
        columns: role -> name of an array.

    Raises:
        ValueError: if the file cannot be read, needs pickle, or does not hold embeddings of shape (n, input_dim).
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"embedding": loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"data set {str(path)!r} cannot be read: {error}") from error
    name = columns.get("embedding") if path.suffix == ".npz" else "embedding"
    wide = [key for key, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"]
    name = name or (wide[0] if len(wide) == 1 else "embedding")
    if name not in wide:
        held = ", ".join(f"{key} {array.dtype}{array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{path} holds no embeddings of shape (n, input_dim) under {name!r}, but {held}. "
            "Name the array: `data.columns` {embedding: data}."
        )
    embeddings = arrays.pop(name)
    others = {key: array for key, array in arrays.items() if array.shape == (len(embeddings),)}
    return embeddings, others


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
    if kind == "webdataset":
        return _read_shard(path)
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    reader = {"csv": Dataset.from_csv, "json": Dataset.from_json, "parquet": Dataset.from_parquet}[kind]
    return reader(str(path), **options)


def _read_shard(path: Path) -> Dataset:
    """Read a file of webdataset, its parts named like roles."""
    import datasets

    return _name_by_role(datasets.load_dataset("webdataset", data_files=str(path), split="train"))


def _name_by_role(rows: Any) -> Any:
    """Rename the parts of a shard like roles: `jpg` becomes `image`, where there is one such part."""
    for part, role in _SHARD_PARTS.items():
        if part in rows.column_names and role not in rows.column_names:
            rows = rows.rename_column(part, role)
    return rows


def _read_stream(source: SourceArguments, path: Path) -> Dataset:
    import datasets

    if path.suffix in FILE_FORMATS:
        if not path.is_file():
            raise ValueError("there is no such file.")
        options = {"sep": "\t"} if path.suffix == ".tsv" else {}
        stream: Any = datasets.load_dataset(
            FILE_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True, **options
        )
    else:
        stream = datasets.load_dataset(
            source.source, source.config_name, split=source.split, revision=source.revision, streaming=True
        )
    if path.suffix == ".tar" and not source.columns:
        stream = _name_by_role(stream)
    rows = list(stream.shuffle(seed=0, buffer_size=_SHUFFLE_BUFFER).take(source.limit))
    if not rows:
        raise ValueError("the stream has no rows.")
    wanted = {*source.columns.values(), "id"} & rows[0].keys() if source.columns else rows[0].keys()
    return datasets.Dataset.from_list([{name: row[name] for name in wanted} for row in rows])


def _causes(error: BaseException) -> str:
    """Join the first lines of an error and of its causes: `datasets` hides the reason in the cause."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None and len(lines) < 3:
        text = (str(current).strip() or type(current).__name__).splitlines()[0]
        if text not in lines:
            lines.append(text)
        current = current.__cause__
    return "; ".join(lines)
