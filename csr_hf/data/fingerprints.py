"""Hashes of data: equal ones mean equal rows, of which every one counts."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from csr_hf.data.sources import Source
from csr_hf.data.vectors import Vectors
from csr_hf.embedding.cache import EmbeddingCache

_BLOCK_VALUES = 2**22
_BLOCK_ROWS = 4096
_SHOWN = ("string", "large_string", "int64", "int32")


def fingerprint_vectors(vectors: Vectors) -> str:
    """Hash all embeddings in one pass, 24 hexadecimal digits; of a cache, its checksums are read instead.

    Args:
        vectors: shape (n, dim). Arrays of equal values in float16 and in float32 have the same hash.
    """
    if isinstance(vectors, EmbeddingCache):
        return vectors.checksum
    digest = hashlib.blake2b(f"{vectors.shape}".encode(), digest_size=12)
    block = max(1, _BLOCK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block]
        digest.update(np.ascontiguousarray(rows, np.float32).view(np.uint8))
    return digest.hexdigest()


def fingerprint_source(source: Source) -> dict[str, Any]:
    """Describe a source as JSON values that differ if anything of it does that a run reads.

    Args:
        source: with the embeddings of all its roles.

    Returns:
        `name`, `rows`, `held_out` (their number), and `content`, a hash of 24 hexadecimal digits.
    """
    digest = hashlib.blake2b(f"{source.roles} {source.weight}".encode(), digest_size=12)
    digest.update(np.ascontiguousarray(source.held_out).view(np.uint8))
    for role in source.roles:
        digest.update(fingerprint_vectors(source.vectors[role]).encode())
    if source.labels is not None:
        digest.update(source.labels.astype(np.int64).tobytes())
    _add_texts(digest, source)
    return {
        "name": source.name,
        "rows": len(source),
        "held_out": int(source.held_out.sum()),
        "content": digest.hexdigest(),
    }


def _add_texts(digest: Any, source: Source) -> None:
    """Add ids and texts to a hash: a search shows them, and the embeddings may have come with the data."""
    if source.rows is None:
        return
    names = [name for name, kind in source.rows.features.items() if getattr(kind, "dtype", "") in _SHOWN]
    digest.update(f"{names}".encode())
    for batch in source.rows.select_columns(names).with_format("arrow").iter(_BLOCK_ROWS):
        for name in names:
            for value in batch.column(name).to_pylist():
                content = b"" if value is None else str(value).encode("utf-8", "surrogatepass")
                # A null is none of the texts.
                digest.update((-1 if value is None else len(content)).to_bytes(8, "little", signed=True) + content)
