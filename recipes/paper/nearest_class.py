"""Measure 1-NN accuracy as the paper has it on ImageNet: test rows take the class of the nearest of all training rows.

    python recipes/paper/nearest_class.py runs/imagenet_resnet50_k32 --train train.npz --test validation.npz --k 8,32

Both are embeddings with classes in npz, arrays `data` and `label`, or folders of such files. A run measures the same
on what it holds out, among 10,000 training rows at most. All training rows are decoded in memory: 11 GB for a million
and more of 2,048 floats.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from csr_hf import CSRModel, Results
from csr_hf.codes import head_fingerprint
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.labeled import NEAREST
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.methods import all_methods
from csr_hf.plumbing.provenance import provenance, record_command

COLUMNS = {"embedding": "data", "label": "label"}


def read_labeled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read embeddings, float32, and the name of the class of each."""
    (source,) = load_sources(DataArguments(source=path, columns=COLUMNS, held_out=0))
    if source.labels is None:
        raise ValueError(f"{path} has no classes.")
    rows = np.flatnonzero(source.labels >= 0)
    return source.vectors["embedding"][rows].astype(np.float32), np.array(source.class_names)[source.labels[rows]]


def measure_nearest(run: str, train: str, test: str, ks: list[int]) -> Results:
    """Measure a run's head, and the dense embeddings, on all rows of both files.

    Args:
        run: folder of the run.
        train: file or folder of the rows to search.
        test: file or folder of the rows that ask.
        ks: active latents.
    """
    head = CSRModel.from_pretrained(Path(run) / "model").eval()
    (known, classes), (asked, wanted) = read_labeled(train), read_labeled(test)

    def measure(method: Method) -> dict[str, np.ndarray]:
        nearest = method.index(known).search(asked, 1).positions[:, 0]
        return {NEAREST: classes[nearest] == wanted}

    name = f"{Path(test).name}, {len(asked):,} rows among {len(known):,}"
    rows = compare_methods(name, all_methods(head, None, ks=ks, baselines=[]), measure, n_documents=len(known))
    return Results(rows, {**provenance(), "head": head_fingerprint(head)})


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--train", required=True, help="what is searched")
    parser.add_argument("--test", required=True, help="what asks")
    parser.add_argument("--k", default="8,32", help="active latents (default: %(default)s)")
    parser.add_argument("--output", help="folder for the results (default: nearest_class/ in the run)")
    options = parser.parse_args()
    record_command(" ".join(["python", *sys.argv]))
    results = measure_nearest(options.run, options.train, options.test, [int(k) for k in options.k.split(",")])
    results.save(options.output or Path(options.run) / "nearest_class")
    sys.stdout.write(results.to_markdown())


if __name__ == "__main__":
    main()
