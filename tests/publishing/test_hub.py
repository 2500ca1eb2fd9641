"""Push and pull, with the real clients against a local Hub."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch

from csr_hf import CSREncoder, CSRModel
from csr_hf.cli.main import main
from csr_hf.publishing.export import export
from csr_hf.publishing.hub import push
from csr_hf.publishing.model_card import is_generated
from tests.helpers.hub_server import TOKEN
from tests.publishing.conftest import make_head, make_results, write_run


def command(*arguments):
    return main([*map(str, arguments), "--device", "cpu"])


def push_head(tmp_path, repo_id, seed, **options):
    """Push a head without its backbone; gives it and what `push` says."""
    head = make_head(seed)
    head.save_pretrained(tmp_path / f"head{seed}")
    exported = export(tmp_path / f"head{seed}", tmp_path / f"exported{seed}", layout="head")
    return head, push(exported.folder, repo_id, **options)


def same(head, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in head.state_dict().items())


def test_push_is_one_commit_and_says_how_to_load_it(hub, token, run_folder, capsys):
    assert command("push", run_folder, "user/first", "--layout", "head", "--private") == 0
    repo = hub.repo("user/first")
    # The first commit is the one that made the repository.
    assert (len(repo.log), repo.private) == (2, True)
    assert {"README.md", "config.json", "model.safetensors", "modeling_csr.py", "results/results.json"} <= set(
        repo.files("main")
    )
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line.split('"')[0] for line in lines] == [
        "CSREncoder.from_pretrained(",
        "SparseAutoEncoder.load(",
        "AutoModel.from_pretrained(",
    ]
    assert all('"user/first"' in line for line in lines)
    assert same(make_head(), CSRModel.from_pretrained("user/first"))


def test_same_push_again_changes_nothing(hub, token, tmp_path):
    push_head(tmp_path, "user/again", 0)
    files = dict(hub.repo("user/again").files("main"))
    push(tmp_path / "exported0", "user/again")
    assert hub.repo("user/again").files("main") == files


def test_pinned_revision_branch_and_pull_request(hub, token, backbone, tmp_path):
    first, pushed = push_head(tmp_path, "user/versions", 0)
    second, _ = push_head(tmp_path, "user/versions", 1)
    third, branch = push_head(tmp_path, "user/versions", 2, revision="experiment")
    fourth, request = push_head(tmp_path, "user/versions", 3, create_pr=True)
    assert branch.revision == "experiment"
    assert request.revision == "refs/pr/1"
    assert request.url.endswith("/user/versions/discussions/1")
    wanted = {None: second, "main": second, pushed.commit: first, "experiment": third, "refs/pr/1": fourth}
    for revision, head in wanted.items():
        assert same(head, CSRModel.from_pretrained("user/versions", revision=revision))
        assert same(head, CSREncoder.from_pretrained("user/versions", revision=revision, device="cpu").head)
    with pytest.raises(ValueError, match="user/versions has no revision 'nowhere'"):
        CSREncoder.from_pretrained("user/versions", revision="nowhere")


def test_private_repository_needs_a_token(hub, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    head, _ = push_head(tmp_path, "user/secret", 0, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="user/secret is no folder here and not on the Hub, or it is private"):
        CSREncoder.from_pretrained("user/secret")
    assert command("export", "user/secret", tmp_path / "out") == 2
    assert "hf auth login" in capsys.readouterr().err
    assert same(head, CSREncoder.from_pretrained("user/secret", token=TOKEN, device="cpu").head)
    with pytest.raises(ValueError, match="no right to write to user/secret"):
        push(tmp_path / "exported0", "user/secret")


def test_public_repository_is_not_taken_for_private(hub, token, tmp_path):
    push_head(tmp_path, "user/public", 0)
    with pytest.raises(ValueError, match="user/public exists and is public"):
        push(tmp_path / "exported0", "user/public", private=True)


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/näme", "../up"])
def test_wrong_names_are_refused(hub, token, tmp_path, name):
    with pytest.raises(ValueError, match="Give user/name"):
        push(tmp_path, name)


def test_card_that_a_person_changed_is_not_overwritten(hub, token, run_folder, capsys):
    push_it = ["push", run_folder, "user/edited", "--layout", "head"]
    assert command(*push_it) == 0
    repo = hub.repo("user/edited")
    edited = repo.files("main")["README.md"] + b"\nA word from the author.\n"
    repo.commit({**repo.files("main"), "README.md": edited})
    commits = len(repo.log)
    assert command(*push_it) == 2
    assert "the model card of user/edited was written or changed by a person" in capsys.readouterr().err
    assert len(repo.log) == commits
    assert command(*push_it, "--keep-card") == 0
    assert repo.files("main")["README.md"] == edited
    assert command(*push_it, "--overwrite-card") == 0
    assert is_generated(repo.files("main")["README.md"].decode())


def test_another_layout_takes_the_old_files_away_and_no_others(hub, token, backbone, run_folder, capsys):
    assert command("push", run_folder, "user/layouts", "--layout", "full") == 0
    repo = hub.repo("user/layouts")
    assert {"modules.json", "0_Transformer/model.safetensors"} <= set(repo.files("main"))
    own = {"notes.txt", "2024_notebooks/mine.ipynb", "0_data/own.txt", "Router/notes.md", "results/own.json"}
    repo.commit({**repo.files("main"), **dict.fromkeys(own, b"of a person")})
    capsys.readouterr()
    assert command("push", run_folder, "user/layouts", "--layout", "head") == 0
    names = set(repo.files("main"))
    assert not [name for name in names - own if name == "modules.json" or name[0].isdigit()]
    assert own | {".gitattributes", "SparseAutoEncoder/model.safetensors"} <= names
    deleted = re.search("deletes files of an earlier one from user/layouts: (.*)", capsys.readouterr().out)[1]
    assert {"modules.json", "0_Transformer/model.safetensors"} <= set(deleted.split(", "))
    assert command("push", run_folder, "user/layouts", "--layout", "full") == 0
    names = set(repo.files("main"))
    assert not [name for name in names if name.startswith("SparseAutoEncoder")]
    assert own <= names


def test_head_of_one_modality_takes_the_router_of_several_away(hub, token, tmp_path):
    for modalities, folder in ((["image", "text"], "Router"), (None, "SparseAutoEncoder")):
        make_head(modalities=modalities).save_pretrained(tmp_path / folder)
        push(export(tmp_path / folder, tmp_path / f"exported {folder}", layout="head").folder, "user/modalities")
        names = hub.repo("user/modalities").files("main")
        assert {name.split("/")[0] for name in names} & {"Router", "SparseAutoEncoder"} == {folder}


def test_figures_of_the_head_before_are_taken_away(hub, token, run_folder, tmp_path, capsys):
    assert command("push", run_folder, "user/figures", "--layout", "head", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["repo_id"], said["layout"]) == ("user/figures", "head")
    assert said["commit"] == hub.repo("user/figures").log[-1]
    figures = {".eval_results/SciFact.yaml", "results/results.json", "results/retention.png"}
    assert figures <= set(hub.repo("user/figures").files("main"))
    write_run(tmp_path / "second", make_head(1))
    assert command("push", tmp_path / "second", "user/figures", "--layout", "head") == 0
    assert not figures & set(hub.repo("user/figures").files("main"))


def test_lost_connection_publishes_nothing_and_the_same_call_completes(hub, token, tmp_path):
    push_head(tmp_path, "user/lost", 0)
    commits = list(hub.repo("user/lost").log)
    hub.interrupted = "POST .*/user/lost/commit/"
    try:
        with pytest.raises(OSError, match=r"the upload to user/lost was interrupted .* the same command again"):
            push_head(tmp_path, "user/lost", 1)
    finally:
        hub.interrupted = None
    assert hub.repo("user/lost").log == commits
    assert same(make_head(0), CSRModel.from_pretrained("user/lost"))
    push(tmp_path / "exported1", "user/lost")
    assert same(make_head(1), CSRModel.from_pretrained("user/lost"))


@pytest.mark.slow
def test_killed_upload_publishes_nothing_and_the_same_command_completes(hub, token, tmp_path):
    write_run(tmp_path / "run", make_head(5))
    call = [sys.executable, "-m", "csr_hf.cli", "push", str(tmp_path / "run"), "user/killed", "--layout", "head"]
    client = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(line):
        if line.startswith("PUT /lfs/"):
            client.send_signal(signal.SIGKILL)
            client.wait()

    with hub.hook(kill):
        assert client.wait() == -signal.SIGKILL
    assert list(hub.repo("user/killed").files("main")) == [".gitattributes"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same(make_head(5), CSRModel.from_pretrained("user/killed"))


def test_commit_of_somebody_else_in_between_is_not_overwritten(hub, token, tmp_path):
    push_head(tmp_path, "user/race", 0)
    repo = hub.repo("user/race")

    def commit_first(line):
        if line.startswith("POST") and "/user/race/commit/" in line:
            hub.before = None
            repo.commit({**repo.files("main"), "README.md": b"a better card"})

    with hub.hook(commit_first), pytest.raises(OSError, match="somebody changed user/race just now"):
        push_head(tmp_path, "user/race", 1)
    assert repo.files("main")["README.md"] == b"a better card"


@pytest.mark.parametrize("layout", ["head", "full"])
def test_repository_that_changes_between_two_reads_is_read_at_one_commit(hub, token, backbone, tmp_path, layout):
    name = f"user/changing-{layout}"
    for seed in (0, 1):
        write_run(tmp_path / str(seed), make_head(seed))
        export(tmp_path / str(seed), tmp_path / f"out{seed}", layout=layout, device="cpu")
    push(tmp_path / "out0", name)
    changed = threading.Event()

    def change(line):
        if "/resolve/" in line and line.startswith("GET"):
            hub.before = None
            push(tmp_path / "out1", name)
            changed.set()

    with hub.hook(change):
        encoder = CSREncoder.from_pretrained(name, device="cpu")
    assert same(make_head(0), encoder.head)
    # On a busy machine the reader gives that request up and asks again, before the other has pushed.
    assert changed.wait(60)
    assert same(make_head(1), CSREncoder.from_pretrained(name, device="cpu").head)


def test_tokens_are_in_nothing_that_is_published_or_said(hub, token, run_folder, caplog, capfd):
    with caplog.at_level("DEBUG"):
        assert command("push", run_folder, "user/quiet", "--layout", "head", "--debug") == 0
        hub.repo("user/quiet").private = True
        hub.interrupted = "POST .*/commit/"
        try:
            with pytest.raises(OSError, match="interrupted") as error:
                command("push", run_folder, "user/quiet", "--layout", "head", "--debug")
        finally:
            hub.interrupted = None
    said = "".join(capfd.readouterr()) + str(error.value)
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("csr_hf"))
    for secret in (TOKEN, "hf_thisIsASecret123"):
        assert secret in "".join(path.read_text() for path in run_folder.glob("*.json")) + os.environ["HF_TOKEN"]
        assert secret not in said + logged
        for name, content in hub.repo("user/quiet").files("main").items():
            assert secret.encode() not in content, name
            assert b"/home/somebody" not in content, name


def test_data_set_on_the_hub_is_read_and_named_by_the_card(hub, token, tmp_path):
    from datasets import Dataset

    from csr_hf.data.arguments import DataArguments
    from csr_hf.data.sources import load_sources

    rows = {"question": [f"question {i}" for i in range(40)], "answer": [f"answer {i}" for i in range(40)]}
    Dataset.from_dict(rows).push_to_hub("user/pairs")
    columns = {"anchor": "question", "positive": "answer"}
    texts = load_sources(DataArguments(source="user/pairs", columns=columns, revision="main"))[0]
    assert texts.rows["anchor"][:2] == ["question 0", "question 1"]
    write_run(tmp_path / "run", make_head(), make_results())
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/home/somebody/faq.csv", "user/pairs"))
    assert command("push", tmp_path / "run", "user/on-pairs", "--layout", "head") == 0
    from huggingface_hub import ModelCard

    assert ModelCard.load("user/on-pairs").data.datasets == ["user/pairs"]


def test_model_of_another_kind_is_not_replaced(hub, token, backbone, tmp_path):
    backbone.model.save(str(tmp_path / "dense"), create_model_card=False)
    commit = hub.add("user/dense", tmp_path / "dense")
    with pytest.raises(ValueError, match="user/dense holds another model"):
        push_head(tmp_path, "user/dense", 0)
    assert hub.repo("user/dense").sha("main") == commit


@pytest.mark.parametrize(
    "names",
    [
        [
            "modules.json",
            "config_sentence_transformers.json",
            "0_CLIPModel/config.json",
            "0_CLIPModel/model.safetensors",
        ],
        ["model.safetensors"],
        ["config.json"],
    ],
)
def test_model_without_a_config_of_a_head_is_not_replaced(hub, token, tmp_path, names):
    for name in names:
        path = tmp_path / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            '[{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIP"}]'
        )
    repo_id = f"user/other-{names[0].partition('.')[0]}"
    commit = hub.add(repo_id, tmp_path / "other")
    with pytest.raises(ValueError, match=f"{repo_id} holds another model"):
        push_head(tmp_path, repo_id, 0)
    assert hub.repo(repo_id).sha("main") == commit
