"""Heads that a stranger has changed load to the same codes, or are refused in one line, soon and in little memory."""

import json
import math
import random
import re
import resource
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from csr_hf.configuration_csr import VERSION, CSRConfig
from csr_hf.heads import import_checkpoint, load_head
from csr_hf.publishing.export import write_card_folder
from csr_hf.publishing.model_card import CardOptions
from csr_hf.repository import open_repository
from tests.conftest import make_head

SECONDS, MEGABYTES = 1.0, 500
CARD = CardOptions(repo_id="user/me", license="mit")
FLOATS = ("encoder.weight", "pre_bias", "latent_bias", "modality_bias")
NAMES = ("base_model_name_or_path", "base_model_revision", "modalities", "base_model_settings", "fingerprints")
CODE = 'x"); __import__("os").system("echo pwned") #'
VALUES = [
    None, True, -1, 0, 1, 3.5, math.nan, math.inf, 10**12, 2**63, "", "a", CODE, "\x1b[2J", "../../etc/passwd",
    "x" * 10**6, [], [1], ["image", CODE], [["a"], ["b"]], [str(number) for number in range(10**5)], {}, {"a": 1},
    {"trust_remote_code": True},
]  # fmt: skip
"""What a field of JSON may be."""
FOREIGN = {
    "auto_map": {"AutoModel": "evil/repo--modeling.Evil", "AutoConfig": "evil/repo--c.E"},
    "custom_pipelines": {"feature-extraction": {"impl": "evil/repo--p.E", "pt": ["AutoModel"]}},
    "api_key": "hf_abcdefghijklmnop",
    "attn_implementation": "evil/kernel",
    "_attn_implementation_internal": "evil/kernel",
    "num_labels": 10**8,
    "id2label": {"0": CODE},
    "base_model_tp_plan": {"*": "evil"},
    "dtype": "os.system",
    "torch_dtype": "int8",
    "problem_type": "x",
    "trust_remote_code": True,
}
RECIPE = {
    "data": {"source": "docs.parquet", "held_out": 0.1},
    "training": {
        "reconstruction": {1.0: 1.0}, "max_steps": 10, "per_device_train_batch_size": 8, "learning_rate": 0.1,
        "lr_scheduler_type": "cosine", "seed": 0,
    },
    "versions": {"machine": "a machine", "torch": "2"},
    "results": {"dead_fraction": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A head of two modalities, with what a publisher puts beside it."""
    folder = tmp_path_factory.mktemp("hostile") / "good"
    head = make_head(input_dim=32, hidden_dim=128, k=8, modalities=["image", "text"], base_model_name_or_path="user/b")
    head.modality_bias.normal_(std=0.1)
    head.save_pretrained(folder)
    (folder / "results").mkdir()
    (folder / "results" / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "bad")


ROWS = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))


def encode(folder):
    head = load_head(open_repository(folder))
    values, indices = head.encode(head.subtract_modality_mean(ROWS, "text"), 8)
    return torch.zeros(len(ROWS), 128).scatter(-1, indices, values.float().detach())


def reset_peak():
    """Forget the peak of this process's memory, so that an earlier one does not hide a new one."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak():
    """Return the most memory that this process has had since then, in kB."""
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def judge(call):
    """Return what a call gives, or the message by which it refuses: one line of a ValueError or OSError."""
    reset_peak()
    before = peak()
    started = time.process_time()
    try:
        found = call()
    except (ValueError, OSError) as error:
        assert not isinstance(error, json.JSONDecodeError | UnicodeError), error
        assert "\n" not in str(error).strip() and len(str(error)) < 3000, str(error)[:500]
        found = str(error)
    # Of this process, so that others on the machine do not count.
    assert time.process_time() - started < SECONDS
    assert peak() - before < MEGABYTES << 10
    return found


def change_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def change_tensors(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    for name, change in changes.items():
        name = name.replace("__", ".")
        tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def mutate(folder, choice):
    """Change one thing of a head by a seeded choice; return what, and whether the codes may differ."""
    kind = choice.choice(["config", "config", "foreign", "tensor", "tensor", "bytes", "modules", "recipe"])
    if kind == "config":
        name = choice.choice([*json.loads((folder / "config.json").read_text()), "k_aux", "base_model_settings"])
        change_json(folder / "config.json", **{name: choice.choice(VALUES)})
        # Fewer latents, or means in another order, are what the config says.
        return f"config {name}", name in ("k", "modalities")
    if kind == "foreign":
        name = choice.choice([*FOREIGN])
        change_json(folder / "config.json", **{name: FOREIGN[name]})
        return f"foreign {name}", False
    if kind == "tensor":
        return mutate_tensor(folder, choice)
    if kind == "bytes":
        path = folder / choice.choice(["model.safetensors", "config.json"])
        content = bytearray(path.read_bytes())
        if choice.random() < 0.5:
            content[choice.randrange(min(len(content), 900))] ^= 1 << choice.randrange(8)
        else:
            content = content[: choice.randrange(len(content))]
        path.write_bytes(content)
        return f"bytes of {path.name}", True
    if kind == "modules":
        listing = choice.choice([[], {}, [{"path": "../x", "type": "a"}], [5], "[" * 10**5, None, [{"type": 1}]])
        text = listing if isinstance(listing, str) else json.dumps(listing)
        (folder / "modules.json").write_text(text)
        return "modules.json", False
    section = choice.choice([*RECIPE])
    value = choice.choice(VALUES[:20])
    # A section whole, or one of its fields.
    name = choice.choice([None, *RECIPE[section]])
    changed = value if name is None else {**RECIPE[section], name: value}
    (folder / "results" / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, section: changed}))
    return f"recipe.yaml {section} {name}", False


def mutate_tensor(folder, choice):
    tensors = load_file(folder / "model.safetensors")
    name = choice.choice([*tensors])
    types = [torch.int64, torch.bool, torch.float64, torch.float16, torch.complex64, torch.float8_e4m3fn, torch.uint8]
    changes = {
        "type": lambda tensor: tensor.to(choice.choice(types)),
        "nan": lambda tensor: tensor.double() * math.nan,
        "inf": lambda tensor: tensor.double() + math.inf,
        "huge": lambda tensor: (tensor.double() * 0 + 1e38).to(
            tensor.dtype if tensor.is_floating_point() else torch.float64
        ),
        "shape": lambda tensor: tensor[:1].contiguous(),
        "flat": lambda tensor: tensor.flatten().contiguous(),
        "none": lambda tensor: tensor[:0].contiguous(),
    }
    change = choice.choice([*changes, "missing"])
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = changes[change](tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # Counts of the training change no code; another float type rounds.
    return f"{name} {change}", change == "type"


@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 500), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_hostile_heads_load_to_the_same_codes_or_are_refused(good, tmp_path, seeds):
    expected, refused = encode(good), 0
    write_card_folder(good, tmp_path / "card", layout="head", card=CARD)
    for seed in seeds:
        bad = shutil.copytree(good, tmp_path / f"bad_{seed}")
        what, may_differ = mutate(bad, random.Random(seed))
        found = judge(lambda: encode(bad))
        if isinstance(found, str):
            refused += 1
        elif may_differ:
            assert found.isfinite().all(), what
        else:
            assert torch.equal(found, expected), what
        card = judge(lambda: write_card_folder(bad, tmp_path / f"card_{seed}", layout="head", card=CARD))
        if not isinstance(card, str):
            written = "".join(path.read_text() for path in (tmp_path / f"card_{seed}").rglob("*") if path.is_file())
            for evil in ("evil/", "hf_abc", "\x1b"):
                assert evil not in written, what
        shutil.rmtree(bad)
    assert refused > len(seeds) // 5


@pytest.mark.parametrize("name", [*FLOATS])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_weights_that_no_head_has_are_refused_by_name(folder, name, bad):
    def spoil(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = bad
        return tensor

    change_tensors(folder, **{name.replace(".", "__"): spoil})
    assert f"`{name}` of " in judge(lambda: encode(folder))


@pytest.mark.parametrize("name", [*FLOATS, "stats_last_nonzero", "modality_last_nonzero"])
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8, torch.float32]
)
def test_tensors_of_other_types_are_refused_by_name(folder, name, dtype):
    is_own = (dtype == torch.float32) == (name in FLOATS) and dtype in (torch.float32, torch.int64)
    change_tensors(folder, **{name.replace(".", "__"): lambda tensor: tensor.to(dtype)})
    found = judge(lambda: encode(folder))
    assert not isinstance(found, str) if is_own else f"`{name}` in " in found and " is of type " in found


def test_counts_of_another_shape_are_refused(folder):
    change_tensors(folder, modality_last_nonzero=lambda tensor: tensor[:1, :5].contiguous())
    assert "`modality_last_nonzero` is (1, 5)" in judge(lambda: encode(folder))


@pytest.mark.parametrize("name", [*FOREIGN])
def test_what_is_of_other_models_is_left_out(folder, tmp_path, name):
    change_json(folder / "config.json", **{name: FOREIGN[name]})
    found = judge(lambda: encode(folder))
    if name not in ("dtype", "torch_dtype"):
        assert not isinstance(found, str), found
    if isinstance(found, str):
        return
    head = load_head(open_repository(folder))
    head.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    kept = json.dumps({key: value for key, value in written.items() if key != "auto_map"})
    assert name == "dtype" or name not in kept
    assert "evil" not in json.dumps(written)
    assert set(written["auto_map"].values()) == {"configuration_csr.CSRConfig", "modeling_csr.CSRModel"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_model_revision", CODE),
        ("base_model_revision", "main\nx"),
        ("modalities", ["image", CODE]),
        ("modalities", [f"m{number}" for number in range(100)]),
        ("base_model_name_or_path", "a\nb"),
        ("base_model_name_or_path", "\x1b[2J"),
        ("k", 2**40),
        ("hidden_dim", 2**40),
    ],
)
def test_names_and_sizes_are_what_they_may_be(folder, tmp_path, field, value):
    change_json(folder / "config.json", **{field: value})
    assert f"`{field}` (" in judge(lambda: encode(folder))
    assert f"`{field}` (" in judge(lambda: write_card_folder(folder, tmp_path / "card", layout="head", card=CARD))


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "[]", "5", "null", "{", "\ud800", ""])
def test_broken_configurations_are_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert isinstance(judge(lambda: encode(folder)), str)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_pipes_are_no_files(folder, file):
    import os

    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert isinstance(judge(lambda: encode(folder)), str)


def test_a_header_of_exabytes_is_refused(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "is damaged or incomplete" in judge(lambda: encode(folder))


def checkpoints():
    base = dict(make_head(input_dim=32, hidden_dim=128).state_dict())
    one, weight = torch.zeros(1), base["encoder.weight"]
    wide = {"encoder.weight": one.expand(100_000, 100_000), "latent_bias": one.expand(100_000)}
    return {
        "expanded": (base | wide | {"pre_bias": one.expand(100_000)}, "stands for 10,000,000,000 numbers"),
        "sparse": (base | {"encoder.weight": weight.to_sparse()}, "`encoder.weight` in"),
        "complex": (base | {"encoder.weight": weight.to(torch.complex64)}, "`encoder.weight` in"),
        "integers": (base | {"pre_bias": base["pre_bias"].long()}, "`pre_bias` in"),
        "quantized": (
            base | {"encoder.weight": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)},
            "`encoder.weight` in .* torch.qint8",
        ),
        "meta": (base | {"encoder.weight": torch.empty(128, 32, device="meta")}, "encoder.weight|damaged"),
        "nan": (base | {"latent_bias": base["latent_bias"] * math.nan}, "`latent_bias` of"),
        "huge": (base | {"encoder.weight": weight * 0 + 1e38}, "`encoder.weight` of"),
        "no axes": (base | {"encoder.weight": torch.tensor(1.0)}, "has 0 axes"),
        "empty": (base | {"encoder.weight": torch.zeros(0, 0)}, "must be a positive integer"),
        "list": ([1, 2], "no state dict"),
        "numbers": ({"state_dict": {1: 2}}, "lacks"),
        "texts": ({"state_dict": {"encoder.weight": "x"}}, "lacks"),
    }


@pytest.mark.parametrize("kind", [*checkpoints()])
def test_checkpoints_that_stand_for_more_than_they_are(tmp_path, kind):
    state, message = checkpoints()[kind]
    torch.save(state, tmp_path / "x_topk_8.pth")
    found = judge(lambda: import_checkpoint(tmp_path / "x_topk_8.pth"))
    assert isinstance(found, str) and re.search(message, found), found


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS, "data: &a [*a]\n", "data: !!python/object/apply:os.system ['touch TRAP']\n", "[1,2]",
        "training: {}\ndata: {}\n", "training: []\ndata: 5\n", "a: " + "[" * 5000, "a: b: c", "x" * 300_000,
        "training: {max_steps: many}\n",
    ],
)  # fmt: skip
def test_recipes_that_explode_are_refused(folder, tmp_path, text):
    (folder / "results" / "recipe.yaml").write_text(text)
    found = judge(lambda: write_card_folder(folder, tmp_path / "card", layout="head", card=CARD))
    assert isinstance(found, str) and "recipe.yaml" in found


@pytest.mark.parametrize("text", ["[]", "{}", '{"rows": [{}]}', '{"rows": null}', "[" * 100_000, "{"])
def test_broken_figures_are_refused(folder, tmp_path, text):
    (folder / "results" / "results.json").write_text(text)
    assert "results.json" in judge(lambda: write_card_folder(folder, tmp_path / "card", layout="head", card=CARD))


def test_newer_heads_are_named(folder, caplog):
    saved = json.loads((folder / "config.json").read_text())
    assert saved["csr_hf_version"] == VERSION
    change_json(folder / "config.json", csr_hf_version="0.9.1", levels=7)
    assert "csr_hf 0.9.1 saved this head, which is newer than this one" in judge(lambda: encode(folder))
    change_json(folder / "config.json", csr_hf_version="99.0.0", levels=7)
    assert "has settings that this one lacks: levels" in judge(lambda: encode(folder))
    (folder / "config.json").write_text(json.dumps(saved | {"csr_hf_version": "0.9.1"}))
    assert torch.is_tensor(judge(lambda: encode(folder)))
    (folder / "config.json").write_text(json.dumps(saved | {"csr_hf_version": "2.0.0"}))
    assert "pip install -U csr_hf" in judge(lambda: encode(folder))
    (folder / "config.json").write_text(json.dumps(saved | {"csr_hf_version": None}))
    assert torch.is_tensor(judge(lambda: encode(folder)))


def test_versions_agree():
    import csr_hf

    assert csr_hf.__version__ == VERSION
    assert CSRConfig().csr_hf_version is None
