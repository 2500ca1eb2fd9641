"""What is downloaded cannot run code, reach outside of its repository, or be unpickled."""

import json
import pickle
import shutil

import pytest
import torch

from csr_hf import CSREncoder, CSRModel
from csr_hf.heads import import_checkpoint, import_head
from csr_hf.publishing.sentence_transformers import write_full
from csr_hf.repository import open_repository
from tests.publishing.conftest import change_json, make_head


@pytest.fixture(scope="module")
def full(tiny_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("safety") / "full"
    folder.mkdir()
    write_full(tiny_backbone, make_head(input_dim=tiny_backbone.dim), folder)
    return folder


@pytest.fixture
def repository(full, tmp_path):
    """A folder to tamper with."""
    return shutil.copytree(full, tmp_path / "repository")


@pytest.fixture
def trap(tmp_path):
    """A file that only code of the repository would write."""
    return tmp_path / "trap"


def write_evil_code(folder, trap):
    code = f"open({str(trap)!r}, 'w').close()\nclass CSRConfig: pass\nclass CSRModel: pass\nclass Evil: pass\n"
    for name in ("modeling_csr.py", "configuration_csr.py", "evil.py"):
        (folder / name).write_text(code)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, trap):
        self.trap = str(trap)

    def __reduce__(self):
        return open, (self.trap, "w")


# Where a config could ask for code: the head's, the backbone's, sentence-transformers' own, the repository of another.
@pytest.mark.parametrize("source", ["folder", "Hub"])
@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"trust_remote_code": True}),
        (
            "config.json",
            {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}, "trust_remote_code": True},
        ),
        ("0_Transformer/config.json", {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}),
        ("0_Transformer/config.json", {"trust_remote_code": True, "auto_map": {"AutoModel": "user/other--evil.Evil"}}),
        ("0_Transformer/sentence_bert_config.json", {"model_args": {"trust_remote_code": True}}),
        ("0_Transformer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("config_sentence_transformers.json", {"trust_remote_code": True}),
    ],
)
def test_no_config_turns_on_remote_code(hub, repository, trap, source, file, settings):
    write_evil_code(repository, trap)
    write_evil_code(repository / "0_Transformer", trap)
    change_json(repository / file, **settings)
    name = str(repository)
    if source == "Hub":
        name = f"user/evil-{abs(hash((file, str(settings))))}"
        hub.add(name, repository)
    encoder = CSREncoder.from_pretrained(name, device="cpu")
    assert type(encoder.head).__module__ == "csr_hf.modeling_csr"
    assert len(encoder.encode(["a text"])) == 1
    assert type(CSRModel.from_pretrained(name)).__module__ == "csr_hf.modeling_csr"
    assert not trap.exists()


def test_architecture_that_needs_code_is_refused(repository, trap):
    write_evil_code(repository / "0_Transformer", trap)
    settings = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    change_json(repository / "0_Transformer" / "config.json", **settings)
    with pytest.raises(ValueError, match=r"trust_remote_code|evil"):
        CSREncoder.from_pretrained(repository, device="cpu")
    assert not trap.exists()


def test_module_of_another_package_is_refused(repository, trap):
    write_evil_code(repository, trap)
    modules = json.loads((repository / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (repository / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="trust_remote_code"):
        CSREncoder.from_pretrained(repository, device="cpu")
    assert not trap.exists()


def test_code_is_not_even_fetched(hub, repository, trap):
    write_evil_code(repository, trap)
    (repository / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(trap)))
    hub.add("user/files", repository)
    hub.requests.clear()
    CSREncoder.from_pretrained("user/files", device="cpu")
    fetched = [line for line in hub.requests if "/resolve/" in line]
    assert fetched
    assert not [line for line in fetched if line.endswith((".py", ".bin", ".pth"))]


@pytest.mark.parametrize(
    "path", ["../outside", "/outside", "..\\outside", "C:\\outside", "3_SparseAutoEncoder/../../x"]
)
@pytest.mark.parametrize("place", [0, 3])
def test_modules_outside_of_the_folder_are_refused(repository, path, place):
    modules = json.loads((repository / "modules.json").read_text())
    modules[place]["path"] = path
    (repository / "modules.json").write_text(json.dumps(modules))
    for call in (CSREncoder.from_pretrained, import_head):
        with pytest.raises(ValueError, match="points outside of its own folder"):
            call(repository)


@pytest.mark.parametrize("name", ["0_Transformer", "3_SparseAutoEncoder/model.safetensors", "model.safetensors"])
def test_links_out_of_the_folder_are_refused(repository, full, name):
    path = repository / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(full / name)
    with pytest.raises(ValueError, match=r"links '.*' to a place outside of its own folder"):
        CSREncoder.from_pretrained(repository)


def test_links_of_the_hub_cache_are_followed(hub, repository, tiny_backbone):
    hub.add("user/cached", repository)
    folder = open_repository("user/cached").folder
    assert (folder / "model.safetensors").is_symlink()
    assert CSREncoder.from_pretrained(folder, device="cpu").backbone.fingerprint == tiny_backbone.fingerprint


@pytest.mark.parametrize("base", ["/etc", "../up", "C:\\models", "a/b/c", ""])
def test_head_on_the_hub_cannot_name_a_folder_as_its_backbone(hub, tmp_path, base):
    make_head(base_model_name_or_path=base).save_pretrained(tmp_path / "head")
    name = f"user/folder-{abs(hash(base))}"
    hub.add(name, tmp_path / "head")
    with pytest.raises(ValueError, match="names a folder as its backbone"):
        CSREncoder.from_pretrained(name)


def test_weights_that_are_a_pickle_are_not_loaded(tmp_path, trap):
    make_head().save_pretrained(tmp_path / "head")
    (tmp_path / "head" / "model.safetensors").unlink()
    (tmp_path / "head" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises((OSError, ValueError), match=r"model\.safetensors"):
        CSRModel.from_pretrained(tmp_path / "head")
    with pytest.raises((OSError, ValueError), match=r"model\.safetensors"):
        CSREncoder.from_pretrained(tmp_path / "head")
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_code_is_not_loaded(tmp_path, trap, zipped):
    path = tmp_path / "x_topk_4.pth"
    content = {"state_dict": make_head().state_dict(), "args": Evil(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds more than tensors and numbers, which is never loaded"):
        import_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["sizes", "NaN", "half"])
def test_damaged_heads_are_refused_before_the_backbone_is_loaded(repository, damage):
    from safetensors.torch import load_file, save_file

    path = repository / "model.safetensors"
    if damage == "sizes":
        change_json(repository / "config.json", hidden_dim=10**12, input_dim=10**6)
    elif damage == "NaN":
        tensors = load_file(path)
        tensors["encoder.weight"][3, 5] = torch.nan
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        path.write_bytes(path.read_bytes()[:-1])
    # Would fail in another way, were it read.
    (repository / "0_Transformer" / "model.safetensors").write_bytes(b"")
    messages = {"sizes": "must be a positive integer", "NaN": "NaN or infinity", "half": "damaged or incomplete"}
    with pytest.raises(ValueError, match=messages[damage]):
        CSREncoder.from_pretrained(repository)


def test_backbone_that_does_not_fit_the_head_is_named(tiny_backbone):
    with pytest.raises(ValueError, match=r"gives 32 dimensions, the head takes `input_dim` 12"):
        CSREncoder(tiny_backbone, make_head(input_dim=12, hidden_dim=48))
