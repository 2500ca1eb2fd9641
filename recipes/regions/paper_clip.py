"""The paper's claims for two modalities, measured with a small CLIP: recall, zero-shot accuracy, unimodal latents."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from statistics import fmean
from typing import Any

from csr_hf.evaluation.results import Results, Row
from regions.markdown import load_results, share, table

_FOLDER = "paper/results/clip"
_FIGURES = [
    *(
        (f"emoji, {direction}", metric)
        for direction in ("text to image", "image to text")
        for metric in ("R@5", "R@10")
    ),
    ("CIFAR10, 10,000 photographs, zero-shot", "accuracy"),
]
_COLUMNS = ["text to image, R@5", "R@10", "image to text, R@5", "R@10", "zero-shot accuracy"]
_METHODS = ("CSR", "CSR, decoded")
_KS = (8, 16, 32, 64, 128)
_VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one mean for both (the paper's)": {"model.modality_bias": False},
    "no contrast (a sparse autoencoder)": {"training.gamma": 0},
    "auxiliary error flat below 0 (the paper's)": {"training.auxiliary_slope": 0},
}
"""What the tables call a variant: the keys that it sets beside the seed. Those without runs are left out."""
_VARIED = {key for keys in _VARIANTS.values() for key in keys}
_WITHOUT = ", without unimodal latents"


def _runs(results: Results, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """List the runs of a variant, one for each seed."""
    return [run for run in results.details["runs"] if {key: run[key] for key in _VARIED & run.keys()} == keys]


def _variants(results: Results) -> list[tuple[str, list[dict[str, Any]]]]:
    """List the variants that were run, by name."""
    return [(name, runs) for name, keys in _VARIANTS.items() if (runs := _runs(results, keys))]


def _rows(results: Results, method: str, k: int, runs: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[Row]]:
    """Find the rows of a method by task and metric, one for each run."""
    names = {f"{method}, {run['folder']}" for run in runs}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if row.method in names and row.k == k:
            found.setdefault((row.task, row.metric), []).append(row)
    return found


def _shares(found: dict[tuple[str, str], list[Row]]) -> list[str]:
    """Show the mean over seeds of what is kept of the dense figures."""
    return [f"{fmean(row.retention for row in found[figure]):.3f}" for figure in _FIGURES]


def recall_table() -> str:
    """Show recall and zero-shot accuracy against k, means of seeds, beside other methods of the same bytes."""
    results = load_results(_FOLDER)
    runs = _runs(results, _VARIANTS["as it is"])
    lines = []
    for method in _METHODS:
        for k in _KS:
            found = _rows(results, method, k, runs)
            lines.append([method, str(k), str(found[_FIGURES[0]][0].bytes_per_vector), *_shares(found)])
    others: dict[tuple[str, int], dict[tuple[str, str], Row]] = {}
    for row in results.rows:
        if row.k is None:
            others.setdefault((row.method, row.bytes_per_vector), {})[row.task, row.metric] = row
    cells = [[name, "", str(size), *(share(rows[each]) for each in _FIGURES)] for (name, size), rows in others.items()]
    return table(["method", "k", "bytes", *_COLUMNS], [*cells[:1], *lines, *cells[1:]])


def variants_table() -> str:
    """Compare heads for both modalities at k = 64, means of seeds, with their dead latents."""
    results = load_results(_FOLDER)
    lines = []
    for name, runs in _variants(results):
        dead = [f"{fmean(run[f'dead_fraction_{modality}'] for run in runs):.1%}" for modality in ("image", "text")]
        for method in _METHODS:
            lines.append([name, method, *_shares(_rows(results, method, 64, runs)), *dead])
    return table(["head", "method", *_COLUMNS, "dead in images", "dead in texts"], lines, left=2)


def unimodal_table() -> str:
    """Show what is left without the latents that one modality alone uses, at k = 64, means of seeds."""
    results = load_results(_FOLDER)
    lines = []
    for name, runs in _variants(results):
        for kind, gap in (("", "gap"), (_WITHOUT, "gap_without_unimodal")):
            count = fmean((run["only_images"] + run["only_texts"]) / run["latents"] for run in runs)
            cells = [f"{count:.1%}" if not kind else "none", f"{fmean(run[gap] for run in runs):.3f}"]
            lines.append([f"{name}{kind}", *cells, *_shares(_rows(results, f"CSR{kind}", 64, runs))])
    return table(["head", "unimodal latents", "gap", *_COLUMNS], lines)


def kept(method: str, figure: int) -> str:
    """Return what a method keeps at k = 64 of one of the dense figures, mean of seeds."""
    results = load_results(_FOLDER)
    return _shares(_rows(results, method, 64, _runs(results, {})))[figure]


def dead(modality: str) -> str:
    """Return the share of dead latents in a modality, the largest of the seeds."""
    return f"{max(run[f'dead_fraction_{modality}'] for run in _runs(load_results(_FOLDER), {})):.1%}"


REGIONS = {
    "clip-recall": recall_table,
    "clip-heads": variants_table,
    "clip-unimodal": unimodal_table,
    "clip-dead-images": partial(dead, "image"),
    "clip-dead-texts": partial(dead, "text"),
    "clip-zero-shot": partial(kept, "CSR, decoded", 4),
    "clip-zero-shot-codes": partial(kept, "CSR", 4),
}
