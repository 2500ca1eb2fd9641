"""The paper's figures on images: CSR beside a network that was trained with nested losses, on CIFAR10."""

from __future__ import annotations

from functools import partial
from typing import Any

from csr_hf.evaluation.intervals import half_width
from csr_hf.evaluation.labeled import NEAREST, PROBE
from csr_hf.evaluation.results import Results, Row
from regions.markdown import command, load_results, table

_FOLDER = "paper/results/images"
_KS = (8, 16, 32, 64, 128, 256)
_WIDTHS = ("1x", "2x", "4x", "8x", "16x")
_STARTS = {
    "": ("as they are", "usual"),
    "revived": ("as they are", "strong"),
    "centered": ("centered (0)", "usual"),
    "centered-revived": ("centered (0)", "strong"),
    "whitened-revived": ("whitened by 0.3", "strong"),
    "whitened": ("whitened by 0.9", "usual"),
}
"""Beginnings of the names of heads: what the table calls their embeddings and their auxiliary error."""


def _results() -> Results:
    return load_results(_FOLDER)


def _tasks(results: Results) -> tuple[str, str]:
    """Return the names of both comparisons: as many latents as dimensions, and equal bytes."""
    numbers, sizes = dict.fromkeys(row.task for row in results.rows)
    return numbers, sizes


def _find(results: Results, **wanted: Any) -> Row | None:
    """Find the row with these fields; None where it was not measured."""
    rows = results.select(**wanted)
    return rows[0] if rows else None


def _score(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.score:.3f} ± {half_width(row.interval):.3f}" if row.interval else f"{row.score:.3f}"


def _own_width(results: Results) -> int:
    """Return the hidden_dim that every k is measured at."""
    return int(results.details["heads"]["k8"]["hidden_dim"])


def numbers_table() -> str:
    """Compare CSR with the nested network at as many latents as dimensions."""
    results = _results()
    numbers, _ = _tasks(results)
    csr = f"CSR, hidden_dim {_own_width(results)}"
    lines = []
    for k in _KS:
        cells = [
            _score(_find(results, task=numbers, method=method, k=k, metric=metric))
            for metric in (NEAREST, PROBE)
            for method in (("nested", csr, "first dimensions") if metric == NEAREST else ("nested", csr))
        ]
        lines.append([str(k), *cells])
    whole = [_score(_find(results, task=numbers, method="dense", metric=metric)) for metric in (NEAREST, PROBE)]
    lines.append(["plain, all 256", "", "", whole[0], "", whole[1]])
    header = ["dimensions, or k", "nested, 1-NN", "CSR, 1-NN", "plain, first dimensions, 1-NN"]
    return table([*header, "nested, probe", "CSR, probe"], lines, left=0)


def bytes_table() -> str:
    """Compare both at the same bytes."""
    results = _results()
    _, sizes = _tasks(results)
    lines = []
    for row in results.select(task=sizes, method="CSR"):
        found = [
            _score(_find(results, task=sizes, method=method, bytes_per_vector=row.bytes_per_vector))
            for method in ("nested", "CSR", "CSR, decoded")
        ]
        lines.append([str(row.bytes_per_vector), str(row.k), *found])
    return table(["bytes", "k", "nested, int8", "CSR", "CSR, decoded"], lines, left=0)


def minutes_table() -> str:
    """Show what each training takes, and the accuracy at 8 that comes of it."""
    results = _results()
    numbers, _ = _tasks(results)
    networks, heads = results.details["networks"], results.details["heads"]
    csr = f"CSR, hidden_dim {_own_width(results)}"
    lines = []
    for name in ("plain", "nested"):
        network = networks[name]
        method = "nested" if name == "nested" else "first dimensions"
        accuracy = _score(_find(results, task=numbers, method=method, k=8, metric=NEAREST))
        minutes = network["minutes_training"] + network["minutes_embedding"]
        lines.append([f"{name} network, trained and embedded", f"{minutes:.1f}", accuracy])
    minutes = networks["plain"]["minutes_embedding"] + heads["k8"]["minutes"]
    accuracy = _score(_find(results, task=numbers, method=csr, k=8, metric=NEAREST))
    lines.append(["CSR, k = 8, on the plain network, embedded and trained", f"{minutes:.1f}", accuracy])
    return table(["", "minutes of one core", "1-NN at 8"], lines)


def _head_line(results: Results, name: str) -> list[str] | None:
    """Show dead latents, explained variance and accuracy of a head; None if it was not trained."""
    head = results.details["heads"].get(name)
    if head is None:
        return None
    numbers, _ = _tasks(results)
    start = next((start for start in _STARTS if start and name.startswith(f"{start}_")), None)
    method = f"CSR, hidden_dim {head['hidden_dim']}{f', {start}' if start else ''}"
    scores = [
        _score(_find(results, task=numbers, method=method, k=head["k"], metric=metric)) for metric in (NEAREST, PROBE)
    ]
    return [f"{head['dead_fraction']:.1%}", f"{head['postings_per_document']:.2f}", *scores]


def widths_table() -> str:
    """Show what hidden_dim does at k = 32."""
    results = _results()
    lines = []
    for width in _WIDTHS:
        line = _head_line(results, "k32" if width == "4x" else f"{width}_k32")
        if line is not None:
            lines.append([width, *line])
    return table(["hidden_dim", "dead", "postings", "1-NN", "probe"], lines, left=0)


def starts_table() -> str:
    """Show dead latents and accuracy by how the head starts."""
    results = _results()
    lines = []
    for width in ("4x", "16x"):
        for start, names in _STARTS.items():
            own = "k32" if width == "4x" else "16x_k32"
            line = _head_line(results, f"{start}_{width}_k32" if start else own)
            if line is not None:
                lines.append([width, *names, *line])
    return table(["hidden_dim", "embeddings", "auxiliary error", "dead", "postings", "1-NN", "probe"], lines, left=3)


def clip_table() -> str:
    """Show the same for photographs in a small CLIP, by codes and by what they decode to."""
    results = load_results(f"{_FOLDER}/clip_whitening")
    names = {row.method for row in results.rows}
    lines = []
    for run in results.details["runs"]:
        whitening, is_strong = run["model.whitening"], "training.beta" not in run
        varied = f"whitening {whitening}{'' if is_strong else ', beta'}"
        cells = [
            _score(_find(results, method=name, metric=metric))
            for metric in ("dense top 10", NEAREST)
            for method in ("CSR", "CSR, decoded")
            for name in names
            if name.startswith(f"{method}, hidden_dim") and varied in name
        ]
        start = "centered (0)" if whitening is None else f"whitened by {whitening}"
        figures = [f"{run['dead_fraction']:.1%}", f"{run['postings_per_document']:.2f}"]
        lines.append([start, "strong" if is_strong else "usual", *figures, *cells])
    lines.append(["dense", *[""] * 5, _score(_find(results, method="dense", metric=NEAREST)), ""])
    header = ["embeddings", "auxiliary error", "dead", "postings", "dense top 10 by codes", "decoded"]
    return table([*header, "1-NN by codes", "decoded"], lines, left=2)


def mean_to_spread() -> str:
    """Return the ratio of the mean of the plain network's embeddings to their spread."""
    return f"{_results().details['heads']['k8']['mean_to_spread']:.2f}"


def network_figure(name: str) -> str:
    """Return a figure of the plain network."""
    network = _results().details["networks"]["plain"]
    return f"{network['classifier_accuracy']['256']:.3f}" if name == "accuracy" else f"{network[name]:,.0f}"


def heads_command() -> str:
    """Show the command that measured."""
    return command(_results().details["command"])


REGIONS = {
    "paper-images": numbers_table,
    "paper-images-bytes": bytes_table,
    "paper-images-minutes": minutes_table,
    "paper-images-widths": widths_table,
    "paper-images-starts": starts_table,
    "paper-images-clip": clip_table,
    "paper-images-mean-to-spread": mean_to_spread,
    "paper-images-accuracy": partial(network_figure, "accuracy"),
    "paper-images-epochs": partial(network_figure, "epochs"),
    "paper-images-parameters": partial(network_figure, "parameters"),
    "paper-images-command": heads_command,
}
