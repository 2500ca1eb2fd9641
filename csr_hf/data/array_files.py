"""Read embeddings that exist already: npy and npz files, and folders of them."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np

from csr_hf.data.vectors import ChunkedVectors, Vectors

ARRAY_FORMATS = (".npy", ".npz")

Arrays: TypeAlias = dict[str, np.ndarray]
"""Name -> array."""

# Of the record that stands before a member of a zip archive, and where it says how long its name and extras are.
_RECORD_BYTES = 30
_LENGTHS = slice(26, 30)


def holds_arrays(source: str) -> bool:
    """Tell whether a source is embeddings in npy or npz files: one of them, or a folder of nothing else."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = _visible_files(path)
        return bool(files) and all(file.suffix.lower() in ARRAY_FORMATS for file in files)
    return path.suffix.lower() in ARRAY_FORMATS


def read_arrays(path: Path, columns: dict[str, str]) -> tuple[Vectors, Arrays]:
    """Read embeddings, and the other arrays that have an entry for each of them.

    What an npy file holds, and an npz file that is not compressed, is memory-mapped. The files of a folder are read as
    one, in the order of the numbers in their names.

    Args:
        path: a file, or a folder of npy and npz files. An npz file may hold several arrays: `columns["embedding"]`
            names the embeddings, else they are the only one with two axes.
        columns: role -> name of an array.

    Returns:
        Embeddings, shape (n, input_dim), and name -> array, shape (n,): those of shape (n, 1) are flattened, and
        floats that are whole numbers become int64.

    Raises:
        ValueError: if a file cannot be read, needs pickle, or does not hold embeddings of shape (n, input_dim), or the
            files of a folder differ in width, type or the arrays they hold.
    """
    if not path.is_dir():
        return _read_file(path, columns)
    files = sorted(_visible_files(path), key=_numbers_of_name)
    parts = [_read_file(file, columns) for file in files]
    first, others = parts[0]
    for file, (embeddings, others_of_file) in zip(files, parts, strict=True):
        kinds = [(rows.shape[1], rows.dtype) for rows in (first, embeddings)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{file} holds {kinds[1][1]} {kinds[1][0]} wide, {files[0].name} {kinds[0][1]} {kinds[0][0]} wide. "
                "The files of a folder must be of one backbone."
            )
        if others_of_file.keys() != others.keys():
            names = [", ".join(sorted(part)) or "none" for part in (others_of_file, others)]
            raise ValueError(f"{file} has the arrays {names[0]} beside the embeddings, {files[0].name} {names[1]}.")
    joined = {name: np.concatenate([part[name] for _, part in parts]) for name in others}
    return ChunkedVectors([embeddings for embeddings, _ in parts]), joined


def _visible_files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if not file.name.startswith(".")]


def _numbers_of_name(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.name


def _read_file(path: Path, columns: dict[str, str]) -> tuple[np.ndarray, Arrays]:
    is_archive = path.suffix.lower() == ".npz"
    try:
        arrays = _load_archive(path) if is_archive else {"embedding": np.load(path, mmap_mode="r")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"data set {str(path)!r} cannot be read: {error}") from error
    name = columns.get("embedding") if is_archive else "embedding"
    wide = [key for key, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] > 1]
    name = name or (wide[0] if len(wide) == 1 else "embedding")
    if name not in wide and not is_archive:
        array = arrays["embedding"]
        next_step = 'array.astype("float32")' if array.ndim == 2 else "one embedding a row"
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}, not floats of shape (n, input_dim). Save {next_step}."
        )
    if name not in wide:
        held = ", ".join(f"{key} {array.dtype}{array.shape}" for key, array in arrays.items())
        raise ValueError(
            f"{path} holds no embeddings of shape (n, input_dim) under {name!r}, but {held}. "
            "Name the array: `data.columns` {embedding: data}."
        )
    embeddings = arrays.pop(name)
    count = len(embeddings)
    others = {key: array.reshape(count) for key, array in arrays.items() if array.shape in ((count,), (count, 1))}
    return embeddings, {key: _as_whole_numbers(array) for key, array in others.items()}


def _as_whole_numbers(array: np.ndarray) -> np.ndarray:
    """Return floats that are whole numbers as integers, so that a class has one name; others in at least 32 bits."""
    if array.dtype.kind != "f":
        return array
    # Arrow does not tell classes of 16 bits apart.
    wide = array.astype(np.promote_types(array.dtype, np.float32))
    is_whole = np.isfinite(wide).all() and (wide == np.rint(wide)).all() and (np.abs(wide) < 2**53).all()
    return wide.astype(np.int64) if is_whole else wide


def _load_archive(path: Path) -> Arrays:
    """Load the arrays of an npz file: map what is stored as it is, decompress the rest."""
    with np.load(path, allow_pickle=False) as loaded, path.open("rb") as file:
        mapped = {name: _map_member(loaded.zip, f"{name}.npy", file) for name in loaded.files}
        return {name: loaded[name] if array is None else array for name, array in mapped.items()}


def _map_member(archive: zipfile.ZipFile, name: str, file: BinaryIO) -> np.ndarray | None:
    """Map an array of an archive into memory; None where it has to be read."""
    if name not in archive.namelist():
        return None
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        if version not in ((1, 0), (2, 0)):
            return None
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(content)
        header_bytes = content.tell()
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if dtype.hasobject or size == 0 or header_bytes + size != member.file_size:
        return None
    file.seek(member.header_offset)
    start = member.header_offset + _RECORD_BYTES + sum(struct.unpack("<HH", file.read(_RECORD_BYTES)[_LENGTHS]))
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.memmap(file, dtype, "r", offset=start + header_bytes, shape=shape, order=order)
