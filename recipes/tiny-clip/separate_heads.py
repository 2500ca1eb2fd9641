"""A head for each modality, their latents matched afterwards, beside one head for both.

    python recipes/tiny-clip/separate_heads.py --output recipes/tiny-clip/results/separate

Heads of their own are trained without contrast, since they share no latents; then the latents of the texts are given
the numbers of those of the images that are active with them in training pairs (Hungarian method, as in arXiv
2606.29888). Both are measured alike: codes with codes, documents with least-squares values, queries with 2 k latents.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from csr_hf import CSRModel, CSRTrainer, Results, RunRecipe, SparseCodes
from csr_hf.codes import encode_embeddings
from csr_hf.configuration_csr import CSRConfig
from csr_hf.data.run_data import RunData
from csr_hf.evaluation.cross_modal import CUTOFFS
from csr_hf.evaluation.neighbors import best_first
from csr_hf.evaluation.results import Row
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.embedding import embed

MODALITIES = ("image", "text")
DIRECTIONS = (("text to image", "text", "image"), ("image to text", "image", "text"))


def train_head(recipe: RunRecipe, rows: np.ndarray, seed: int) -> tuple[CSRModel, float]:
    """Train a head for one modality; also return the share of its latents that are dead."""
    torch.manual_seed(seed)
    dim = rows.shape[1]
    head = CSRModel(CSRConfig(input_dim=dim, hidden_dim=recipe.model.hidden_dim_for(dim), k=recipe.model.k))
    with tempfile.TemporaryDirectory() as folder:
        args = dataclasses.replace(recipe.training, gamma=0, output_dir=folder)
        figures = CSRTrainer(head, args, rows).train()
    return head.eval(), figures["dead_fraction"]


def match_latents(heads: dict[str, CSRModel], train: dict[str, np.ndarray]) -> np.ndarray:
    """Match every latent of the texts with the latent of the images that is active in the same pairs."""
    active = {name: encode_embeddings(heads[name], train[name]).to_torch("dense").numpy() for name in MODALITIES}
    scaled = {name: rows / np.maximum(np.linalg.norm(rows, axis=0), 1e-12) for name, rows in active.items()}
    found: np.ndarray = linear_sum_assignment(scaled["text"].T @ scaled["image"], maximize=True)[1]
    return found


def compute_recalls(
    documents: SparseCodes, queries: SparseCodes, groups: np.ndarray, wanted: np.ndarray
) -> list[float]:
    """Compute the share of the queries that find a document of their group among the first 1, 5 and 10."""
    scores = (queries.normalize().to_scipy() @ documents.normalize().to_scipy().T).toarray()
    right = groups[best_first(scores, CUTOFFS[-1])] == wanted[:, None]
    return [float(right[:, :cutoff].any(axis=1).mean()) for cutoff in CUTOFFS]


def measure(
    heads: dict[str, CSRModel], numbers: np.ndarray | None, data: RunData, biases: dict[str, np.ndarray], k: int
) -> dict[str, list[float]]:
    """Measure recall at 1, 5 and 10 in both directions; without heads, of the embeddings."""
    images, texts, captions = data.held_out_captions()
    _, firsts, groups = np.unique(np.array(captions), return_index=True, return_inverse=True)
    rows = {"image": images.astype(np.float32), "text": texts[firsts].astype(np.float32)}
    labels = {"image": groups, "text": np.arange(len(firsts))}
    result = {}
    for name, asking, stored in DIRECTIONS:
        if not heads:
            units = {kind: part / np.linalg.norm(part, axis=1, keepdims=True) for kind, part in rows.items()}
            found = np.argsort(-units[asking] @ units[stored].T, axis=1, kind="stable")[:, : CUTOFFS[-1]]
            right = labels[stored][found] == labels[asking][:, None]
            result[name] = [float(right[:, :cutoff].any(axis=1).mean()) for cutoff in CUTOFFS]
            continue
        codes = {}
        for kind in MODALITIES:
            centered = rows[kind] - biases[kind]
            found = encode_embeddings(heads[kind], centered, k if kind == stored else 2 * k, refine=kind == stored)
            if kind == "text" and numbers is not None:
                found = SparseCodes(numbers[found.indices], found.values, found.dim)
            codes[kind] = SparseCodes(found.indices, found.values, found.dim)
        result[name] = compute_recalls(codes[stored], codes[asking], labels[stored], labels[asking])
    return result


def main() -> None:
    """Train, match, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="runs/tiny-clip_emoji_k64/model", help="one head for both, trained before")
    parser.add_argument("--output", required=True, help="folder for the results")
    options = parser.parse_args()
    recipe = RunRecipe.load(Path(__file__).with_name("emoji_k64.yaml"))
    data = embed(recipe)
    biases = {name: data.modality_mean(name) for name in MODALITIES}
    source = data.sources[0]
    rows = ~source.held_out
    train = {name: source.vectors[name][rows].astype(np.float32) - biases[name] for name in MODALITIES}
    shared = CSRModel.from_pretrained(options.shared).eval()
    heads, dead = {}, {}
    for number, name in enumerate(MODALITIES):
        # From the same seed latents would begin, and stay, alike.
        heads[name], dead[name] = train_head(recipe, train[name], recipe.training.seed + number)
    k, size = recipe.model.k, 4 * recipe.model.k + 4
    variants = {
        "dense": (measure({}, None, data, biases, k), None, 4 * data.dim),
        "one head": (measure(dict.fromkeys(MODALITIES, shared), None, data, biases, k), k, size),
        "two heads, latents matched": (measure(heads, match_latents(heads, train), data, biases, k), k, size),
        "two heads, not matched": (measure(heads, None, data, biases, k), k, size),
    }
    found = []
    for name, (scores, latents, stored) in variants.items():
        for direction, recall in scores.items():
            best = variants["dense"][0][direction]
            found += [
                Row(direction, f"R@{cutoff}", name, latents, stored, score, score / dense)
                for cutoff, score, dense in zip(CUTOFFS, recall, best, strict=True)
            ]
    record_command(" ".join(["python", *sys.argv]))
    details = {
        **provenance(),
        "dead": dead,
        "note": f"two heads: {dead['image']:.1%} of the latents are dead in images, {dead['text']:.1%} in texts",
    }
    Results(found, details).save(options.output)


if __name__ == "__main__":
    main()
