"""faiss where it fits quantizers: imported with the line to type, and on as many threads as serve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FEW_ROWS = 20_000


def import_faiss() -> Any:
    """Import faiss.

    Raises:
        ImportError: if it is missing, with the line to type.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError('PQ, OPQ and RaBitQ are fitted by faiss: pip install "csr_hf[eval]"') from error
    return faiss


@contextmanager
def threads_for(faiss: Any, rows: int) -> Iterator[None]:
    """Let faiss fit on one thread within the block where rows are few.

    Its matrices are small then, and threads that wait for each other cost more than they save where another process
    has one of the cores.
    """
    before = faiss.omp_get_max_threads()
    if rows < _FEW_ROWS:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
