"""Heads of every origin."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from csr_hf import CSREncoder, CSRModel
from csr_hf.cli.main import main
from csr_hf.heads import import_checkpoint, import_head, is_head_config, load_head
from csr_hf.publishing.sentence_transformers import native_head, write_full
from csr_hf.repository import open_repository
from tests.conftest import MINILM, make_head
from tests.publishing.conftest import change_json
from tests.publishing.conftest import make_head as make_minilm_head


def equal(head, other):
    """The same codes; the clock of dead latents is not part of them."""
    names = {"encoder.weight", "pre_bias", "latent_bias"}
    return all(torch.equal(head.state_dict()[name], other.state_dict()[name]) for name in names)


def official_state(head, prefix=""):
    """A state dict as the paper's code has it: the tied weight under both names, and the backbone beside it."""
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    state["decoder.linear.weight"] = state["encoder.weight"]
    state["pre_trained_backbone.fc.weight"] = torch.zeros(3, 3)
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def native(tmp_path):
    """A folder as sentence-transformers saves its module."""
    (tmp_path / "native").mkdir()
    native_head(make_head()).save(str(tmp_path / "native"))
    return tmp_path / "native"


@pytest.fixture(scope="module")
def sparse_encoder(backbone, tmp_path_factory):
    """A SparseEncoder as sentence-transformers itself saves it: the transformer in the root."""
    from sentence_transformers import SparseEncoder

    folder = tmp_path_factory.mktemp("sparse") / "encoder"
    modules = [*backbone.model.children(), native_head(make_minilm_head())]
    SparseEncoder(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def test_own_folder(tmp_path):
    make_head(tied_decoder=False).save_pretrained(tmp_path)
    head = load_head(open_repository(tmp_path))
    assert equal(head, make_head(tied_decoder=False))
    assert torch.equal(head.decoder.weight, make_head(tied_decoder=False).decoder.weight)


def test_native_module_whose_weight_is_stored_as_the_decoders(native):
    assert "encoder.weight" not in load_file(native / "model.safetensors")
    head = load_head(open_repository(native))
    assert equal(head, make_head())
    assert (head.config.k, head.config.dead_threshold) == (5, 50_000)
    assert equal(CSRModel.from_pretrained(native), make_head())
    assert equal(CSRModel.from_pretrained(native.parent, subfolder="native"), make_head())


def test_sparse_encoder_is_read_with_its_own_backbone(backbone, sparse_encoder, tmp_path):
    encoder = CSREncoder.from_pretrained(sparse_encoder, device="cpu")
    assert encoder.backbone.fingerprint == backbone.fingerprint
    assert equal(encoder.head, make_minilm_head())
    assert main(["import", str(sparse_encoder), str(tmp_path / "out"), "--device", "cpu"]) == 0
    imported = CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert imported.backbone.source == f"{tmp_path / 'out'} itself"
    assert (imported.encode(["a text"]).values == encoder.encode(["a text"]).values).all()
    assert main(["import", str(sparse_encoder), str(tmp_path / "head"), "--base-model", MINILM, "--k", "7"]) == 0
    alone = CSRModel.from_pretrained(tmp_path / "head").config
    assert (alone.base_model_name_or_path, alone.k) == (MINILM, 7)
    assert not (tmp_path / "head" / "modules.json").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_official_checkpoints(tmp_path, prefix, wrapped, zipped):
    folder = tmp_path / "Banking77_CSR_topk_8"
    folder.mkdir()
    state = official_state(make_head(), prefix)
    optimizer = torch.optim.Adam(make_head().parameters())
    content = {"epoch": 10, "state_dict": state, "optimizer": optimizer.state_dict(), "scheduler": {"last_lr": [4e-4]}}
    path = folder / "checkpoint_9.pth"
    torch.save(content if wrapped else state, path, _use_new_zipfile_serialization=zipped)
    head = import_checkpoint(path)
    assert equal(head, make_head())
    assert (head.config.input_dim, head.config.hidden_dim, head.config.k) == (12, 40, 8)
    assert import_checkpoint(path, k=3).config.k == 3


def test_csrv2_checkpoint(tmp_path, capsys):
    state = official_state(make_head())
    del state["encoder.weight"], state["pre_trained_backbone.fc.weight"]
    path = tmp_path / "e5_banking77_CSR_topk_4_auxk_20_auxk_coef_0.1_lr_1e-4_hidden_40.safetensors"
    save_file(state, path)
    assert main(["import", str(path), str(tmp_path / "out"), "--base-model", "intfloat/e5-mistral-7b-instruct"]) == 0
    assert "12 -> 40, k 4" in capsys.readouterr().out
    head = CSRModel.from_pretrained(tmp_path / "out")
    assert equal(head, make_head())
    assert (head.config.k_aux, head.config.base_model_name_or_path) == (20, "intfloat/e5-mistral-7b-instruct")


def test_checkpoint_of_no_k_asks_for_it(tmp_path):
    save_file(official_state(make_head()) | {"decoder.linear.weight": torch.zeros(40, 12)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"how many latents were active.*Give `k` \(--k\)"):
        import_checkpoint(tmp_path / "x.safetensors")
    assert import_checkpoint(tmp_path / "x.safetensors", k=6).config.k == 6


def test_heads_on_the_hub(hub, tmp_path, native):
    hub.add("user/native", native)
    assert equal(import_head("user/native")[0], make_head())
    (tmp_path / "files" / "CSR_topk_8").mkdir(parents=True)
    torch.save(official_state(make_head()), tmp_path / "files" / "CSR_topk_8" / "checkpoint_9.pth")
    commit = hub.add("user/checkpoints", tmp_path / "files")
    head, repository = import_head("user/checkpoints", file="CSR_topk_8/checkpoint_9.pth", revision=commit)
    assert (head.config.k, repository) == (8, None)
    with pytest.raises(ValueError, match=r"user/checkpoints has no file 'other\.pth'"):
        import_head("user/checkpoints", file="other.pth")
    with pytest.raises(ValueError, match="user/checkpoints holds no CSR head"):
        import_head("user/checkpoints")


def test_modules_of_a_dense_model_are_no_head(backbone, tmp_path):
    backbone.model.save(str(tmp_path / "dense"), create_model_card=False)
    with pytest.raises(ValueError, match="holds no CSR head"):
        CSREncoder.from_pretrained(tmp_path / "dense")


def damage_config(folder, **settings):
    change_json(folder / "config.json", **settings)


def damage_tensors(folder, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE = {
    "more latents than tensors": (lambda f: damage_config(f, hidden_dim=10**9), r"config.json says \(10{9}, 12\)"),
    "fewer": (lambda f: damage_config(f, hidden_dim=20, k_aux=4), r"`encoder.weight` is \(40, 12\)"),
    "sizes that are no numbers": (lambda f: damage_config(f, hidden_dim="40"), r"`hidden_dim` \('40'\) must be"),
    "a negative size": (lambda f: damage_config(f, input_dim=-1), r"`input_dim` \(-1\) must be a positive integer"),
    "normalized inputs": (lambda f: damage_config(f, normalize=True), "`normalize`"),
    "a missing tensor": (lambda f: damage_tensors(f, lambda t: t.pop("pre_bias")), "`pre_bias` is missing"),
    "NaN": (lambda f: damage_tensors(f, lambda t: t["pre_bias"].fill_(float("nan"))), "`pre_bias` of .* NaN or inf"),
    "infinity": (lambda f: damage_tensors(f, lambda t: t["latent_bias"].fill_(float("inf"))), "NaN or infinity"),
    "half a file": (truncate, "damaged or incomplete"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "is not a mapping"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["own", "native"])
def test_damaged_heads_are_named(native, tmp_path, kind, damage):
    folder = native
    if kind == "own":
        folder = tmp_path / "own"
        make_head().save_pretrained(folder)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises((ValueError, OSError), match=message):
        load_head(open_repository(folder))


def test_damaged_checkpoints_are_named(tmp_path):
    path = tmp_path / "x_topk_4.pth"
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"is not a CSR head: it lacks encoder\.weight, pre_bias, latent_bias"):
        import_checkpoint(path)
    torch.save(official_state(make_head()) | {"pre_bias": torch.zeros(13)}, path)
    with pytest.raises(ValueError, match=r"`pre_bias` is \(13,\)"):
        import_checkpoint(path)
    torch.save(official_state(make_head()) | {"pre_bias": torch.full((12,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"`pre_bias` of .* holds NaN or infinity"):
        import_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no state dict in it"):
        import_checkpoint(path)
    torch.save(official_state(make_head()), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
        import_checkpoint(path)
    save_file(official_state(make_head()) | {"decoder.linear.weight": torch.zeros(1)}, tmp_path / "y.safetensors")
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "y.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        import_checkpoint(tmp_path / "y.safetensors", k=4)


def test_full_export_of_an_import_keeps_the_backbone_of_the_source(backbone, tmp_path):
    (tmp_path / "full").mkdir()
    write_full(backbone, make_minilm_head(), tmp_path / "full")
    copied = shutil.copytree(tmp_path / "full", tmp_path / "copied")
    (copied / "config.json").write_text(json.dumps({"model_type": "bert"}))
    head, repository = import_head(copied)
    assert equal(head, make_minilm_head())
    assert repository is not None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "csr_hf"}, True),
        ({"model_type": "csr", "input_dim": 8, "hidden_dim": 16, "k": 2}, True),
        ({"model_type": "csr", "hidden_size": 16}, False),
        ({"model_type": "bert"}, False),
        ({}, False),
        (["csr_hf"], False),
        (None, False),
    ],
)
def test_configs_of_heads_are_told_from_others(config, expected):
    assert is_head_config(config) is expected
