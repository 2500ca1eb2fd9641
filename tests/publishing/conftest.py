import json
import shutil

import pytest
import torch

from csr_hf import CSRConfig, CSRModel, Recipe, Results
from csr_hf.evaluation.results import Row
from tests.conftest import MINILM


def make_head(seed=0, **sizes):
    """An untrained head for MiniLM with biases that are not zero."""
    torch.manual_seed(seed)
    head = CSRModel(CSRConfig(**{"hidden_dim": 256, "k": 16, "base_model_name_or_path": MINILM, **sizes}))
    with torch.no_grad():
        head.pre_bias.normal_(std=0.02)
        head.latent_bias.normal_(std=0.02)
    return head


def make_results():
    """Few rows with the shape of a run's."""
    rows = [
        Row("faq, 50 held-out pairs", "nDCG@10", "dense", None, 1536, 0.8, 1.0),
        Row("faq, 50 held-out pairs", "nDCG@10", "CSR", 16, 64, 0.7, 0.875),
        Row("faq, 50 held-out pairs", "nDCG@10", "CSR, self-rescored", 16, 68, 0.76, 0.95),
        Row("faq, 50 held-out pairs", "nDCG@10", "binary", None, 48, 0.78, 0.975),
        Row("SciFact", "nDCG@10", "dense", None, 1536, 0.6, 1.0),
        Row("SciFact", "nDCG@10", "CSR", 16, 64, 0.5, 0.8333),
    ]
    details = {
        "command": "csr-hf run /home/somebody/recipes/faq.yaml --hub.token hf_thisIsASecret123",
        "machine": "Linux x86_64, 2 cores",
        "datasets": {"SciFact": {"id": "mteb/scifact", "task_id": "SciFact", "revision": "0228b52"}},
    }
    return Results(rows, details)


def write_run(folder, head, results=None):
    """A folder as `csr-hf run` leaves it, without index and documents."""
    recipe = Recipe.from_dict({"output_dir": str(folder), "data": {"source": "/home/somebody/faq.csv", "limit": 500}})
    figures = {"explained_variance": 0.853, "dead_fraction": 0.01, "postings_per_document": 2.28, "seconds": 53.2}
    head.save_pretrained(folder / "model")
    recipe.save(folder / "recipe.yaml", {"results": figures})
    if results is not None:
        results.save(folder)
        (folder / "retention.png").write_bytes(b"\x89PNG not really")
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run", make_head(), make_results())


def change_json(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def copy_of(folder, target):
    return shutil.copytree(folder, target, symlinks=True)
