"""Merge (anchor, positive) columns of several Parquet files into one, a share of each, shuffled.

    python recipes/merge_pairs.py out.parquet medquad.parquet:question:answer:6000 nq_pairs.parquet:query:passage

Each argument is FILE:ANCHOR:POSITIVE[:ROWS]. Lists are joined by a space; empty and repeated pairs are dropped.
"""

import sys
from pathlib import Path

import numpy as np
from datasets import Dataset


def text(value: object) -> str:
    """One text, of a text or a list of them."""
    return " ".join(map(str, value)) if isinstance(value, (list, np.ndarray)) else str(value or "")


def read(argument: str) -> list[dict[str, str]]:
    """The pairs that one argument asks for."""
    file, anchor, positive, *rows = argument.split(":")
    data = Dataset.from_parquet(file)
    order = np.random.default_rng(0).permutation(len(data))
    pairs = {}
    for row in data.select(order):
        pair = text(row[anchor]).strip(), text(row[positive]).strip()
        if all(pair):
            pairs.setdefault(pair, Path(file).stem)
        if rows and len(pairs) == int(rows[0]):
            break
    return [{"anchor": a, "positive": p, "origin": origin} for (a, p), origin in pairs.items()]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    rows = [row for argument in sys.argv[2:] for row in read(argument)]
    order = np.random.default_rng(0).permutation(len(rows))
    Dataset.from_list([rows[i] for i in order]).to_parquet(sys.argv[1])
