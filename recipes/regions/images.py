"""Images and texts through one head, measured with a small CLIP."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from csr_hf.evaluation.results import Row
from regions.markdown import load_json, load_results, share, table

_FOLDER = "tiny-clip/results"
_DIRECTIONS = ("text to image", "image to text")
_RECALLS = ("R@1", "R@5", "R@10")
_RECALL_COLUMNS = [f"{direction}, {metric}" for direction in _DIRECTIONS for metric in _RECALLS]
_VARIANTS = {
    "auxiliary_slope 0.2": "as it is",
    "auxiliary_slope 0": "auxiliary error flat below 0 (the paper's)",
    "modality_bias False": "one bias for both (the paper's)",
    "gamma 0": "no contrast",
}
"""Endings of the method's name in the file of the sweep: what the table calls them."""


def _recalls(rows: Iterable[Row]) -> list[str]:
    """Show the recalls of both directions."""
    found = {(row.task.rpartition(", ")[2], row.metric): row for row in rows}
    return [share(found[direction, metric]) for direction in _DIRECTIONS for metric in _RECALLS]


def emoji_table() -> str:
    """Show recall in both directions by method."""
    results = load_results(f"{_FOLDER}/emoji_k64")
    chosen = [("dense", None), *((f"CSR{kind}", k) for k in (16, 64) for kind in ("", ", decoded"))]
    chosen += [("int8", None), ("binary", None)]
    lines = [[name, str(k or ""), *_recalls(results.select(method=name, k=k))] for name, k in chosen]
    return table(["method", "k", *_RECALL_COLUMNS], lines)


def variants_table() -> str:
    """Show what the parts of the recipe do."""
    results = load_results(f"{_FOLDER}/variants")
    lines = []
    for run, (ending, name) in zip(results.details["runs"], _VARIANTS.items(), strict=True):
        rows = [row for row in results.rows if row.method.endswith(ending) and row.method.startswith("CSR, hidden")]
        dead = [f"{run[f'dead_fraction_{modality}']:.1%}" for modality in ("image", "text")]
        lines.append([name, *_recalls(rows), *dead])
    return table(["variant", *_RECALL_COLUMNS, "dead in images", "dead in texts"], lines)


def separate_table() -> str:
    """Compare one head for both modalities with a head for each."""
    results = load_results(f"{_FOLDER}/separate")
    methods = dict.fromkeys(row.method for row in results.rows)
    return table(["heads", *_RECALL_COLUMNS], [[name, *_recalls(results.select(method=name))] for name in methods])


def separate_dead(modality: str) -> str:
    """Return the share of dead latents of the head of one modality."""
    return f"{load_results(f'{_FOLDER}/separate').details['dead'][modality]:.1%}"


def cifar_table() -> str:
    """Show two tasks of mteb on photographs."""
    return load_results(f"{_FOLDER}/cifar10").summary_markdown()


def labeled_table() -> str:
    """Show accuracy on labeled photographs, of rivals at no more bytes than the codes take."""
    results = load_results(f"{_FOLDER}/cifar10_k64")
    labeled = [row for row in results.rows if row.metric in ("1-NN accuracy", "linear probe")]
    codes = [(kind, k) for k in (16, 64) for kind in ("CSR", "CSR, decoded")]
    sizes = [next(row.bytes_per_vector for row in labeled if (row.method, row.k) == code) for code in codes]
    chosen = [("dense", None), *codes, ("PCA", None), ("int8", None), ("binary", None)]
    fitting = {
        max(row.bytes_per_vector for row in labeled if row.bytes_per_vector <= size and row.method == "PCA")
        for size in sizes
    }
    lines: dict[tuple[str, int | None, int], dict[str, str]] = {}
    for method, k in chosen:
        for row in labeled:
            if (row.method, row.k) == (method, k) and (method != "PCA" or row.bytes_per_vector in fitting):
                lines.setdefault((method, k, row.bytes_per_vector), {})[row.metric] = share(row)
    cells = [
        [method, str(k or ""), str(size), found["1-NN accuracy"], found["linear probe"]]
        for (method, k, size), found in lines.items()
    ]
    return table(["method", "k", "bytes", "1-NN accuracy", "linear probe"], cells)


def labeled_dead() -> str:
    """Return the share of dead latents of the head on photographs."""
    return f"{load_json(f'{_FOLDER}/cifar10_k64/training.json')['dead_fraction']:.0%}"


REGIONS = {
    "emoji": emoji_table,
    "emoji-variants": variants_table,
    "emoji-two-heads": separate_table,
    "two-heads-dead-images": partial(separate_dead, "image"),
    "two-heads-dead-texts": partial(separate_dead, "text"),
    "cifar-tasks": cifar_table,
    "cifar-labels": labeled_table,
    "cifar-dead": labeled_dead,
}
