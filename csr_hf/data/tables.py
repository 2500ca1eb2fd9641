"""Open a file as a table, whichever format it has, and read chosen columns of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.data.arrow_files import ArrowFile, ParquetFile
from csr_hf.data.delimited import DelimitedFile
from csr_hf.data.json_files import JSONFile, Kind
from csr_hf.data.mapped import as_dataset, map_batches, take_rows
from csr_hf.data.text_files import COMPRESSIONS, read_lines

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_BLOCK_ROWS = 10_000


class Table:
    """A file of rows and named columns; reading it twice gives the same.

    Args:
        path: a csv, tsv, txt, json, jsonl, parquet or Arrow file; those of text may be compressed (.gz, .bz2, .zst).

    Raises:
        ValueError: if it is missing, empty, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError("there is no such file.")
        if not path.is_file():
            # It is read twice, which a pipe cannot be.
            raise ValueError("it is a device or a pipe. Save what it gives into a file, and name that.")
        if path.stat().st_size == 0:
            raise ValueError("the file is empty.")
        self._file = _open(path)

    def names(self, limit: int | None = None) -> list[str]:
        """Return the names of the columns; of jsonl the keys of the first `limit` rows, or of all."""
        return self._file.names(limit)

    def batches(self, kinds: Mapping[str, Kind]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in blocks, with the chosen columns alone.

        Cells of csv, tsv and txt are strings, and so are texts and labels of json; columns of the others keep their
        types. Missing cells are null: empty ones of csv, keys that json leaves out.

        Args:
            kinds: column -> what it holds, as json has no types.

        Raises:
            ValueError: for what cannot be read, naming its place.
        """
        return self._file.batches(kinds)

    def read(self, kinds: Mapping[str, Kind], limit: int | None = None) -> Dataset:
        """Read the chosen columns of the first `limit` rows, or of all, as a memory-mapped data set.

        Raises:
            ValueError: as `batches` does, and if there are no rows or no room on the disk.
        """
        if isinstance(self._file, ArrowFile):
            return as_dataset(self._file.read(kinds, limit))
        return as_dataset(map_batches(take_rows(self.batches(kinds), limit)))


def table_format(path: Path) -> str | None:
    """Tell the format of a table by the ending of its name; None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    format_ = _FORMATS.get(suffixes[-2] if is_compressed and len(suffixes) > 1 else suffixes[-1] if suffixes else "")
    return None if is_compressed and format_ in ("parquet", "arrow") else format_


class _Lines:
    """A text file as a table of one column, `text`: a row for each line, empty ones too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, limit: int | None = None) -> list[str]:
        return ["text"]

    def batches(self, names: Mapping[str, Kind]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        lines = read_lines(self.path)
        while block := [line or None for _, line in zip(range(_BLOCK_ROWS), lines, strict=False)]:
            yield pa.RecordBatch.from_arrays([pa.array(block, pa.string())], names=["text"])


def _open(path: Path) -> DelimitedFile | JSONFile | ParquetFile | ArrowFile | _Lines:
    match table_format(path):
        case "csv":
            return DelimitedFile(path, ",")
        case "tsv":
            return DelimitedFile(path, "\t")
        case "lines":
            return _Lines(path)
        case "json":
            return JSONFile(path, by_line=False)
        case "jsonl":
            return JSONFile(path, by_line=True)
        case "parquet":
            return ParquetFile(path)
        case "arrow":
            return ArrowFile(path)
    advice = " Save the sheet as csv in UTF-8." if path.suffix.lower() in _SPREADSHEETS else ""
    raise ValueError(f"files ending in {path.suffix!r} are unknown. Known: {', '.join(_FORMATS)}.{advice}")
