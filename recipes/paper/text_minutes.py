"""Measure the minutes of one core that a CSR head on MiniLM takes: embedding the pairs, and training.

    python recipes/paper/text_minutes.py --run runs/all-MiniLM-L6-v2_general_k32 --output recipes/paper/results/text

Every twentieth pair is embedded, and the time multiplied. The training is counted as its seconds on all cores, which
is more than the processor time that it took.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from csr_hf.data.sources import load_sources
from csr_hf.embedding.loading import load_backbone
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.recipe import RunRecipe

EVERY = 20


def measure_embedding(recipe: RunRecipe) -> tuple[int, float]:
    """Embed a sample of what the recipe trains on.

    Returns:
        The texts of the whole recipe, and the minutes of one core that all would take.
    """
    backbone = load_backbone(recipe.backbone.name_or_path, device="cpu")
    backbone.embed(["a text"])
    texts, minutes = 0, 0.0
    for source in load_sources(recipe.data):
        rows = np.flatnonzero(~source.held_out)
        for role in source.roles:
            column = source.inputs(role)
            chosen = [column[int(row)] for row in rows[::EVERY]]
            began = time.process_time()
            backbone.embed(chosen, task=source.task(role), batch_size=recipe.backbone.batch_size)
            minutes += (time.process_time() - began) / 60 * len(rows) / len(chosen)
            texts += len(rows)
    return texts, minutes


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output folder of the general recipe")
    parser.add_argument("--output", type=Path, required=True, help="folder to write minutes.json into")
    options = parser.parse_args()
    record_command(shlex.join(["python", "recipes/paper/text_minutes.py", *sys.argv[1:]]))
    training = yaml.safe_load((options.run / "recipe.yaml").read_text(encoding="utf-8"))["results"]
    texts, minutes = measure_embedding(RunRecipe.load(options.run / "recipe.yaml"))
    found = {
        "texts": texts,
        "embedded": f"one of {EVERY}",
        "embedding_minutes": minutes,
        "training_minutes": training["seconds"] / 60 * (os.cpu_count() or 1),
        **provenance(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    with write_whole(options.output / "minutes.json") as path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
