"""Read data sets: files, folders, the Hub, and streams."""

from __future__ import annotations

import glob
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.data.array_files import ARRAY_FORMATS
from csr_hf.data.columns import find_columns
from csr_hf.data.mapped import as_dataset
from csr_hf.data.tables import Table, table_format

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from csr_hf.data.arguments import SourceArguments
    from csr_hf.data.json_files import Kind

logger = logging.getLogger(__name__)

_SHUFFLE_BUFFER = 10_000
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Parts of webdataset shards are named after the suffixes of files.
_SHARD_PARTS = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "text", "cls": "label"}
_KINDS: dict[str, Kind] = {"label": "label", "embedding": "vectors", "image": "image"}


def is_file_name(source: str) -> bool:
    """Tell whether a source names a file, by its ending; else it is a folder or a data set of the Hub."""
    path = Path(source)
    return table_format(path) is not None or path.suffix.lower() in (".tar", *ARRAY_FORMATS)


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether a folder is what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` writes."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_dataset(source: SourceArguments, option: str = "`data.columns`") -> Dataset:
    """Read the columns that a source needs, of a file, a folder or a Hub data set; of a stream the first `limit` rows.

    A file that is a table is read as it is now, and only its columns of roles, of ids and of `keep`. It is kept in a
    mapped file, not in memory.

    Args:
        source: what is read.
        option: what the user names columns by, for messages.

    Raises:
        ValueError: for a source that cannot be read, with the reason, or that lacks a column; those present are named.
    """
    if _URL.match(source.source):
        shown = source.source.partition("?")[0]
        raise ValueError(f"data set {shown!r} cannot be read: it is a URL. Download the file, and give its path.")
    path = Path(source.source).expanduser()
    if table_format(path) is not None and not path.is_dir():
        with _named(source, str):
            table = Table(path)
            names = table.names(source.limit)
        kinds = _find_kinds(names, source, option)
        with _named(source, str):
            if source.streaming:
                return as_dataset(_sample_rows(table.batches(kinds), source.limit or 0))
            return table.read(kinds, source.limit)
    with _named(source, _causes):
        rows = _read_stream(source, path) if source.streaming else _read_other(source, path)
    if source.limit is not None and len(rows) > source.limit:
        rows = rows.select(range(source.limit))
    _find_kinds(rows.column_names, source, option)
    return rows


def _find_kinds(names: list[str], source: SourceArguments, option: str) -> dict[str, Kind]:
    """Find the columns that a source needs, and what each holds."""
    columns = find_columns(names, source, option)
    kinds: dict[str, Kind] = {column: _KINDS.get(role, "text") for role, column in columns.items()}
    ids: dict[str, Kind] = {source.id_column: "text"} if source.id_column in names else {}
    return {**dict.fromkeys(source.keep, "shown"), **ids, **kinds}


def _read_other(source: SourceArguments, path: Path) -> Dataset:
    """Read what is no table: folders, tars of webdataset, the Hub."""
    import datasets

    if path.is_dir():
        if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source.source):
            logger.info("source     %s is a folder here: it is read, not a data set of that name on the Hub", path)
        if not is_saved_dataset(path):
            tables = sorted(file.name for file in path.iterdir() if table_format(file))
            found = f"It has {', '.join(tables[:3])}: name one of them." if tables else "Name a file."
            raise ValueError(f"the folder holds neither images nor what `Dataset.save_to_disk` writes. {found}")
        loaded: Any = datasets.load_from_disk(str(path))
        if not isinstance(loaded, dict):
            return loaded
        if source.split not in loaded:
            raise ValueError(f"`data.split` ({source.split!r}) is not in {path}. Its splits: {', '.join(loaded)}.")
        return loaded[source.split]
    if path.suffix.lower() == ".tar" and path.is_file():
        return _load_shard(path)
    if path.exists() or is_file_name(source.source):
        # It names the formats that there are, or says that there is no such file.
        Table(path)
    return datasets.load_dataset(source.source, source.config_name, split=source.split, revision=source.revision)


def _load_shard(path: Path) -> Dataset:
    """Load a tar of webdataset as it is now: the cache of `datasets` knows a file by its name and time alone."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        # What is mapped stays readable when its file is gone.
        files = glob.escape(str(path))
        return _name_by_role(datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=fresh))


def _name_by_role(rows: Any) -> Any:
    """Rename the parts of a shard like roles: `jpg` becomes `image`, where there is one such part."""
    for part, role in _SHARD_PARTS.items():
        if part in rows.column_names and role not in rows.column_names:
            rows = rows.rename_column(part, role)
    return rows


def _read_stream(source: SourceArguments, path: Path) -> Dataset:
    import datasets

    if path.suffix.lower() == ".tar":
        if not path.is_file():
            raise ValueError("there is no such file.")
        files = glob.escape(str(path))
        stream: Any = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
        stream = _name_by_role(stream) if not source.columns else stream
    else:
        stream = datasets.load_dataset(
            source.source, source.config_name, split=source.split, revision=source.revision, streaming=True
        )
    rows = list(stream.shuffle(seed=0, buffer_size=_SHUFFLE_BUFFER).take(source.limit))
    if not rows:
        raise ValueError("the stream has no rows.")
    names = {*source.columns.values(), *source.keep, source.id_column} if source.columns else rows[0].keys()
    return datasets.Dataset.from_list([{name: row[name] for name in names & rows[0].keys()} for row in rows])


def _sample_rows(batches: Iterator[pa.RecordBatch], limit: int) -> pa.Table:
    """Read the first `limit` rows of what comes out of a buffer that shuffles them."""
    import pyarrow as pa

    def shuffle() -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng(0)
        buffer: list[pa.RecordBatch] = []
        for row in (batch.slice(place, 1) for batch in batches for place in range(len(batch))):
            if len(buffer) < _SHUFFLE_BUFFER:
                buffer.append(row)
                continue
            place = int(rng.integers(_SHUFFLE_BUFFER))
            yield buffer[place]
            buffer[place] = row
        yield from (buffer[place] for place in rng.permutation(len(buffer)))

    rows = list(islice(shuffle(), limit))
    if not rows:
        raise ValueError("it has no rows.")
    return pa.Table.from_batches(rows).combine_chunks()


@contextmanager
def _named(source: SourceArguments, describe: Callable[[Exception], str]) -> Iterator[None]:
    """Turn the errors of reading into those of wrong input that name the source."""
    import datasets

    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {source.source!r} cannot be read: {describe(error)}") from error


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
