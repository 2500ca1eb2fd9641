"""Measure heads for both towers of the small CLIP: recall, zero-shot accuracy, and what their unimodal latents carry.

    python recipes/paper/clip_heads.py runs/paper_clip --output recipes/paper/results/clip

The heads are those of a sweep over recipes/tiny-clip/emoji_cifar10_k64.yaml. Recall is that of its held-out emoji.
Zero-shot accuracy is that of CIFAR10's test split: photographs are stored, a text for each class asks. A latent is
unimodal if 95 % of its energy, its mean square over training pairs, come from one modality (arXiv 2602.06218); it is
taken out of the head, and all is measured again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from csr_hf import CSRModel, Results, RunRecipe
from csr_hf.codes import decode_codes, encode_embeddings, subtract_modality_mean
from csr_hf.configuration_csr import CSRConfig
from csr_hf.data.arguments import DataArguments
from csr_hf.data.run_data import RunData
from csr_hf.data.sources import load_sources
from csr_hf.evaluation.comparison import compare_methods
from csr_hf.evaluation.cross_modal import evaluate_cross_modal
from csr_hf.evaluation.method import Method
from csr_hf.evaluation.methods import all_methods
from csr_hf.evaluation.results import Row
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.embedding import embed

RECIPE = Path(__file__).parents[1] / "tiny-clip" / "emoji_cifar10_k64.yaml"
KS = [8, 16, 32, 64, 128]
BASELINES = ["truncate", "pca", "int8", "binary"]
UNIMODAL = 0.95
OF_LATENTS = ("encoder.weight", "latent_bias", "stats_last_nonzero", "modality_last_nonzero")


class Photographs(NamedTuple):
    """Photographs with classes, and a text for each class."""

    embeddings: np.ndarray
    classes: np.ndarray
    texts: np.ndarray


def embed_photographs(recipe: RunRecipe, data: RunData, limit: int) -> Photographs:
    """Embed photographs of CIFAR10's test split, and a caption of each class as the CLIP learned them."""
    backbone = data.backbone
    if backbone is None:
        raise ValueError("the recipe names no backbone.")
    columns = {"image": "img", "label": "label"}
    given = DataArguments(source="mteb/cifar10", split="test", columns=columns, held_out=0, limit=limit)
    (source,) = load_sources(given)
    RunData(backbone, [source]).embed(recipe.embeddings_dir, recipe.backbone.batch_size)
    if source.labels is None:
        raise ValueError("the photographs have no classes.")
    texts = backbone.embed([f"a photo of a {name}" for name in source.class_names])
    return Photographs(source.vectors["image"][:].astype(np.float32), source.labels, np.asarray(texts, np.float32))


def classify(methods: list[Method], photographs: Photographs) -> list[Row]:
    """Measure zero-shot accuracy: photographs are stored, and have the class whose text scores highest."""
    count = len(photographs.embeddings)

    def measure(method: Method) -> dict[str, np.ndarray]:
        stored = method.index(method.center(photographs.embeddings, "image"))
        found = stored.search(method.center(photographs.texts, "text"), count)
        scores = np.empty_like(found.scores)
        np.put_along_axis(scores, found.positions, found.scores, axis=1)
        return {"accuracy": scores.argmax(axis=0) == photographs.classes}

    return compare_methods(f"CIFAR10, {count:,} photographs, zero-shot", methods, measure, n_documents=count)


def compute_energy_shares(head: CSRModel, data: RunData) -> np.ndarray:
    """Compute the share of every latent's energy that images have, over training pairs; NaN for one never active."""
    source = data.sources[0]
    energies = []
    for modality in ("image", "text"):
        rows = source.vectors[modality][~source.held_out].astype(np.float32)
        codes = encode_embeddings(head, subtract_modality_mean(head, rows, modality)).to_scipy()
        energies.append(np.asarray(codes.multiply(codes).mean(axis=0)).ravel())
    with np.errstate(invalid="ignore"):
        return energies[0] / (energies[0] + energies[1])


def keep_latents(head: CSRModel, kept: np.ndarray) -> CSRModel:
    """Make a head of some latents of another one."""
    config = CSRConfig.from_dict({**head.config.to_dict(), "hidden_dim": int(kept.sum())})
    smaller, mask = CSRModel(config), torch.from_numpy(kept)
    state = head.state_dict()
    for name in OF_LATENTS:
        if name in state:
            state[name] = state[name][:, mask] if name.startswith("modality") else state[name][mask]
    smaller.load_state_dict(state)
    return smaller.eval()


def measure_gap(head: CSRModel, data: RunData) -> float:
    """Measure the distance between the mean of decoded images and that of decoded texts, of held-out pairs."""
    images, texts, _ = data.held_out_captions()
    means = []
    for rows, modality in ((images, "image"), (texts, "text")):
        centered = subtract_modality_mean(head, rows.astype(np.float32), modality)
        means.append(decode_codes(head, encode_embeddings(head, centered)).mean(axis=0))
    return float(np.linalg.norm(means[0] - means[1]))


def measure(head: CSRModel, data: RunData, photographs: Photographs, ks: list[int], baselines: list[str]) -> list[Row]:
    """Measure recall in both directions and zero-shot accuracy, dense first."""
    train = data.train_embeddings() if baselines else None
    methods = all_methods(head, train, ks=ks, baselines=baselines)
    images, texts, captions = data.held_out_captions()
    return evaluate_cross_modal(methods, images, texts, captions, task="emoji") + classify(methods, photographs)


def measure_head(
    folder: Path, data: RunData, photographs: Photographs, *, is_first: bool
) -> tuple[list[Row], dict[str, Any]]:
    """Measure a head, and what is left of it without its unimodal latents.

    Args:
        folder: of a combination of the sweep.
        data: emoji and their names.
        photographs: for zero-shot classification.
        is_first: whether to measure methods without a head too.

    Returns:
        Rows, whose methods end with the name of the folder, and counts of latents and gaps of the modalities.
    """
    head = CSRModel.from_pretrained(folder / "model").eval()
    shares = compute_energy_shares(head, data)
    is_unimodal = (shares >= UNIMODAL) | (shares <= 1 - UNIMODAL)
    rest = keep_latents(head, ~is_unimodal)
    rows = []
    for kind, each, ks in (("", head, KS), (", without unimodal latents", rest, [head.config.k])):
        measured = measure(each, data, photographs, ks, BASELINES if is_first and not kind else [])
        rows += [replace(row, method=f"{row.method}{kind}, {folder.name}") for row in measured if row.k is not None]
        rows += [row for row in measured if row.k is None and is_first and not kind]
    counts = {
        "latents": len(shares),
        "only_images": int((shares >= UNIMODAL).sum()),
        "only_texts": int((shares <= 1 - UNIMODAL).sum()),
        "never_active": int(np.isnan(shares).sum()),
        "gap": measure_gap(head, data),
        "gap_without_unimodal": measure_gap(rest, data),
    }
    return rows, counts


def main() -> None:
    """Embed, measure every head of the sweep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="folder of the sweep")
    parser.add_argument("--recipe", default=str(RECIPE), help="that the sweep was over (default: %(default)s)")
    parser.add_argument("--photographs", type=int, default=10_000, help="of CIFAR10 (default: %(default)s)")
    parser.add_argument("--output", required=True, help="folder for the results")
    options = parser.parse_args()
    runs = Results.load(options.sweep).details["runs"]
    recipe = replace(RunRecipe.load(options.recipe), output_dir=options.sweep)
    data = embed(recipe)
    photographs = embed_photographs(recipe, data, options.photographs)
    record_command(" ".join(["python", *sys.argv]))
    results = Results([], {**provenance(), "runs": []})
    for number, run in enumerate(runs):
        rows, counts = measure_head(Path(options.sweep) / run["folder"], data, photographs, is_first=number == 0)
        results.rows += rows
        results.details["runs"].append({**run, **counts})
        # What is measured is kept, however long the rest takes.
        results.save(options.output)


if __name__ == "__main__":
    main()
