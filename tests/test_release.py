"""What is released: its files, and that each form of it works where nothing else is installed."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import csr_hf
from tests.helpers.scripts import ROOT

TORCH = "torch==2.13.0"
LEAST = ("pip", "setuptools")
"""What builds and installs; every other package must be one that csr_hf asks for."""
TRY = """
import pathlib, sys, csr_hf
from csr_hf import CSRConfig, CSREncoder, CSRModel
package = pathlib.Path(csr_hf.__file__).resolve().parent
assert pathlib.Path(sys.prefix).resolve() in package.parents, package
assert (package / "py.typed").is_file()
backbone, texts = sys.argv[1], ["a cat", "two dogs", "no bird"]
head = CSRModel(CSRConfig(input_dim=32, hidden_dim=64, k=4))
encoder = CSREncoder(backbone, head, device="cpu")
encoder.save_pretrained("shared", layout="full")
assert "CSREncoder.from_pretrained" in pathlib.Path("shared/README.md").read_text()
again = CSREncoder.from_pretrained("shared", device="cpu")
assert (again.encode(texts).indices == encoder.encode(texts).indices).all()
from csr_hf.cli.main import main
pathlib.Path("texts.txt").write_text("\\n".join(texts))
assert main(["encode", "shared", "texts.txt", "-o", "codes.safetensors", "--device", "cpu"]) == 0
assert len(csr_hf.SparseCodes.load("codes.safetensors")) == 3
"""


def source_tree(folder):
    """Copy what git has; a build leaves files beside what it reads."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\n")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(kind, source, folder):
    """Build a wheel or an sdist of a tree with the backend that pyproject.toml names; return its path."""
    script = f"import setuptools.build_meta, sys; setuptools.build_meta.build_{kind}(sys.argv[1])"
    folder.mkdir()
    call([sys.executable, "-c", script, folder], cwd=source)
    (path,) = folder.iterdir()
    return path


def call(words, **options):
    """Run a program, and return what it prints."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_ENDPOINT")}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=clean, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """The wheel, the sdist, and the wheel that is built of the sdist, as on a machine that no wheel fits."""
    folder = tmp_path_factory.mktemp("releases")
    tree = source_tree(folder / "tree")
    sdist = build("sdist", tree, folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    wheels = {"wheel": build("wheel", tree, folder / "wheel"), "of sdist": build("wheel", unpacked, folder / "of")}
    return {"sdist": sdist, **wheels}


def names_in(path):
    """Names of the files of a release, those of an sdist without their top folder."""
    if path.suffix == ".whl":
        return set(zipfile.ZipFile(path).namelist())
    with tarfile.open(path) as archive:
        return {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_release_holds_the_package_and_no_more(kind, releases):
    names = names_in(releases[kind])
    package = {
        str(each.relative_to(ROOT))
        for each in Path(csr_hf.__file__).parent.rglob("*")
        if each.suffix in (".py", ".typed") or each.name == "model_card_template.md"
    }
    assert package <= names
    tops = {name.split("/")[0] for name in names if not name.startswith("csr_hf-")}
    if kind == "wheel":
        assert tops == {"csr_hf"}
        assert names == names_in(releases["of sdist"])
    else:
        assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= tops
        assert not tops & {"recipes", "tests", "model_cards", "runs"}


def required(names):
    """Installed distributions that some need, those among them, extras left out; by their names."""
    found = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        key = name, frozenset(each.extras)
        if key in found:
            continue
        found[key] = metadata.distribution(name)
        for line in found[key].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in each.extras or ("",)
            ):
                waiting.append(needed)
    return {name: distribution for (name, _), distribution in found.items()}


def make_environment(folder, wheel):
    """Make an environment that holds what a wheel asks for and nothing else, then install the wheel into it.

    Packages are links to those of this environment, so that nothing is downloaded.
    """
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        (named,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        asked = message_from_bytes(archive.read(named)).get_all("Requires-Dist")
    own = [line for line in asked if "extra ==" not in line]
    for distribution in required([*own, *LEAST]).values():
        for top in {Path(file).parts[0] for file in distribution.files or () if ".." not in Path(file).parts}:
            target = Path(distribution.locate_file(top))
            if target.exists() and not (site / top).exists():
                (site / top).symlink_to(target)
    python = folder / "bin" / "python"
    call([python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", wheel])
    return python


def test_a_release_works_with_what_it_asks_for_alone(releases, tiny_folder, tmp_path):
    python = make_environment(tmp_path / "venv", releases["of sdist"])
    program = python.with_name("csr-hf")
    call([python, "-c", TRY, tiny_folder("bert")], cwd=tmp_path)
    assert call([program, "--version"]) == f"csr-hf {csr_hf.__version__}\n"
    assert "encode" in call([program, "--help"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_release_works_in_an_empty_environment(kind, releases, tiny_folder, tmp_path):
    """Downloads what csr_hf needs, some hundred MB."""
    if "CSR_HF_RELEASE_CHECK" not in os.environ:
        pytest.skip("make release-check")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    for target in (TORCH, releases[kind]):
        call([python, "-m", "pip", "install", "-q", target])
    call([python, "-m", "pip", "check"])
    call([python, "-c", TRY, tiny_folder("bert")], cwd=tmp_path)
    assert "encode" in call([python.with_name("csr-hf"), "--help"])


def test_versions_agree():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'version="{csr_hf.__version__}"' in setup
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == csr_hf.__version__
    assert f"\n## {csr_hf.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_upper_bounds_are_those_of_the_makefile():
    assert f"install --quiet --disable-pip-version-check {TORCH}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
