"""A run on the real backbone, trained once a test session whatever the number of workers."""

import json

import yaml
from filelock import FileLock

from csr_hf.cli.main import main

RECIPE = {
    "data": {"limit": 200, "held_out": 0.25, "max_characters": 200},
    "model": {"hidden_dim": 512, "k": 16},
    "training": {"max_steps": 40, "per_device_train_batch_size": 64, "save_steps": 20, "logging_steps": 10},
    "evaluation": {"ks": [8, 16]},
    "index": {"questions": ["How do I parse arguments?"]},
}


def write_recipe(folder, corpus):
    """Write RECIPE for a corpus as `recipe.yaml`."""
    recipe = {**RECIPE, "data": {**RECIPE["data"], "source": str(corpus)}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def make_once(folder, make):
    """Call `make(folder)` unless another worker has done so; wait while it does."""
    done = folder / "done.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not done.is_file():
            make(folder)
            done.write_text(json.dumps(True))
    return folder


def make_run(folder, corpus):
    """Run RECIPE into `folder/first`, with `folder/recipe.yaml` and `folder/embeddings` beside it."""
    write_recipe(folder, corpus)
    assert main(["run", str(folder / "recipe.yaml"), "--output-dir", str(folder / "first"), "--no-progress"]) == 0
