"""Sentences and tables of a model card that are computed from results, config and recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_hf.evaluation.intervals import half_width
from csr_hf.evaluation.results import Results, Row

_SHOWN = "CSR"
"""The method that the card's snippet shows."""
_HUB = "https://huggingface.co"


def summarize(config: dict[str, Any], base_model: str | None, results: Results | None) -> str:
    """Say in one sentence what the head does, on which backbone, and how much it keeps at how many bytes.

    Args:
        config: the head's config.json.
        base_model: Hub id of the backbone, where others can fetch it.
        results: all rows that were measured.
    """
    backbone = f"[{base_model}]({_HUB}/{base_model})" if base_model else "a frozen embedding model"
    text = (
        f"A CSR head (*Contrastive Sparse Representation*) for {backbone}: it turns the dense embeddings into sparse "
        f"codes of {config['k']} active latents out of {config['hidden_dim']:,}, or of any other number k"
    )
    best = find_best_row(results, config["k"])
    if best is None or results is None:
        return text + "."
    dense = results.select(task=best.task, metric=best.metric, method="dense")[0]
    return (
        f"{text}; at k={best.k} a document takes {best.bytes_per_vector} bytes instead of {dense.bytes_per_vector:,} "
        f"and {_say_kept(best)} ({best.method}; {best.task})."
    )


def _say_kept(row: Row) -> str:
    """Say what a row keeps of the dense model's score, how sure that is, and on how many queries."""
    width = half_width(row.retention_interval)
    sure = f" ± {width:.1%}" if width > 0 else ""
    queries = f" on {row.n_queries:,} {row.unit}" if row.n_queries is not None else ""
    # The recall of the dense model's hits has its name already.
    metric = row.metric if row.metric.startswith("dense ") else f"dense {row.metric}"
    return f"keeps {row.retention:.1%}{sure} of the {metric}{queries}"


def find_best_row(results: Results | None, k: int) -> Row | None:
    """Find the head's row at the k nearest to its own, on the first task and metric.

    Of several it is that of the method which the card's snippet shows, else that of the highest retention.
    """
    rows = results.rows if results else []
    rows = [row for row in rows if (row.task, row.metric) == (rows[0].task, rows[0].metric)]
    own = [row for row in rows if row.k and row.is_code_alone]
    return min(own, key=lambda row: (abs((row.k or 0) - k), row.method != _SHOWN, -row.retention), default=None)


def describe_purpose(config: dict[str, Any], results: Results | None, layout: str) -> list[str]:
    """Say what the head is good for, what it costs, and when to take something else, a line each.

    Args:
        config: the head's config.json.
        results: all rows that were measured.
        layout: "full" or "head".
    """
    kinds = " and ".join(f"{kind}s" for kind in config.get("modalities") or ["text"])
    size = 4 * config["hidden_dim"] * config["input_dim"] / 1e6
    whole = "" if layout == "full" else ", and the backbone is fetched beside it"
    best = find_best_row(results, config["k"])
    fitting = f"of {best.bytes_per_vector} bytes " if best else ""
    return [
        f"**Good for** many {kinds} in little space: codes {fitting}with a size that is chosen when they are made, "
        "for inverted lists and engines that take sparse vectors.",
        f"**It costs** one pass of the backbone for each of them, as dense embeddings do; the head adds {size:.1f} MB"
        f"{whole}.",
        "**Take something else** where the dense embeddings fit into memory, or for texts of another kind than those "
        "it was trained on: sign bits need no training.",
    ]


def describe_snippet(config: dict[str, Any], results: Results | None) -> str:
    """Say which line of the tables is what the card's snippet does."""
    best = find_best_row(results, config["k"])
    text = "Queries keep their largest products with the dictionary, documents are coded by pursuit."
    if best is None:
        return text
    if best.method == _SHOWN:
        return f"{text} That is the method {_SHOWN} of the tables below."
    if best.method == "CSR, packed":
        coder = f"`csr_hf.fit_coder(encoder.head, embeddings, {best.bytes_per_vector})`"
        return f"{text} The figures above are of codes by {coder}, fitted to training embeddings."
    return f"{text} The figures above are of the method {best.method} of the tables below."


def render_results(measured: list[Results], folder: str) -> str:
    """Render the tables of all results, and the line that explains them.

    Args:
        measured: on held-out rows and on MTEB.
        folder: of the published model that holds the files.
    """
    if not measured:
        return "Not evaluated yet."
    tables = "\n\n".join(results.to_markdown() for results in measured)
    return (
        f"{tables}\n\n*bytes* are those of a document's code or vector, *retention* is the share of the dense "
        f"score that is kept. All figures are in [`{folder}/`]({folder})."
    )


def render_training(config: dict[str, Any], recipe: dict[str, Any], folder: str) -> str:
    """Render a table of data, sizes, losses and the figures that training reported; empty without a recipe.

    Args:
        config: the head's config.json.
        recipe: the resolved recipe, with `versions` and `results`.
        folder: of the published model that holds the recipe.
    """
    if not recipe:
        return ""
    try:
        return _render_training(config, recipe, folder)
    # A stranger may have written it.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}/recipe.yaml is no recipe of csr_hf ({error!r:.100}). Remove it, or train the head again."
        ) from error


def _render_training(config: dict[str, Any], recipe: dict[str, Any], folder: str) -> str:
    figures = recipe.get("results", {})
    rows = [
        ("data", _describe_data(recipe.get("data", {}))),
        ("head", _describe_head(config)),
        ("loss", _describe_loss(recipe["training"])),
        ("optimization", _describe_optimization(recipe["training"])),
        *_describe_figures(figures),
        ("machine", recipe.get("versions", {}).get("machine", "")),
    ]
    table = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows if value)]
    return "\n".join([*table, "", f"Repeat it with `csr-hf run {folder}/recipe.yaml`."])


def list_limits(config: dict[str, Any], recipe: dict[str, Any], results: Results | None) -> list[str]:
    """List what a user should not expect of the head, one sentence each.

    Args:
        config: the head's config.json.
        recipe: the resolved recipe.
        results: all rows that were measured.
    """
    found = ["The head was trained for this backbone's embeddings alone, prompts and normalization included."]
    if config.get("modalities"):
        found.append(
            f"It encodes {' and '.join(config['modalities'])}, after subtracting the mean of each. csr_hf and "
            "sentence-transformers do that themselves; with transformers, encode "
            "`model.subtract_modality_mean(embeddings, modality)`."
        )
    sources = list_data_sources(recipe)
    # A run names its tasks after the first source, and a file without its folder.
    name = Path(sources[0]).name if sources else None
    of_source = (f"{sources[0]}, ", f"{name}, ", f"{name} and ") if sources else ()
    if results and any(row.task.startswith(of_source) for row in results.rows):
        found.append(
            f"The figures of {name} are of held-out rows of the data it was trained on. On other text it keeps less: "
            "train a head on a sample of your own."
        )
    best = find_best_row(results, config["k"])
    if best is not None and results is not None:
        smaller = [
            row
            for row in results.select(task=best.task, metric=best.metric)
            if row.k is None and row.bytes_per_vector < best.bytes_per_vector and row.retention >= best.retention
        ]
        found += [
            f"By size alone it is not the best: {row.bytes_per_vector} bytes of {row.method} keep {row.retention:.1%}."
            for row in sorted(smaller, key=lambda row: row.bytes_per_vector)
        ]
    found.append(
        "Latents are no words of a vocabulary: `SparseEncoder.decode` of sentence-transformers means nothing here."
    )
    return found


def render_versions(recipe: dict[str, Any]) -> str:
    """Render the versions of the libraries on one line."""
    known = recipe.get("versions")
    versions = {name: value for name, value in (known if isinstance(known, dict) else {}).items() if name != "machine"}
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def list_data_sources(recipe: dict[str, Any]) -> list[str]:
    """List the data sets of a recipe: Hub ids and file names."""
    data = recipe.get("data", {})
    sources = (data.get("sources") or [data]) if isinstance(data, dict) else []
    named = [source.get("source") for source in sources if isinstance(source, dict)]
    return [name for name in named if name and isinstance(name, str)]


def _describe_data(data: dict[str, Any]) -> str:
    parts = [", ".join(f"`{name}`" for name in list_data_sources({"data": data}))]
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


def _describe_head(config: dict[str, Any]) -> str:
    decoder = "tied decoder" if config["tied_decoder"] else "a decoder of its own"
    return f"{config['input_dim']} -> {config['hidden_dim']} latents, k {config['k']}, {decoder}"


def _describe_loss(training: dict[str, Any]) -> str:
    parts = [f"reconstruction at {factor} k ({weight:g})" for factor, weight in training["reconstruction"].items()]
    names = {"beta": "auxiliary", "gamma": "contrast", "distillation": "distillation", "balance": "balance"}
    return ", ".join(parts + [f"{name} ({training[key]:g})" for key, name in names.items() if training.get(key)])


def _describe_optimization(training: dict[str, Any]) -> str:
    return (
        f"{training['max_steps']:,} steps of {training['per_device_train_batch_size']} a process, Adam, learning rate "
        f"{training['learning_rate']:g}, {training['lr_scheduler_type']}, seed {training['seed']}"
    )


def _describe_figures(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Word the figures that training reported; missing ones are left out."""
    shown = {
        "held_out_explained_variance": ("explained variance of held-out rows", "{:.3f}"),
        "explained_variance": ("explained variance of rows trained on", "{:.3f}"),
        "dead_fraction": ("dead latents", "{:.1%}"),
        "postings_per_document": ("postings a document and query", "{:.2f}"),
        "most_used_latent": ("the most used latent is in", "{:.1%} of the codes"),
        "seconds": ("training time", "{:.0f} s"),
    }
    return [(label, pattern.format(figures[name])) for name, (label, pattern) in shown.items() if name in figures]
