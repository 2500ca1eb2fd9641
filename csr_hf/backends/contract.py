"""What backends answer, limit and refuse."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from csr_hf.plumbing.errors import ExpectedError

KEY = "csr_hf"
"""Name under which the schema of a collection is stored inside the backend."""
Found = list[tuple[Any, float]]
"""Ids and scores of the hits of one query."""


class BackendError(ExpectedError):
    """A backend refused a request. Sending it again does not help."""


class Unavailable(ConnectionError):
    """A backend is busy or out of reach. Sending the request again may help."""


class Hits(NamedTuple):
    """Hits of all queries, best first. A query with fewer hits ends in id -1 or "" and score -inf."""

    ids: np.ndarray
    """int64 or str, shape (n_queries, top_k)."""
    scores: np.ndarray
    """float32, shape (n_queries, top_k), descending; equal scores in ascending order of id."""


class Limits(NamedTuple):
    """Largest sizes that a backend takes; None where it has no limit."""

    dim: int | None = None
    document_latents: int | None = None
    query_latents: int | None = None
    top_k: int | None = None
    id_bytes: int | None = None
    text_bytes: int | None = None
    """Of a text in the metadata."""
    threads: int | None = None
    """Writes at the same time."""
