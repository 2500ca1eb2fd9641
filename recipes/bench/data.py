"""Documents, queries and their exact neighbors, from files of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr_hf.evaluation.neighbors import top_neighbors
from csr_hf.evaluation.similarity import unit_rows

TOP_K = 10
"""Neighbors of a query that count."""
_SAME = 0.9999
"""Cosine from which a document counts as a copy of a query."""


@dataclass(frozen=True)
class SearchData:
    """What is searched, with the right answers."""

    documents: np.ndarray
    """Unit norm, float32, shape (n, dim)."""
    queries: np.ndarray
    """Unit norm, float32, shape (m, dim)."""
    neighbors: np.ndarray
    """Positions of the documents with the largest cosines, best first, int64, shape (m, 10)."""
    description: dict[str, Any]
    """Where they come from, and how many they are."""


def load_data(
    embeddings: Path, queries: Path | None = None, *, n_documents: int | None = None, n_queries: int = 1000
) -> SearchData:
    """Read documents and queries, scale them to unit norm, and find the exact neighbors.

    Args:
        embeddings: npy file, shape (rows, dim), any float type; documents are its first rows. What a file beside it
            that ends in .about.txt instead of .npy tells about the data is kept in the description.
        queries: npy file of queries; without it the last rows of `embeddings` are held out as queries.
        n_documents: default all rows that are not queries.
        n_queries: rows to hold out, or first rows of `queries`.

    Raises:
        ValueError: for files that are no embeddings, widths that differ, or fewer rows than wanted.
    """
    rows = open_embeddings(embeddings, "--embeddings")
    if n_queries < 1 or (n_documents is not None and n_documents < TOP_K):
        raise ValueError(f"`--n-queries` ({n_queries}) must be at least 1, `--n-documents` ({n_documents}) {TOP_K}.")
    asked = rows[len(rows) - min(n_queries, len(rows)) :] if queries is None else open_embeddings(queries, "--queries")
    free = len(rows) - n_queries if queries is None else len(rows)
    n_documents = free if n_documents is None else n_documents
    if not TOP_K <= n_documents <= free or len(asked) < n_queries:
        raise ValueError(
            f"{n_documents} documents and {n_queries} queries are more than the files hold ({len(rows)} rows"
            + (", queries among them" if queries is None else f" and {len(asked)} queries")
            + "). Lower --n-documents or --n-queries."
        )
    if asked.shape[1] != rows.shape[1]:
        raise ValueError(f"`--queries` are {asked.shape[1]} wide, `--embeddings` {rows.shape[1]}. Use one model.")
    documents, asked = unit_rows(rows[:n_documents]), unit_rows(asked[:n_queries])
    for name, array in (("--embeddings", documents), ("--queries", asked)):
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` holds NaN or infinity. Embed these texts again, in float32.")
    neighbors = top_neighbors(asked, documents, TOP_K)
    nearest = (asked * documents[neighbors[:, 0]]).sum(axis=1)
    description = {
        "embeddings": embeddings.name,
        "queries_from": f"the last rows of {embeddings.name}" if queries is None else queries.name,
        "rows": len(rows),
        "dim": rows.shape[1],
        "documents": n_documents,
        "queries": n_queries,
        "queries_with_a_copy_among_documents": int((nearest > _SAME).sum()),
    }
    about = embeddings.with_suffix(".about.txt")
    if about.is_file():
        description["about"] = about.read_text(encoding="utf-8").splitlines()
    return SearchData(documents, asked, neighbors, description)


def open_embeddings(path: Path, flag: str) -> np.ndarray:
    """Map an npy file of embeddings into memory.

    Args:
        path: the file.
        flag: that named it, for messages.

    Raises:
        ValueError: if it is no npy file of floats, shape (rows, dim).
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"`{flag}` ({path}) cannot be read as an npy file: {error}.") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind != "f":
        raise ValueError(f"`{flag}` ({path}) must hold floats of shape (rows, dim).")
    return rows
