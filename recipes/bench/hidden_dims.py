"""Measure how long an exact search through sparse codes takes as hidden_dim grows (the paper's Figure 3).

Queries and documents are codes of the same k, as in the paper. Heads of different hidden_dim take turns with dense
vectors, whole and cut to their first k dimensions. Two things are timed on one thread: the products of all queries
with all documents alone (scipy's sparse product; the paper has torch's on a GPU), and a search for the ten best
documents (csr_hf's inverted lists; faiss flat for dense vectors). Recall is of the exact dense top 10.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csr_hf.codes import encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.evaluation.neighbors import neighbor_recall
from csr_hf.heads import load_head
from csr_hf.plumbing.atomic import check_writable, write_whole
from csr_hf.plumbing.provenance import record_command
from csr_hf.plumbing.redaction import shareable
from csr_hf.plumbing.threads import spin_briefly
from csr_hf.repository import open_repository
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from data import TOP_K, SearchData, load_data
from measure import conditions, limited_to, time_in_turns

_BLOCK = 64
"""Queries whose products are in memory at a time."""
_EXAMPLES = """
examples:
  python recipes/bench/hidden_dims.py runs/widths/* --embeddings embeddings.npy --output bench/hidden_dims.json
  python recipes/bench/hidden_dims.py runs/1x runs/16x --embeddings embeddings.npy --ks 8,32 --n-documents 100000

Heads of several widths, which have to learn from rows that are neither documents nor queries:
  csr-hf sweep --data.source others.npy --output-dir runs/widths --hidden-dim 1x,2x,4x,8x,16x --k 32 --max-steps 2000
"""


class Searched(NamedTuple):
    """Vectors that are searched, and both ways to search them."""

    figures: dict[str, Any]
    """What is known before anything is timed; of codes `hidden_dim`, `k` and `postings`, of dense vectors `dims`."""
    multiply: Callable[[], Any]
    """Computes the products of all queries with all documents."""
    find: Callable[[], np.ndarray]
    """Finds the ten best documents, shape (queries, 10)."""


def search_codes(data: SearchData, folder: str, k: int) -> Searched:
    """Encode with a head, and prepare both searches.

    Args:
        data: what is searched.
        folder: of a head.
        k: active latents of queries and documents.
    """
    head = load_head(open_repository(folder)).eval()
    dim = head.config.hidden_dim
    coder = Coder(head, k=k)
    index = InvertedIndex.build(data.documents, coder)
    queries = encode_embeddings(head, data.queries, k)
    asked = queries.to_scipy()
    stored = coder.unpack(coder.encode(data.documents)).astype("float32").to_scipy()
    lists = stored.T.tocsr()
    postings = float(np.bincount(asked.indices, minlength=dim) @ np.diff(lists.indptr)) / (len(queries) * len(index))
    figures = {"hidden_dim": dim, "k": k, "postings": postings, "postings_if_even": k * k / dim}
    params = SearchParams(exact=True, threads=1)

    def multiply() -> None:
        for start in range(0, len(queries), _BLOCK):
            asked[start : start + _BLOCK] @ lists

    return Searched(figures, multiply, lambda: index.search_codes(queries, TOP_K, params).positions)


def search_dense(data: SearchData, dims: int) -> Searched:
    """Cut the embeddings to their first dimensions, and prepare both searches."""
    import faiss

    faiss.omp_set_num_threads(1)
    queries, documents = (np.ascontiguousarray(rows[:, :dims]) for rows in (data.queries, data.documents))
    flat = faiss.IndexFlatIP(dims)
    flat.add(documents)

    def multiply() -> None:
        for start in range(0, len(queries), _BLOCK):
            queries[start : start + _BLOCK] @ documents.T

    return Searched({"dims": dims}, multiply, lambda: flat.search(queries, TOP_K)[1])


def measure(data: SearchData, heads: Sequence[str], ks: Sequence[int], turns: int) -> Iterator[dict[str, Any]]:
    """Time all searches in turns, and measure what they find.

    Yields:
        The figures of each, dense vectors first: `multiply_seconds` and `find_seconds` by turn, for all queries, and
        `recall`, besides those of `Searched`.
    """
    searched = [search_dense(data, dims) for dims in (data.documents.shape[1], *ks)]
    for folder in heads:
        for k in ks:
            searched.append(search_codes(data, folder, k))
            print(f"indexed  {folder}, k {k}", flush=True)
    runs = [
        (kind, partial(_time, run))
        for each in searched
        for kind, run in (("products", each.multiply), ("search", each.find))
    ]
    seconds = time_in_turns(runs, turns)
    for each, multiply, find in zip(searched, seconds[::2], seconds[1::2], strict=True):
        recall = float(neighbor_recall(each.find(), data.neighbors).mean())
        yield {**each.figures, "multiply_seconds": multiply, "find_seconds": find, "recall": recall}


def _time(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 2 for what is wrong with the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="hidden_dims.py",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("heads", nargs="+", help="folders of heads or runs")
    parser.add_argument("--embeddings", type=Path, required=True, help="npy file; queries are its last rows")
    parser.add_argument("--n-documents", type=int, help="its first rows (default: all that are no queries)")
    parser.add_argument("--n-queries", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--ks", default="32", help="active latents (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--output", "-o", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    spin_briefly()
    record_command(shlex.join(["python", "recipes/bench/hidden_dims.py", *arguments]))
    try:
        ks = [int(k) for k in options.ks.split(",")]
        if min(options.turns, *ks) < 1:
            raise ValueError(f"`--turns` ({options.turns}) and `--ks` ({options.ks}) must be at least 1.")
        check_writable(options.output.parent)
        data = load_data(options.embeddings, n_documents=options.n_documents, n_queries=options.n_queries)
        with limited_to(1):
            found = list(measure(data, options.heads, ks, options.turns))
    except (ValueError, OSError, ImportError) as error:
        way_on = '. pip install "csr_hf[bench]" installs what is missing' if isinstance(error, ImportError) else ""
        print(f"hidden_dims.py: error: {error}{way_on}", file=sys.stderr)
        return 2
    written = shareable({**conditions(["faiss-cpu", "scipy"]), **data.description, "searches": found})
    with write_whole(options.output) as path:
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"written  {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
