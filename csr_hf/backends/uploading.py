"""Bulk upload: in parallel, with retries, and resumable; sending a document twice does no harm."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import numpy as np

from csr_hf.backends.contract import Schema
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine
from csr_hf.plumbing.threads import run
from csr_hf.sparse_codes import SparseCodes

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 30.0
_Result = TypeVar("_Result")


def upload(
    engine: Engine,
    codes: SparseCodes,
    ids: Sequence[Hashable] | np.ndarray,
    *,
    decoded_norms: np.ndarray | None = None,
    batch_size: int = 1000,
    threads: int = 4,
    retries: int = 6,
    delay: float = 0.5,
    journal: str | Path | None = None,
    progress: bool = False,
) -> int:
    """Put many documents into an engine; a collection that is not there yet is created for them.

    All documents are checked before the first is sent. Ids that are in use are replaced, so an upload may be run again
    at any time.

    Args:
        engine: see `open_engine`.
        codes: of the documents, not normalized.
        ids: one a document: unique integers or strings.
        decoded_norms: ||decode(z)|| of every document, float32, shape (n,); see `csr_hf.codes.decoded_norms`.
        batch_size: documents in a request.
        threads: requests at a time; fewer where the engine takes fewer.
        retries: times that a batch is sent again where the engine is busy or out of reach.
        delay: seconds before the first retry; doubled each time up to 30, and varied by half.
        journal: a file that keeps what was sent, so that the same call goes on where it was interrupted. Removed at
            the end.
        progress: show a bar.

    Returns:
        Documents sent by this call, without those that the journal says were sent before.

    Raises:
        ValueError: as `Engine.create` and `Engine.upsert` do; for numbers out of range, or a journal of other
            documents or another collection.
        EngineError: if the engine refuses documents. What was sent stays, and is in the journal.
    """
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"`{name}` ({value}) must be at least 1.")
    if retries < 0 or delay < 0:
        raise ValueError(f"`retries` ({retries}) and `delay` ({delay}) must not be negative.")
    from tqdm.auto import tqdm

    there = _patiently(engine, engine.read_schema, retries, delay)
    kind: Literal["integers", "strings"] = (
        "integers" if all(isinstance(one, int | np.integer) for one in ids) else "strings"
    )
    schema = there or Schema(codes.dim, codes.k, kind, codes.head_fingerprint, decoded_norms is not None, "")
    documents = engine.prepare(codes, ids, decoded_norms=decoded_norms, schema=schema)

    def create() -> None:
        engine.create(schema.dim, schema.k, ids=schema.ids, head=schema.head, decoded=schema.decoded)

    _patiently(engine, create, retries, delay)
    starts = range(0, len(codes), batch_size)
    with _Journal(journal, _fingerprint(engine, documents, batch_size)) as kept:
        waiting = [(start,) for start in starts if start not in kept.done]
        before = sum(min(batch_size, len(codes) - start) for start in kept.done)
        bar = tqdm(total=len(codes), initial=before, desc="upload", unit="document", disable=not progress)

        def send(start: int) -> int:
            part = documents.part(slice(start, start + batch_size))
            _patiently(engine, lambda: engine.write(part), retries, delay)
            kept.add(start)
            bar.update(len(part.ids))
            return len(part.ids)

        with bar:
            sent = run(send, waiting, min(threads, engine.limits.threads or threads))
        _patiently(engine, engine.flush, retries, delay)
        kept.finish()
    return sum(sent)


def _patiently(engine: Engine, call: Callable[[], _Result], retries: int, delay: float) -> _Result:
    """Call until it works, the error is none that time heals, or there are no retries left."""
    attempt = 0
    while True:
        try:
            return call()
        except Exception as error:
            if attempt == retries or not engine.is_transient(error):
                raise
            wait = min(delay * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.5)
            logger.info("%s is asked again in %.1f s: %s", engine.name, wait, error)
            time.sleep(wait)
            attempt += 1


def _fingerprint(engine: Engine, documents: Documents, batch_size: int) -> str:
    """Of what is sent, in which batches, and to which collection."""
    digest = hashlib.blake2b(f"{engine.schema.created} {batch_size} {documents.ids.dtype}".encode(), digest_size=16)
    for array in (documents.ids, documents.codes.indices, documents.codes.values, documents.scale):
        digest.update(np.ascontiguousarray(array).view(np.uint8))
    return digest.hexdigest()


class _Journal:
    """A file with one line for the upload and one for every batch that an engine has taken.

    Args:
        path: None keeps nothing.
        upload: fingerprint.

    Raises:
        ValueError: if the file is of another upload.
    """

    def __init__(self, path: str | Path | None, upload: str) -> None:
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self.done: set[int] = set()
        if self._path is None:
            return
        # What a kill left of the last line has no end, and is not counted.
        text = self._path.read_bytes().decode(errors="replace") if self._path.exists() else ""
        lines = text.split("\n")[:-1]
        header = json.dumps({"upload": upload})
        if lines and lines[0] != header:
            raise ValueError(
                f"`journal` ({path}) is of other documents, another batch size or another collection. "
                "Remove the file to start anew."
            )
        self.done = {int(line) for line in lines[1:]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="ascii")
        self._file.write("\n".join([header, *map(str, sorted(self.done)), ""]))
        self._save()

    def add(self, start: int) -> None:
        """Keep that the batch that begins at `start` was taken."""
        if self._path is not None:
            with self._lock:
                self._file.write(f"{start}\n")
                self._save()

    def finish(self) -> None:
        """Everything was taken: the same documents may have to be sent again some day."""
        if self._path is not None:
            self._path.unlink()

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> _Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            self._file.close()
