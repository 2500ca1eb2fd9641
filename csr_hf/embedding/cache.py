"""Embed a data set once, into a cache of Arrow files that is memory-mapped and can be resumed."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.embedding.arguments import Task
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache_manifest import FORMAT, MANIFEST, read_manifest, write_manifest
from csr_hf.embedding.images import ImageColumn
from csr_hf.embedding.inputs import as_sequence, iter_texts
from csr_hf.embedding.shards import (
    gather_rows,
    piece_path,
    read_piece,
    read_shard,
    remove_pieces,
    row_numbers,
    way_out,
    write_shard,
)
from csr_hf.plumbing.distributed import from_first_process, gather_objects, rank_and_world, wait_for_files
from csr_hf.plumbing.logs import progress_bar

if TYPE_CHECKING:
    from csr_hf.plumbing.progress import Bar, LoggedProgress

logger = logging.getLogger(__name__)

_SHARD_ROWS = 2048
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings on disk, row i for input i, memory-mapped.

    The folder holds Arrow files, which `datasets` reads too (a column `embedding` of fixed-size lists), and a manifest
    that is written last: a folder without a manifest is unfinished, and the next `embed_dataset` resumes it.
    """

    folder: Path
    fingerprint: str
    """A hash of backbone, prompt, task, dtype and inputs: equal fingerprints mean equal embeddings."""
    arrays: tuple[np.ndarray, ...]
    """The shards, memory-mapped, each of shape (rows, dim), float16 or float32."""
    checksum: str
    """A hash of `fingerprint` and of the bytes of all files: equal ones mean equal bits."""
    reused: bool = False
    """Whether `embed_dataset` found the cache complete and computed nothing."""

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = False) -> EmbeddingCache:
        """Open a complete cache.

        Args:
            folder: a folder that `embed_dataset` wrote.
            verify: also read all files and compare their checksums.

        Raises:
            ValueError: if the folder is unfinished, damaged, or something else; the file is named.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        arrays = []
        for shard in manifest["shards"]:
            path = folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise ValueError(f"embedding cache file {path} is missing or truncated. {way_out(folder)}")
            if verify and zlib.crc32(path.read_bytes()) != shard["crc32"]:
                raise ValueError(f"embedding cache file {path} is corrupt (checksum). {way_out(folder)}")
            arrays.append(read_shard(path, shard["rows"], manifest["dim"]))
        hashed = json.dumps([manifest["fingerprint"], *(shard["crc32"] for shard in manifest["shards"])])
        checksum = hashlib.blake2b(hashed.encode(), digest_size=12).hexdigest()
        return cls(folder, manifest["fingerprint"], tuple(arrays), checksum)

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.arrays[0].shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return len(self), self.dim

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Read the rows of a slice, a bool mask or row numbers, in the stored dtype; no other rows are read.

        Raises:
            IndexError: for a number that is below 0 or beyond the last row.
        """
        starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        return gather_rows(self.arrays, starts, row_numbers(rows, len(self)), self.arrays[0].dtype)

    def to_numpy(self) -> np.ndarray:
        """Copy all rows into memory, in the stored dtype."""
        return np.concatenate(self.arrays)


def embed_dataset(
    inputs: Sequence[Any],
    backbone: Backbone,
    cache_dir: str | Path,
    *,
    prompt_name: str | None = None,
    task: Task | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    dtype: Literal["float16", "float32"] = "float16",
    label: str = "embedding",
) -> EmbeddingCache:
    """Embed texts or images once; later calls with the same inputs and backbone open the cache.

    Where several processes train together, each of them embeds its share of the shards. A progress bar is drawn on
    terminals, see `csr_hf.plumbing.logs`.

    Args:
        inputs: n strings in whatever `as_sequence` of `csr_hf.embedding.inputs` takes, for example a list or a column
            of a `datasets.Dataset`, or an `ImageColumn`.
        backbone: the frozen model.
        cache_dir: folder of all caches; each is a subfolder named after its fingerprint.
        prompt_name: one of the backbone's prompts; default that of the task.
        task: "query" or "document", as for `Backbone.embed`.
        prompt: the text to put before texts, instead of a prompt with a name.
        batch_size: inputs in one forward pass.
        dtype: what is stored; float16 keeps the neighbors of unit-norm embeddings.
        label: description beside the progress bar.

    Raises:
        ValueError: if there are no inputs, one is no text (its position is named), an image cannot be opened, an
            embedding is NaN, infinite or beyond the range of `dtype` (the row is named; what was embedded is kept
            for the next call), or the cache is damaged.
        OSError: if the folder cannot be written; no shard is left half-written.
    """
    inputs = as_sequence(inputs)
    if len(inputs) == 0:
        raise ValueError("`inputs` is empty: there is nothing to embed.")
    prompt = backbone.prompt(prompt_name, task) if prompt is None else prompt
    folder, origin = locate_cache(inputs, backbone, cache_dir, prompt, task, dtype)
    fingerprint = folder.name
    rank, world = rank_and_world()
    if from_first_process((folder / MANIFEST).exists):
        wait_for_files(from_first_process(lambda: _verify(folder, fingerprint)))
        return replace(EmbeddingCache.load(folder), reused=True)
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(inputs), _SHARD_ROWS)
    paths = [folder / f"shard-{number:05d}.arrow" for number in range(len(starts))]
    sizes = [min(_SHARD_ROWS, len(inputs) - start) for start in starts]
    embed = functools.partial(
        backbone.embed, prompt=prompt or "", batch_size=batch_size, task=task, show_progress_bar=False
    )
    shards: list[dict[str, Any]] = []
    with progress_bar(desc=label, unit="input", total=sum(sizes[rank::world])) as bar:
        for path, start, size in list(zip(paths, starts, sizes, strict=True))[rank::world]:
            if _is_complete(path, size, backbone.dim):
                bar.update(size)
            else:
                shape = backbone.dim, np.dtype(dtype)
                write_shard(path, _embed(inputs, range(start, start + size), embed, shape, bar, path))
                remove_pieces(path)
            shards.append(_describe(path, size))
    shards = sorted(chain(*gather_objects(shards)), key=lambda shard: shard["file"])
    manifest = {"format": FORMAT, "fingerprint": fingerprint, "origin": origin, "dim": backbone.dim, "shards": shards}
    wait_for_files(from_first_process(lambda: _write_manifest(folder, manifest)))
    return EmbeddingCache.load(folder)


def fingerprint_texts(texts: Iterable[str]) -> str:
    """Hash texts in their order, 24 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _verify(folder: Path, fingerprint: str) -> dict[Path, int]:
    """Read a complete cache, compare its checksums, and return the sizes of its files."""
    cache = EmbeddingCache.load(folder, verify=True)
    if cache.fingerprint != fingerprint:
        raise ValueError(f"{folder} holds the embeddings of something else ({cache.fingerprint}). {way_out(folder)}")
    logger.debug("embeddings found in %s", folder)
    return _sizes(folder, read_manifest(folder))


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[Path, int]:
    """Write the manifest, which completes a cache, and return the sizes of its files."""
    write_manifest(folder, manifest)
    return _sizes(folder, manifest)


def _sizes(folder: Path, manifest: dict[str, Any]) -> dict[Path, int]:
    sizes = {folder / shard["file"]: int(shard["bytes"]) for shard in manifest["shards"]}
    return {**sizes, folder / MANIFEST: (folder / MANIFEST).stat().st_size}


def locate_cache(
    inputs: Sequence[Any], backbone: Backbone, cache_dir: str | Path, prompt: str | None, task: Task | None, dtype: str
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a cache, named after a hash of what it is made from, and that."""
    origin = _origin(inputs, backbone, prompt, task, dtype)
    digest = hashlib.blake2b(json.dumps(origin, sort_keys=True).encode(), digest_size=12)
    return Path(cache_dir) / digest.hexdigest(), origin


def _origin(
    inputs: Sequence[Any], backbone: Backbone, prompt: str | None, task: Task | None, dtype: str
) -> dict[str, Any]:
    """Collect what the embeddings depend on; its JSON is what the fingerprint hashes."""
    # No prompt and an empty one give the same embeddings.
    prompt = prompt or ""
    if isinstance(inputs, ImageColumn):
        # Models that take messages put the prompt before images too.
        prompt = prompt if "message" in backbone.model.modalities else ""
        content = {"prompt": prompt, "images": fingerprint_texts(inputs.hashes())}
    else:
        content = {"prompt": prompt, "texts": fingerprint_texts(iter_texts(inputs))}
    return {
        "backbone": backbone.name,
        "weights": backbone.fingerprint,
        "revision": backbone.revision,
        "max_seq_length": backbone.model.max_seq_length,
        "task": backbone.effective_task(task),
        "dtype": dtype,
        **content,
        "rows": len(inputs),
    }


def _embed(
    inputs: Sequence[Any],
    positions: range,
    embed: Callable[[list[Any]], np.ndarray],
    shape: tuple[int, np.dtype],
    bar: Bar | LoggedProgress,
    path: Path,
) -> np.ndarray:
    """Embed the inputs at `positions`, one shard, as rows of a width and type.

    Texts are sorted by length, which saves padding. Every few hundred rows are kept in a file of their own beside
    `path`, until the whole shard is: an interruption costs no more.
    """
    dim, dtype = shape
    embeddings = np.empty((len(positions), dim), dtype)
    # One shard of texts is in memory at a time. An ImageColumn opens each image when it is embedded.
    texts = None if isinstance(inputs, ImageColumn) else list(inputs[positions.start : positions.stop])
    order = np.arange(len(positions)) if texts is None else np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), _BLOCK_ROWS):
        rows, piece = order[start : start + _BLOCK_ROWS], piece_path(path, start)
        if (kept := read_piece(piece, len(rows), dim)) is not None:
            embeddings[rows] = kept
            bar.update(len(rows))
            continue
        block = embed([inputs[positions[row]] if texts is None else texts[row] for row in rows])
        good = (np.isfinite(block) & (np.abs(block) <= np.finfo(dtype).max)).all(axis=1)
        if not good.all():
            bad = positions[rows[int(np.argmin(good))]]
            kind = "NaN or infinite" if not np.isfinite(block[np.argmin(good)]).all() else f"too large for {dtype}"
            named = (
                f"image {inputs.name(bad)}"
                if isinstance(inputs, ImageColumn)
                else f"text {bad} ({inputs[bad][:40]!r})"
            )
            raise ValueError(f"the embedding of {named} is {kind}. Check the backbone's precision, or store float32.")
        embeddings[rows] = block
        if len(order) > _BLOCK_ROWS:
            write_shard(piece, embeddings[rows])
        bar.update(len(rows))
    return embeddings


def _is_complete(path: Path, rows: int, dim: int) -> bool:
    """Tell whether an earlier run finished this shard; files get their name only when they are complete."""
    return path.is_file() and len(read_shard(path, rows, dim)) == rows


def _describe(path: Path, rows: int) -> dict[str, Any]:
    """Describe a shard for the manifest."""
    content = path.read_bytes()
    return {"file": path.name, "rows": rows, "bytes": len(content), "crc32": zlib.crc32(content)}
