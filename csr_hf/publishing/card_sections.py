"""The parts of a model card that are computed from figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results, Row

HEAD_METHODS = ("CSR", "CSR, decoded")
"""Methods that need the head's codes alone."""

_HUB = "https://huggingface.co"


def summary(config: dict[str, Any], base_model: str | None, results: Results | None) -> str:
    """What it is, what it is made on, and the figure that matters most, in one sentence."""
    backbone = f"[{base_model}]({_HUB}/{base_model})" if base_model else "a frozen embedding model"
    text = (
        f"A CSR head (*Contrastive Sparse Representation*) for {backbone}: it turns the dense embeddings into sparse "
        f"codes of {config['k']} active latents out of {config['hidden_dim']:,}, or of any other number k"
    )
    best = best_row(results, config["k"])
    if best is None or results is None:
        return text + "."
    dense = results.select(task=best.task, metric=best.metric, method="dense")[0]
    return (
        f"{text}; at k={best.k} a document takes {best.bytes_per_vector} bytes instead of {dense.bytes_per_vector:,} "
        f"and keeps {best.retention:.1%} of the dense {best.metric} ({best.method}; {best.task})."
    )


def best_row(results: Results | None, k: int) -> Row | None:
    """The head's best figure at its own k, on the first task and metric."""
    rows = results.rows if results else []
    rows = [row for row in rows if row.k == k and (row.task, row.metric) == (rows[0].task, rows[0].metric)]
    rows = [row for row in rows if row.method in HEAD_METHODS]
    return max(rows, key=lambda row: row.retention, default=None)


def results_section(measured: list[Results], folder: str) -> str:
    """Every figure that was measured, and how."""
    if not measured:
        return "Not evaluated yet."
    tables = "\n\n".join(results.to_markdown() for results in measured)
    return (
        f"{tables}\n\n*bytes* are those stored for a document, *retention* is the share of the dense "
        f"score that is kept. All figures are in [`{folder}/`]({folder})."
    )


def training_section(config: dict[str, Any], recipe: dict[str, Any], folder: str) -> str:
    """Data, sizes, losses and what training reported, as a table; empty without a recipe."""
    if not recipe:
        return ""
    figures = recipe.get("results", {})
    rows = [
        ("data", _data(recipe.get("data", {}))),
        ("head", f"{config['input_dim']} -> {config['hidden_dim']} latents, k {config['k']}, {_decoder(config)}"),
        ("loss", _loss(recipe["training"])),
        ("optimization", _optimization(recipe["training"])),
        *_figures(figures),
        ("machine", recipe.get("versions", {}).get("machine", "")),
    ]
    table = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows if value)]
    return "\n".join([*table, "", f"Repeat it with `csr-hf run {folder}/recipe.yaml`."])


def limits(config: dict[str, Any], recipe: dict[str, Any], results: Results | None) -> list[str]:
    """What a user should not expect, as far as the files tell."""
    found = ["The head was trained for this backbone's embeddings alone, prompts and normalization included."]
    if config.get("modalities"):
        found.append(
            f"It encodes {' and '.join(config['modalities'])}, each centered by a bias of its own. csr_hf and "
            "sentence-transformers see to that; with transformers, encode "
            "`model.subtract_modality_mean(embeddings, modality)`."
        )
    sources = data_sources(recipe)
    # Tasks of a run are called after their source (the first of several), files without their folders.
    name = Path(sources[0]).name if sources else None
    of_source = (f"{sources[0]}, ", f"{name}, ", f"{name} and ") if sources else ()
    if results and any(row.task.startswith(of_source) for row in results.rows):
        found.append(
            f"The figures of {name} are of held-out rows of the data it was trained on. On other text it keeps less: "
            "train a head on a sample of your own."
        )
    best = best_row(results, config["k"])
    if best is not None and results is not None:
        rivals = [
            row
            for row in results.select(task=best.task, metric=best.metric)
            if row.k is None and row.bytes_per_vector < best.bytes_per_vector and row.retention >= best.retention
        ]
        found += [
            f"By size alone it is not the best: {row.bytes_per_vector} bytes of {row.method} keep {row.retention:.1%}."
            for row in sorted(rivals, key=lambda row: row.bytes_per_vector)
        ]
    found.append("Latents have no names: `SparseEncoder.decode` of sentence-transformers means nothing here.")
    return found


def versions_section(recipe: dict[str, Any]) -> str:
    """Versions of the libraries, on one line."""
    versions = {name: value for name, value in recipe.get("versions", {}).items() if name != "machine"}
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def data_sources(recipe: dict[str, Any]) -> list[str]:
    """Names of the data sets of a recipe."""
    data = recipe.get("data", {})
    return [name for source in data.get("sources") or [data] if (name := source.get("source"))]


def _data(data: dict[str, Any]) -> str:
    parts = [", ".join(f"`{name}`" for name in data_sources({"data": data}))]
    parts = [part for part in parts if part]
    if data.get("config_name"):
        parts.append(f"configuration {data['config_name']}")
    if data.get("limit"):
        parts.append(f"at most {data['limit']:,} rows")
    if data.get("held_out"):
        parts.append(f"{data['held_out']:.0%} of them held out")
    if data.get("max_characters"):
        parts.append(f"texts cut at {data['max_characters']} characters")
    return ", ".join(parts)


def _decoder(config: dict[str, Any]) -> str:
    return "tied decoder" if config["tied_decoder"] else "a decoder of its own"


def _loss(training: dict[str, Any]) -> str:
    parts = [f"reconstruction at {factor} k ({weight:g})" for factor, weight in training["reconstruction"].items()]
    names = {"beta": "auxiliary", "gamma": "contrast", "distillation": "distillation", "balance": "balance"}
    return ", ".join(parts + [f"{name} ({training[key]:g})" for key, name in names.items() if training.get(key)])


def _optimization(training: dict[str, Any]) -> str:
    return (
        f"{training['max_steps']:,} steps of {training['per_device_train_batch_size']} a process, Adam, learning rate "
        f"{training['learning_rate']:g}, {training['lr_scheduler_type']}, seed {training['seed']}"
    )


def _figures(figures: dict[str, float]) -> list[tuple[str, str]]:
    """What training reported, in words; figures that are not there are left out."""
    shown = {
        "explained_variance": ("explained variance", "{:.3f}"),
        "dead_fraction": ("dead latents", "{:.1%}"),
        "postings_per_document": ("postings a document and query", "{:.2f}"),
        "most_used_latent": ("the most used latent is in", "{:.1%} of the codes"),
        "seconds": ("training time", "{:.0f} s"),
    }
    return [(label, pattern.format(figures[name])) for name, (label, pattern) in shown.items() if name in figures]
