import json

import pytest
import torch

from csr_hf import Backbone, CSRConfig, CSRModel, Results, RunRecipe
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
        Row("faq, 50 held-out pairs", "nDCG@10", "CSR, decoded", 16, 68, 0.76, 0.95),
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
    recipe = RunRecipe.from_dict(
        {"output_dir": str(folder), "data": {"source": "/home/somebody/faq.csv", "limit": 500}}
    )
    figures = {"explained_variance": 0.853, "dead_fraction": 0.01, "postings_per_document": 2.28, "seconds": 53.2}
    head.save_pretrained(folder / "model")
    recipe.save(folder / "recipe.yaml", {"results": figures})
    if results is not None:
        results.details["head"] = head.fingerprint
        results.save(folder)
        (folder / "retention.png").write_bytes(b"\x89PNG not really")
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    """An untrained transformer of a few kilobytes, 32 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text", "first"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(32, "mean"), Normalize()]
    return Backbone(SentenceTransformer(modules=modules, device="cpu"), "user/tiny")


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run", make_head(), make_results())


def change_json(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
