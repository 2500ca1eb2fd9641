"""Sources of the embeddings that a caller gives: arrays, tensors, data sets, streams, or several of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from csr_hf.data.arguments import LAYOUTS
from csr_hf.data.columns import number_labels
from csr_hf.data.sources import Source
from csr_hf.data.vectors import arrow_arrays, as_vectors, column_vectors, holds_vectors
from csr_hf.plumbing.distributed import from_first_process, wait_for_files

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset, IterableDataset

    from csr_hf.data.vectors import Vectors

GivenEmbeddings: TypeAlias = (
    "Vectors | torch.Tensor | Dataset | IterableDataset | Mapping[str, Any] | Source | Sequence[Any]"
)
"""What `make_sources` takes."""

_MANIFEST = "stream.json"
_STREAMED_ROWS = 1000
_ROLES = {*chain(*LAYOUTS)}


def make_sources(given: GivenEmbeddings, folder: Path) -> list[Source]:
    """Make sources of embeddings, which stay where they lie.

    A data set has columns of embeddings named like roles: `embedding`, or `anchor` and `positive` (and `negative`), or
    `text`, or `image`, and perhaps `label`; other columns are left alone. A stream is read once, to its end, by the
    first process, into a folder from which all processes map it: the order of a training is a function of seed and
    step alone, which no stream can follow.

    Args:
        given: an array, a tensor, a list or Series of vectors, a cache, a data set, a stream, role -> any of these, or
            a source; or a list of these.
        folder: where streams are kept, by a hash of what they hold.

    Raises:
        ValueError: for integers, texts, or rows of several widths, naming the column and the row; without any data.
    """
    each = given if isinstance(given, list | tuple) and not _are_vectors(given) else [given]
    return [_make_source(one, number, folder) for number, one in enumerate(each)]


def _make_source(given: Any, number: int, folder: Path) -> Source:
    if isinstance(given, Source):
        return given
    name, columns = f"array {number}", given
    kind = type(given)
    if kind.__module__.partition(".")[0] == "datasets":
        # Not imported where no data set is given: that takes a second.
        from datasets import Dataset, IterableDataset

        name = f"data set {number}"
        if isinstance(given, Dataset):
            columns = _read_columns(given, name)
        elif isinstance(given, IterableDataset):
            columns = _read_stream(given, name, folder)
        else:
            raise ValueError(f"{name} is a {kind.__name__}. Give one of its splits: dataset['train'].")
    if not isinstance(columns, Mapping):
        columns = {"embedding": columns}
    labels = columns.get("label")
    roles = {role: vectors for role, vectors in columns.items() if role != "label"}
    if not roles:
        raise ValueError(f"{name} has no embeddings. Give them by role, for example {{'embedding': array}}.")
    vectors = {role: as_vectors(rows, f"{role} of {name}") for role, rows in roles.items()}
    return Source.from_arrays(vectors, labels=labels, name=name)


def _are_vectors(given: Sequence[Any]) -> bool:
    """Tell whether the elements of a list are the vectors of one array, rather than arrays."""
    first = given[0] if given else None
    is_list = isinstance(first, list | tuple) and bool(first) and isinstance(first[0], float)
    return is_list or getattr(first, "ndim", None) == 1


def _read_columns(dataset: Dataset, name: str) -> dict[str, Any]:
    roles = _find_roles(dataset.data.schema, name)
    columns: dict[str, Any] = {role: column_vectors(dataset, role, name) for role in roles}
    labels = number_labels(dataset)
    return columns if labels is None else {**columns, "label": labels}


def _find_roles(schema: pa.Schema, name: str) -> list[str]:
    """Find the columns that are named like the roles of a layout, those of embeddings before others."""
    layouts = [[role for role in layout if role != "label"] for layout in LAYOUTS]
    named = [layout for layout in layouts if set(layout) <= set(schema.names)]
    if not named:
        raise ValueError(
            f"{name} has none of the columns `embedding`, `anchor` and `positive`, `text` or `image`. Its columns: "
            f"{', '.join(schema.names)}. Rename one: dataset.rename_column({schema.names[0]!r}, 'embedding')."
        )
    embedded = [layout for layout in named if all(holds_vectors(schema.field(role).type) for role in layout)]
    return (embedded or named)[0]


def _read_stream(stream: IterableDataset, name: str, folder: Path) -> dict[str, Any]:
    if stream._distributed is not None:
        raise ValueError(f"{name} is the share of one process. Give the whole stream: training takes its shares.")
    kept: dict[str, Any] = from_first_process(lambda: _keep_stream(stream, name, folder))
    path, shape = Path(kept["path"]), (kept["rows"], kept["dim"])
    files = {path / role: int(np.prod(shape)) * np.dtype(dtype).itemsize for role, dtype in kept["roles"].items()}
    if kept["label"]:
        files[path / "label"] = shape[0] * 8
    wait_for_files(files)
    columns: dict[str, Any] = {
        role: np.memmap(path / role, dtype, "r", shape=shape) for role, dtype in kept["roles"].items()
    }
    if kept["label"]:
        columns["label"] = np.fromfile(path / "label", np.int64)
    return columns


def _keep_stream(stream: IterableDataset, name: str, folder: Path) -> dict[str, Any]:
    """Write the columns of a stream as files of a folder that a hash of their bytes names; describe them."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".stream-"))
    try:
        kept = _write_columns(stream, name, temporary)
        path = folder / kept.pop("hash")
        if (path / _MANIFEST).is_file():
            shutil.rmtree(temporary)
        else:
            (temporary / _MANIFEST).write_text(json.dumps(kept))
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {**kept, "path": str(path)}


def _write_columns(stream: IterableDataset, name: str, folder: Path) -> dict[str, Any]:
    digest, rows = hashlib.blake2b(digest_size=12), 0
    dtypes: dict[str, str] = {}
    widths: dict[str, int] = {}
    labels: list[pa.Array] = []
    for table in _read_tables(stream, name):
        dtypes = dtypes or dict.fromkeys(_find_roles(table.schema, name), "")
        for role in dtypes:
            arrays = arrow_arrays(table.column(role), f"column {role!r} of {name}", rows)
            dtypes[role] = dtypes[role] or ("float16" if arrays[0].dtype == np.float16 else "float32")
            if widths.setdefault(role, arrays[0].shape[1]) != arrays[0].shape[1]:
                raise ValueError(
                    f"column {role!r} of {name} does not hold embeddings of one width: row {rows} holds "
                    f"{arrays[0].shape[1]} floats, earlier ones {widths[role]}."
                )
            with (folder / role).open("ab") as file, np.errstate(over="ignore"):
                for array in arrays:
                    content = array.astype(dtypes[role]).tobytes()
                    digest.update(content)
                    file.write(content)
        if "label" in table.column_names:
            labels += table.column("label").chunks
        rows += len(table)
    if not rows:
        raise ValueError(f"{name} is an empty stream: there is nothing to learn from.")
    if len(set(widths.values())) > 1:
        raise ValueError(f"the columns of {name} differ in width: {widths}.")
    kept = {"rows": rows, "dim": next(iter(widths.values())), "roles": dtypes, "label": bool(labels)}
    if labels:
        numbers = _number(labels)
        numbers.tofile(folder / "label")
        digest.update(numbers.tobytes())
    return {**kept, "hash": digest.hexdigest()}


def _read_tables(stream: IterableDataset, name: str) -> Iterator[pa.Table]:
    import pyarrow as pa

    if stream.features is not None:
        yield from stream.with_format("arrow").iter(batch_size=_STREAMED_ROWS)
        return
    # Rows of a generator have no types of their own, and a row may differ from the next: None, or a whole number.
    for batch in stream.with_format(None).iter(batch_size=_STREAMED_ROWS):
        try:
            yield pa.table({column: _to_arrow(column, values) for column, values in batch.items()})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"the rows of {name} differ in type: {str(error).splitlines()[0]}") from error


def _to_arrow(column: str, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if column not in _ROLES:
        return pa.nulls(len(values))
    return pa.array([_to_plain(value) for value in values])


def _to_plain(value: Any) -> Any:
    """Return a row, or a label, as what Arrow takes: tensors are none of it."""
    if not hasattr(value, "ndim"):
        return value
    return np.asarray(value) if value.ndim else value.item()


def _number(labels: list[pa.Array]) -> np.ndarray:
    import pyarrow as pa
    from datasets import Dataset

    numbers = number_labels(Dataset(pa.table({"label": pa.chunked_array(labels)})))
    return np.zeros(0, np.int64) if numbers is None else numbers
