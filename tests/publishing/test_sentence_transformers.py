import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csr_hf import CSRConfig, CSREncoder, CSRModel
from csr_hf.cli import main
from csr_hf.publishing.sentence_transformers import (
    _native_head,
    export_sentence_transformers,
    import_sparse_autoencoder,
)
from tests.conftest import MINILM

TEXTS = ["a first text", "another, longer one about matrices", ""]


@pytest.fixture(scope="module")
def encoder(backbone):
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(hidden_dim=256, k=16, base_model_name_or_path=MINILM))
    with torch.no_grad():
        head.pre_bias.normal_(std=0.02)
        head.latent_bias.normal_(std=0.02)
    return CSREncoder(backbone, head)


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("publishing") / "exported"
    export_sentence_transformers(encoder, folder)
    return folder


def test_sparse_encoder_gives_the_same_codes_without_csr_hf(encoder, exported, tmp_path):
    script = f"""
import sys
sys.modules["csr_hf"] = None  # importing it fails, as where it is not installed
import numpy as np
from sentence_transformers import SparseEncoder
model = SparseEncoder({str(exported)!r}, device="cpu")
for k in (16, 5):
    codes = model.encode({TEXTS!r}, max_active_dims=k, convert_to_sparse_tensor=False, show_progress_bar=False)
    np.save({str(tmp_path)!r} + f"/{{k}}.npy", codes.numpy())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for k in (16, 5):
        found = np.load(tmp_path / f"{k}.npy")
        expected = encoder.encode(TEXTS, k=k).normalize().to_scipy().toarray()
        assert np.array_equal(found > 0, expected > 0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_other_door_opens_the_same_folder(encoder, exported):
    from transformers import AutoModel

    weights = encoder.head.state_dict()
    for head in (CSRModel.from_pretrained(exported), AutoModel.from_pretrained(exported)):
        assert all(torch.equal(weights[name], tensor) for name, tensor in head.state_dict().items())
    loaded = CSREncoder.from_pretrained(exported, device="cpu")
    assert loaded.backbone.source == f"{exported} itself"
    assert loaded.backbone.fingerprint == encoder.backbone.fingerprint
    assert np.array_equal(loaded.encode(TEXTS).values, encoder.encode(TEXTS).values)


def test_exported_folder_needs_no_other_backbone(encoder, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    change_config(folder, base_model_name_or_path="nobody/nothing")
    loaded = CSREncoder.from_pretrained(folder, device="cpu")
    assert loaded.backbone.name == "nobody/nothing"
    assert np.array_equal(loaded.encode(TEXTS).values, encoder.encode(TEXTS).values)


def test_native_head_can_be_pickled_unlike_one_that_trains(encoder):
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    native = pickle.loads(pickle.dumps(_native_head(encoder.head)))
    assert torch.equal(native.encoder.weight, encoder.head.encoder.weight)
    # Fails the day sentence-transformers mends this, and the workaround can go.
    with pytest.raises(AttributeError, match="local object"):
        pickle.dumps(SparseAutoEncoder(8, 16, 4, 4))


def test_export_of_an_untied_head(backbone, tmp_path):
    head = CSRModel(CSRConfig(hidden_dim=64, k=4, tied_decoder=False, base_model_name_or_path=MINILM))
    encoder = CSREncoder(backbone, head)
    export_sentence_transformers(encoder, tmp_path / "out")
    loaded = CSRModel.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.decoder.weight, head.decoder.weight)


def test_failed_export_leaves_nothing(encoder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSRModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        export_sentence_transformers(encoder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["", "3_SparseAutoEncoder"])
def test_import_reads_what_sentence_transformers_saved(encoder, exported, part):
    head = import_sparse_autoencoder(exported / part)
    assert (head.config.hidden_dim, head.config.k) == (256, 16)
    weights = encoder.head.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in head.state_dict().items())


def test_commands_export_and_import(encoder, tmp_path, capsys):
    encoder.head.save_pretrained(tmp_path / "head")
    assert main(["export", str(tmp_path / "head"), str(tmp_path / "out")]) == 0
    assert "SparseEncoder(" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "out"), str(tmp_path / "in"), "--base-model", MINILM]) == 0
    loaded = CSREncoder.from_pretrained(tmp_path / "in", device="cpu")
    assert loaded.fingerprint == encoder.fingerprint


def copy_of(exported, folder):
    return shutil.copytree(exported / "3_SparseAutoEncoder", folder / "sae")


def change_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_sizes_that_disagree_are_refused(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    change_config(folder, hidden_dim=10**9)
    with pytest.raises(ValueError, match=r"`\S+` is \(.*\), its config says \(.*1000000000"):
        import_sparse_autoencoder(folder)


def test_weights_that_are_not_finite_are_refused(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["pre_bias"] = tensors["pre_bias"] * float("nan")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="NaN or infinite"):
        import_sparse_autoencoder(folder)


def test_damaged_and_foreign_folders_are_refused(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    change_config(folder, normalize=True)
    with pytest.raises(ValueError, match="normalize=True"):
        import_sparse_autoencoder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="no readable SparseAutoEncoder"):
        import_sparse_autoencoder(folder)
    with pytest.raises(ValueError, match="no readable SparseAutoEncoder"):
        import_sparse_autoencoder(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["../outside", "/outside"])
def test_paths_out_of_the_folder_are_refused(tmp_path, path):
    modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.x.SparseAutoEncoder"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="points outside of its folder"):
        import_sparse_autoencoder(tmp_path)
