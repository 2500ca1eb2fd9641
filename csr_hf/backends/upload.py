"""Bulk upload: in parallel, with retries, and resumable. Sending a document twice does no harm."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from csr_hf.backends.backend import Backend
from csr_hf.backends.contract import Unavailable
from csr_hf.backends.documents import Documents
from csr_hf.backends.metadata import read_metadata
from csr_hf.backends.schema import Schema
from csr_hf.plumbing.atomic import explain_full_disk, write_whole
from csr_hf.plumbing.logs import progress_bar
from csr_hf.plumbing.settings import settings as checked_settings
from csr_hf.plumbing.threads import run
from csr_hf.sparse_codes import SparseCodes

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 30.0


@checked_settings
class UploadSettings:
    """How documents are sent, and what is done where a backend is busy or out of reach."""

    batch_size: Annotated[int, Field(ge=1)] = 1000
    """Documents in a request."""
    threads: Annotated[int, Field(ge=1)] = 4
    """Requests at the same time; fewer where the backend takes fewer."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Times that a request is sent again."""
    delay: Annotated[float, Field(ge=0)] = 0.5
    """Seconds before the first retry; doubled for each further one up to 30, plus a random part of itself."""
    show_progress_bar: bool | None = None
    """Default on terminals only."""


def upload(
    backend: Backend,
    codes: SparseCodes,
    ids: Sequence[Hashable] | np.ndarray,
    *,
    decoded_norms: np.ndarray | None = None,
    metadata: Any = None,
    settings: UploadSettings | None = None,
    journal: str | Path | None = None,
) -> int:
    """Put many documents into a backend; a missing collection is created for them.

    All documents are checked before the first is sent. Documents whose id is in use are replaced, so an upload may be
    repeated at any time.

    Args:
        backend: see `open_backend`.
        codes: of the documents, not normalized.
        ids: one unique integer or string for each document.
        decoded_norms: ||decode(z)|| of every document, float32, shape (n,); see `csr_hf.codes.decoded_norms`.
        metadata: one row a document, in any form that `SearchIndex.build` takes; what a missing collection is created
            with can be filtered by.
        settings: batches, threads and retries; default `UploadSettings()`.
        journal: a file that lists the batches that were taken, so that the same call continues where it was
            interrupted. It is removed at the end.

    Returns:
        Number of documents sent by this call, without those that the journal lists.

    Raises:
        ValueError: as `Backend.create` and `Backend.upsert` do, or for a journal of other documents, another batch
            size or another collection.
        BackendError: if the backend refuses documents. Those that were sent stay, and are in the journal.
        Unavailable: if the backend is still busy or out of reach after the last retry.
    """
    settings = settings or UploadSettings()
    patiently = _make_retrying(settings)
    columns, table = read_metadata(metadata, len(codes))
    schema = patiently(backend.read_schema) or Schema(
        dim=codes.dim,
        k=codes.k,
        ids="integers" if all(isinstance(one, int | np.integer) for one in ids) else "strings",
        head=codes.head_fingerprint,
        decoded=decoded_norms is not None,
        columns=columns,
    )
    documents = backend.prepare(codes, ids, decoded_norms=decoded_norms, metadata=table, schema=schema)
    patiently(backend.create, schema)
    size = settings.batch_size
    parts = {start: documents.part(slice(start, start + size)) for start in range(0, len(codes), size)}
    taken = _Journal(journal, _fingerprint(backend.schema, documents, size))
    remaining = [(start,) for start in parts if start not in taken.starts]
    before = sum(len(parts[start].ids) for start in taken.starts)
    bar = progress_bar(
        desc="upload", unit="document", show=settings.show_progress_bar, total=len(codes), initial=before
    )

    def send(start: int) -> None:
        patiently(backend.write, parts[start])
        taken.add(start)
        bar.update(len(parts[start].ids))

    with bar:
        run(send, remaining, min(settings.threads, backend.limits.threads or settings.threads))
    patiently(backend.flush)
    taken.remove()
    return len(codes) - before


def _make_retrying(settings: UploadSettings) -> Retrying:
    """Make what calls a function again while the backend is busy or out of reach."""
    return Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_attempt(1 + settings.retries),
        wait=wait_exponential(settings.delay, max=_LONGEST_WAIT) + wait_random(0, settings.delay),
        before_sleep=before_sleep_log(logger, logging.INFO),
        reraise=True,
    )


def _fingerprint(schema: Schema, documents: Documents, batch_size: int) -> str:
    """Hash what is sent, in which batches, and to which collection."""
    digest = hashlib.blake2b(f"{schema.created} {batch_size}".encode(), digest_size=16)
    digest.update(json.dumps(documents.ids.tolist()).encode())
    for array in (documents.latents, documents.weights):
        digest.update(np.ascontiguousarray(array).view(np.uint8))
    for fields in documents.fields.to_batches(max_chunksize=10_000):
        digest.update(json.dumps(fields.to_pydict()).encode())
    return digest.hexdigest()


class _Journal:
    """A file with one line for the upload, and one for the start of every batch that the backend has taken.

    Args:
        path: None keeps nothing.
        upload: fingerprint of the upload.

    Raises:
        ValueError: if the file belongs to another upload.
    """

    def __init__(self, path: str | Path | None, upload: str) -> None:
        self.starts: set[int] = set()
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        if self._path is None:
            return
        # A process that was killed may leave half a line at the end, which is not counted.
        lines = self._path.read_text(errors="replace").split("\n")[:-1] if self._path.exists() else []
        if lines and lines[0] != upload:
            raise ValueError(
                f"`journal` ({path}) is of other documents, another batch size or another collection. "
                "Remove the file to start anew."
            )
        self.starts = {int(line) for line in lines[1:]}
        with write_whole(self._path) as temporary:
            temporary.write_text("\n".join([upload, *lines[1:], ""]))

    def add(self, start: int) -> None:
        """Write down that the backend has taken the batch that begins at `start`."""
        if self._path is not None:
            with self._lock, explain_full_disk(self._path), self._path.open("a") as file:
                file.write(f"{start}\n")

    def remove(self) -> None:
        """Remove the file: the same documents may have to be sent again later."""
        if self._path is not None:
            self._path.unlink()
