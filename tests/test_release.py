"""What is released: its files, and that each form of it works where nothing else is installed."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import csr_hf
from tests.helpers.scripts import ROOT

TORCH = "torch==2.13.0"
TRY = """
import pathlib, csr_hf, torch
from csr_hf import CSRConfig, CSRModel
assert "site-packages" in csr_hf.__file__, csr_hf.__file__
package = pathlib.Path(csr_hf.__file__).parent
assert (package / "py.typed").is_file()
assert (package / "publishing" / "model_card_template.md").is_file()
head = CSRModel(CSRConfig(input_dim=8, hidden_dim=32, k=4))
head.save_pretrained("head")
assert CSRModel.from_pretrained("head").fingerprint == head.fingerprint
from csr_hf.publishing.export import write_card_folder
write_card_folder("head", "card", layout="head")
assert "CSREncoder.from_pretrained" in pathlib.Path("card/README.md").read_text()
"""


def build(kind, folder):
    """Build a wheel or an sdist of what git has, with the tool that is installed; return its path."""
    source = folder / "source"
    source.mkdir()
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = {"wheel": "bdist_wheel", "sdist": "sdist"}[kind]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", command, "--dist-dir", str(folder / "dist")],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_release_holds_the_package_and_no_more(kind, tmp_path):
    path = build(kind, tmp_path)
    if kind == "wheel":
        names = set(zipfile.ZipFile(path).namelist())
    else:
        with tarfile.open(path) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {"setup.py", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    package = {
        str(each.relative_to(ROOT))
        for each in Path(csr_hf.__file__).parent.rglob("*")
        if each.suffix in (".py", ".typed") or each.name == "model_card_template.md"
    }
    assert package <= names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"recipes", "tests", "model_cards", "runs"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_release_works_in_an_empty_environment(kind, tmp_path):
    """Downloads what csr_hf needs, some hundred MB."""
    if "CSR_HF_RELEASE_CHECK" not in os.environ:
        pytest.skip("make release-check")
    path = build(kind, tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_ENDPOINT")}
    for target in (TORCH, str(path)):
        subprocess.run([python, "-m", "pip", "install", "-q", target], check=True, env=clean)
    done = subprocess.run([python, "-c", TRY], cwd=tmp_path, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "venv" / "bin" / "csr-hf", "--help"], capture_output=True, text=True, env=clean)
    assert done.returncode == 0 and "encode" in done.stdout, done.stderr


def test_versions_agree():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'version="{csr_hf.__version__}"' in setup
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == csr_hf.__version__
    assert f"\n## {csr_hf.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_upper_bounds_are_those_of_the_makefile():
    assert f"install --quiet --disable-pip-version-check {TORCH}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
