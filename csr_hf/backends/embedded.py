"""`index:./folder`: the library's own `InvertedIndex`, saved to a folder after every write."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from csr_hf.backends.contract import Found, Limits, Row, Schema
from csr_hf.backends.documents import Documents
from csr_hf.backends.interface import Engine
from csr_hf.plumbing.atomic import written_whole
from csr_hf.search.index import InvertedIndex
from csr_hf.sparse_codes import SparseCodes, index_dtype


class Embedded(Engine):
    """`InvertedIndex` in `folder/collection/`, with its settings beside it in `folder/collection.json`.

    The folder of the index is one that `InvertedIndex.load` opens.

    Args:
        collection: its name.
        folder: of all collections.
    """

    name = "InvertedIndex"
    limits = Limits(threads=1)

    def __init__(self, collection: str, folder: str | Path) -> None:
        super().__init__(collection)
        self._folder = Path(folder) / collection
        self._settings = self._folder.with_suffix(".json")
        self._index: InvertedIndex | None = None
        self._writing = threading.Lock()

    def write(self, documents: Documents) -> None:
        """Add documents as a segment and save it, so that what was written outlives the process."""
        with self._writing:
            index = self._opened()
            index.add(
                _widened(documents.codes, index.k),
                documents.ids,
                decoded_norms=documents.decoded_norms,
                replace=True,
            )
            index.save(self._folder)

    def flush(self) -> None:
        """Join the segments of all writes into one."""
        with self._writing:
            self._opened().compact()
            self._opened().save(self._folder)

    def _opened(self) -> InvertedIndex:
        schema = self.schema
        if self._index is None:
            self._index = InvertedIndex.load(self._folder)
        if self._index.dim != schema.dim:
            raise ValueError(f"`collection`: {self._folder} holds another index. Create it anew with `replace=True`.")
        return self._index

    def read_schema(self) -> Schema | None:
        """Of the collection, read anew; None if there is none."""
        if not self._settings.is_file():
            return None
        return Schema(**json.loads(self._settings.read_text(encoding="utf-8")))

    def _create(self, schema: Schema) -> None:
        none = SparseCodes(
            np.empty((0, schema.k), index_dtype(schema.dim)), np.empty((0, schema.k)), schema.dim, schema.head
        )
        norms = np.empty(0, np.float32) if schema.decoded else None
        self._index = InvertedIndex.build(none, decoded_norms=norms)
        self._index.save(self._folder)
        with written_whole(self._settings) as temporary:
            temporary.write_text(json.dumps(schema._asdict()), encoding="utf-8")

    def _drop(self) -> None:
        self._index = None
        self._settings.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _count(self) -> int:
        return len(self._opened())

    def _delete(self, ids: list[Any]) -> None:
        with self._writing:
            self._opened().delete(ids, missing_ok=True)
            self._opened().save(self._folder)

    def _search(self, rows: list[Row], top_k: int) -> list[Found]:
        schema = self.schema
        width = max(len(latents) for latents, _ in rows)
        indices, values = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.float32)
        for at, (latents, weights) in enumerate(rows):
            indices[at, : len(latents)], values[at, : len(weights)] = latents, weights
        order = np.argsort(-values, axis=1, kind="stable")
        indices, values = np.take_along_axis(indices, order, 1), np.take_along_axis(values, order, 1)
        found = self._opened().search(SparseCodes(indices, values, schema.dim), top_k)
        return [
            [hit for hit in zip(ids.tolist(), scores.tolist(), strict=True) if hit[1] > 0]
            for ids, scores in zip(found.ids, found.scores, strict=True)
        ]


def _widened(codes: SparseCodes, k: int) -> SparseCodes:
    """With k places in a row; the new ones are not active."""
    missing = ((0, 0), (0, k - codes.k))
    return SparseCodes(
        np.pad(codes.indices, missing), np.pad(codes.values, missing), codes.dim, codes.head_fingerprint, check=False
    )
