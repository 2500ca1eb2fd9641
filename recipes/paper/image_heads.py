"""Train CSR heads on embeddings of the plain network of image_networks.py, and measure them beside the nested one.

    python recipes/paper/image_heads.py --networks runs/images --output recipes/paper/results/images

Heads learn from the training split; 10,000 of its pictures are searched for the nearest neighbor of each of the
10,000 of the test split, and teach the linear probe. Two comparisons: as many active latents as the nested network
has dimensions, which is the paper's, and the same bytes stored. Minutes are the processor time of one thread. The
same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch

from csr_hf import CSRModel, Results, RunRecipe
from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.csr_methods import CSRMethod, DecodedMethod
from csr_hf.evaluation.labeled import NEAREST, PROBE
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.plots import Point, draw_level, draw_line, finish_axes, make_figure, save_figure, set_log_axis
from csr_hf.evaluation.prefixes import PrefixFormat, Truncation, choose_format
from csr_hf.evaluation.probes import predict_by_linear_probe
from csr_hf.evaluation.results import Row
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.evaluation.vector_method import DenseMethod
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.embedding import embed
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.training import train

RECIPE = Path(__file__).with_name("images.yaml")
KS = (8, 16, 32, 64, 128, 256)
WIDTHS = ("1x", "2x", "8x", "16x")
"""Of hidden_dim, beside that of the recipe."""
FIXED_K = 32
_REVIVED = {"training.beta": 2.0, "training.auxiliary_slope": 0.05}
STARTS: dict[str, dict[str, Any]] = {
    "centered": {"model.whitening": 0.0},
    "whitened": {"model.whitening": 0.9},
    "revived": _REVIVED,
    "centered-revived": {"model.whitening": 0.0, **_REVIVED},
    "whitened-revived": {"model.whitening": 0.3, **_REVIVED},
}
"""Against dead latents, at the widths of `STARTED_AT`: embeddings without their mean or whitened, and a strong
auxiliary error that is not flat below 0."""
STARTED_AT = ("4x", "16x")
MOST_K_IN_BYTES = 64
SEARCHED = 10_000
_FIGURES = ("dead_fraction", "explained_variance", "postings_per_document", "mean_to_spread")


class Entry(NamedTuple):
    """A method, and the embeddings that it stores and is asked for."""

    method: Method
    known: np.ndarray
    asked: np.ndarray


class Split(NamedTuple):
    """Embeddings of a network, and labels."""

    known: np.ndarray
    asked: np.ndarray
    known_labels: np.ndarray
    asked_labels: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Split:
        """Load the pictures that are searched and those of the test split."""
        train, test = (np.load(folder / f"{name}.npz") for name in ("train", "test"))
        return cls(train["embedding"][:SEARCHED], test["embedding"], train["label"][:SEARCHED], test["label"])


def list_heads() -> dict[str, dict[str, Any]]:
    """List the heads by the names of their folders, with what each changes of the recipe."""
    heads: dict[str, dict[str, Any]] = {f"k{k}": {"model.k": k} for k in KS}
    heads |= {f"{width}_k{FIXED_K}": {"model.k": FIXED_K, "model.hidden_dim": width} for width in WIDTHS}
    for width in STARTED_AT:
        for start, keys in STARTS.items():
            keys = {"model.k": FIXED_K, "model.hidden_dim": width, **keys}
            heads[f"{start}_{width}_k{FIXED_K}"] = keys
    return heads


def train_head(networks: Path, name: str, changed: dict[str, Any]) -> tuple[CSRModel, dict[str, Any]]:
    """Train a head, or load it where it is trained, with its figures."""
    source = str(networks / "plain" / "train.npz")
    recipe = RunRecipe.load(RECIPE, {**changed, "data.source": source, "output_dir": str(networks / name)})
    data = embed(recipe)
    record = networks / name / "head.json"
    began = time.process_time()
    head = train(recipe, data).eval()
    if not record.is_file():
        figures = RunRecipe.recorded(RunFolder.of(recipe.output_dir).recipe, "results")
        found: dict[str, Any] = {"k": head.config.k, "hidden_dim": head.config.hidden_dim}
        found |= {"minutes": (time.process_time() - began) / 60}
        found |= {figure: figures[figure] for figure in _FIGURES if figure in figures}
        with write_whole(record) as path:
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return head, json.loads(record.read_text())


def find_nearest(vectors: Any, others: Any) -> np.ndarray:
    """Find the row of `vectors` that is most similar to each of the others, all of them of unit norm."""
    if scipy.sparse.issparse(vectors) and vectors.nnz > 0.02 * vectors.shape[0] * vectors.shape[1]:
        vectors, others = vectors.toarray(), others.toarray()
    found = []
    for start in range(0, others.shape[0], 1000):
        scores = others[start : start + 1000] @ vectors.T
        found.append((scores.toarray() if scipy.sparse.issparse(scores) else scores).argmax(axis=1))
    return np.concatenate(found)


def measure_nearest(entry: Entry, split: Split) -> dict[str, np.ndarray]:
    """Compare what is stored by cosine, as the paper does."""
    nearest = find_nearest(*(unit_rows(entry.method.vectors(rows)) for rows in (entry.known, entry.asked)))
    return {NEAREST: split.known_labels[nearest] == split.asked_labels}


def measure_numbers(entry: Entry, split: Split) -> dict[str, np.ndarray]:
    """Do the same, and fit a linear probe."""
    known, asked = (entry.method.vectors(rows) for rows in (entry.known, entry.asked))
    probed = predict_by_linear_probe(known, split.known_labels, asked)
    return {**measure_nearest(entry, split), PROBE: probed == split.asked_labels}


def measure_bytes(entry: Entry, split: Split) -> dict[str, np.ndarray]:
    """Search what is stored by float queries."""
    positions = entry.method.index(entry.known).search(entry.asked, 1).positions[:, 0]
    return {NEAREST: split.known_labels[positions] == split.asked_labels}


class Measurements:
    """Which test pictures each method gets right, kept on disk.

    Args:
        folder: of the files.
        split: the labels.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder, self.split = folder, split

    def compare(
        self, task: str, entries: dict[str, Entry], measure: Callable[[Entry, Split], dict[str, np.ndarray]]
    ) -> list[Row]:
        """Make the rows of a task; the first entry is the dense model.

        Args:
            task: its name.
            entries: by names that are those of files.
            measure: computes what a method gets right.
        """
        names = {id(entry.method): name for name, entry in entries.items()}

        def read(method: Method) -> dict[str, np.ndarray]:
            name = names[id(method)]
            path = self.folder / f"{measure.__name__}_{name}.npz"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                found = measure(entries[name], self.split)
                with write_whole(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **found)
            return dict(np.load(path))

        return compare_methods(task, [entry.method for entry in entries.values()], read, n_documents=SEARCHED)


def name_prefix(name: str, format: PrefixFormat) -> Truncation:
    """Make a method that keeps the first dimensions."""
    method = Truncation(format)
    method.name, method.k = name, format.dims
    return method


def measure(networks: Path, heads: dict[str, CSRModel]) -> list[Row]:
    """Measure heads, the nested network and prefixes of the plain one in both comparisons."""
    plain, nested = Split.load(networks / "plain"), Split.load(networks / "nested")
    dim = plain.known.shape[1]
    kept = Measurements(networks / "measured", plain)

    def of(split: Split, method: Method) -> Entry:
        return Entry(method, split.known, split.asked)

    dense = of(plain, DenseMethod(dim))
    dense.method.k = dim
    numbers, sizes, first = {"dense": dense}, {"dense": dense}, {"dense": dense}
    for name, head in heads.items():
        k, start = head.config.k, name.partition(f"_{STARTED_AT[0]}")[0].partition(f"_{STARTED_AT[1]}")[0]
        method = CSRMethod(head, k)
        method.name = f"CSR, hidden_dim {head.config.hidden_dim}{f', {start}' if start in STARTS else ''}"
        numbers[name] = of(plain, method)
        if name == f"k{k}" and k <= MOST_K_IN_BYTES:
            sizes[name] = of(plain, CSRMethod(head, k))
            sizes[f"{name}_decoded"] = of(plain, DecodedMethod(head, k))
    for k in KS:
        numbers[f"nested_{k}"] = of(nested, name_prefix("nested", PrefixFormat(k, "float16", 2 * k)))
        first[f"first_{k}"] = of(plain, name_prefix("first dimensions", PrefixFormat(k, "float16", 2 * k)))
    for size in sorted({entry.method.bytes_per_vector for entry in sizes.values() if entry.method.of_head}):
        sizes[f"nested_{size}"] = of(nested, name_prefix("nested", choose_format(size, dim, "cosine")))
    tested = f"CIFAR10, {len(plain.asked):,} test pictures"
    of_numbers = f"{tested}, as many latents as dimensions"
    return [
        *kept.compare(of_numbers, numbers, measure_numbers),
        *kept.compare(of_numbers, first, measure_nearest)[1:],
        *kept.compare(f"{tested}, equal bytes", sizes, measure_bytes),
    ]


def draw_accuracy(results: Results, path: Path) -> None:
    """Draw 1-NN accuracy against dimensions of the networks and active latents of codes, as PNG."""
    task = results.rows[0].task
    lines = {
        "nested network": "nested",
        "plain network": "first dimensions",
        "CSR on the plain network": own_method(results),
    }
    figure = make_figure(8, 4.8)
    axes = figure.add_subplot()
    for (name, method), marker in zip(lines.items(), "s^o", strict=True):
        rows = results.select(task=task, method=method, metric=NEAREST)
        points = [Point(row.k, row.score, *(row.interval or (row.score, row.score))) for row in rows if row.k]
        draw_line(axes, points, label=name, marker=marker, linewidth=2.4 if method.startswith("CSR") else 1.5)
    (dense,) = results.select(task=task, method="dense", metric=NEAREST)
    draw_level(axes, dense.score, f"plain network, all {dense.k} dimensions")
    set_log_axis(axes, set(KS))
    axes.set_xlabel("dimensions, or active latents")
    axes.set_ylabel("accuracy of the nearest neighbor")
    axes.set_title(task.partition(", as many")[0])
    finish_axes(axes, has_error_bars=True)
    save_figure(figure, path)


def own_method(results: Results) -> str:
    """Name CSR at the hidden_dim that most k are measured at."""
    names = [row.method for row in results.rows if row.method.startswith("CSR, hidden_dim")]
    return max(names, key=names.count)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, required=True, help="folder of image_networks.py; heads go there too")
    parser.add_argument("--heads", help="names of those to train, such as k8,16x_k32 (default: all)")
    parser.add_argument("--output", type=Path, help="folder for the results (default: train only)")
    options = parser.parse_args(arguments)
    record_command(" ".join(["python", *sys.argv]))
    torch.set_num_threads(1)
    known = list_heads()
    wanted = options.heads.split(",") if options.heads else list(known)
    trained = {name: train_head(options.networks, name, known[name]) for name in wanted}
    if options.output is None:
        return
    rows = measure(options.networks, {name: head for name, (head, _) in trained.items()})
    details = {
        **provenance(),
        "networks": {
            name: json.loads((options.networks / name / "network.json").read_text()) for name in ("plain", "nested")
        },
        "heads": {name: figures for name, (_, figures) in trained.items()},
    }
    results = Results(rows, details)
    results.save(options.output)
    draw_accuracy(results, options.output / "accuracy.png")


if __name__ == "__main__":
    main()
