"""A Space: a folder that needs neither the repository's clone nor the run's data, and its way to the Hub."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import yaml

import csr_hf
from csr_hf.cli.main import main
from csr_hf.demo.answering import Settings, answer
from csr_hf.demo.run_view import RunView
from csr_hf.search_index import SearchIndex
from tests.helpers.scripts import ROOT

gradio = pytest.importorskip("gradio", reason='pip install "csr_hf[demo]"')
space = pytest.importorskip("csr_hf.demo.space")


@pytest.fixture(scope="module")
def folder(texts_run, tmp_path_factory):
    """The Space of a run from which one document was deleted."""
    base = tmp_path_factory.mktemp("space")
    shutil.copytree(texts_run, base / "run")
    index = SearchIndex.load(base / "run", device="cpu")
    index.delete([index.search("red bird", top_k=1)[0].id])
    index.save(base / "run")
    space.write_space(base / "run", base / "space", title='A "page"', license="apache-2.0", device="cpu")
    return base / "space"


def test_a_space_holds_what_it_needs_and_no_paths_of_here(folder, texts_run):
    assert (folder / "requirements.txt").read_text() == f"csr_hf[demo]=={csr_hf.__version__}\n"
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == gradio.__version__
    assert front["app_file"] == "app.py"
    assert front["license"] == "apache-2.0"
    assert front["title"] == 'A "page"'
    assert len(front["short_description"]) <= 60
    compile((folder / "app.py").read_text(), "app.py", "exec")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"README.md", "app.py", "requirements.txt", "run/dense.npy", "run/latents.json"} <= names
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".py", ".txt", ".yaml", ".json"):
            content = path.read_text(encoding="utf-8")
            assert str(texts_run.parent) not in content, path
            assert str(ROOT) not in content, path


def test_a_space_answers_as_the_run_does(folder, texts_run):
    here, there = RunView.open(texts_run, device="cpu"), RunView.open(folder / "run", device="cpu")
    assert there.size == here.size - 1
    assert len(there.alive) == there.size
    assert there.name(3) == here.name(3)
    question, chosen = "blue water", Settings(8, "float16", 5)
    expected, found = answer(here, question, chosen), answer(there, question, chosen)
    assert there.dense.shape == (149, 32)
    gone = {hit.document.id for hit in expected.dense.hits} - {hit.document.id for hit in found.dense.hits}
    assert len(gone) <= 1
    if not gone:
        np.testing.assert_allclose(
            [hit.score for hit in found.dense.hits], [hit.score for hit in expected.dense.hits], atol=2e-3
        )


@pytest.mark.slow
def test_the_app_of_a_space_serves_the_page(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "app")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "app", env=environment)
    try:
        content = None
        for _ in range(600):
            assert process.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answered:
                    content, policy = answered.read().decode(), answered.headers["Content-Security-Policy"]
                break
            except OSError:
                time.sleep(1)
        assert content is not None
        assert "The question fires" in content or "csr-head" in content
        assert "default-src 'self'" in policy
    finally:
        process.kill()
        process.wait()


def test_a_space_is_pushed_as_one_commit_and_again(hub, token, texts_run, folder, capsys):
    assert main(["push", str(texts_run), "--space", "user/page", "--device", "cpu", "--layout", "full"]) == 0
    assert "/spaces/user/page" in capsys.readouterr().out
    repo = hub.repos["spaces/user/page"]
    assert len(repo.log) == 2
    files = repo.files("main")
    assert {"README.md", "app.py", "requirements.txt", "run/model/config.json", "run/dense.npy"} <= files.keys()
    assert any(name.endswith(".documents.arrow") for name in files)
    assert not any(name.endswith(".lock") for name in files)
    before = {name for name in files if name.startswith("run/index/")}
    space.push_space(folder, "user/page")
    after = repo.files("main")
    # The other index takes the place of the first.
    assert {name for name in after if name.startswith("run/index/")} != before
    assert {name for name in after if name.startswith("run/")} == {
        path.relative_to(folder).as_posix()
        for path in (folder / "run").rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "no-name"], "Give user/name"),
        (["--space", "user/page", "user/model"], "give either user/name"),
        ([], "give either user/name"),
        (["--space", "user/page", "--create-pr"], "--create-pr is for the repository of a head"),
    ],
)
def test_mistakes_are_named(texts_run, token, hub, words, message, capsys):
    assert main(["push", str(texts_run), *words, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_spaces_of_others_are_left_alone(hub, token, folder):
    other = hub.add("user/other", folder / "run/model", kind="spaces")
    repo = hub.repos["spaces/user/other"]
    repo.commit({**repo.files(other), "app.py": b"print()", "README.md": b"# Mine"})
    with pytest.raises(ValueError, match="something else wrote"):
        space.push_space(folder, "user/other")
    assert repo.files("main")["app.py"] == b"print()"


def test_without_the_right_to_write_it_says_so(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherToken")
    with pytest.raises(ValueError, match="no right to write"):
        space.push_space(folder, "user/page")


def test_a_missing_gradio_is_named_with_its_extra(texts_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(texts_run), "--device", "cpu", "--no-browser"]) == 2
    assert 'pip install "csr_hf[demo]"' in capsys.readouterr().err
