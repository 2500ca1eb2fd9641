"""Every block of code on a page works: commands parse, Python runs, YAML is a recipe.

A new block on any page is found here without being listed. Commands are not executed: the parsers of the command line
and of recipes read them. The Python blocks of a page run one after the other in one namespace, in a folder that holds
what the pages speak of: `runs/quickstart` and `runs/docs` (a small real run), `docs.parquet`, two images.
"""

import importlib
import re
import shlex
import shutil
from typing import NamedTuple

import pytest
import yaml

from csr_hf import RunRecipe
from csr_hf.cli.main import main, parse
from tests.helpers.clip import caption, picture, save_clip
from tests.helpers.scripts import ROOT, load_script

SHELL, NOT_CODE = ("bash", "sh", "indented"), ("text", "bibtex", "html")


class Block(NamedTuple):
    """A block of code."""

    page: str
    line: int
    language: str
    """Of a fence; "indented" without one."""
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def find_blocks(page, text):
    """Find fenced blocks, and those that are indented by four spaces."""
    found, inside = [], None
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*```(\S*)", line)
        if inside is not None and (fence if inside.language != "indented" else not line.startswith("    ")):
            found.append(inside)
            inside = None
            if fence and found[-1].language != "indented":
                continue
        if inside is not None:
            inside = inside._replace(
                text=f"{inside.text}{line.removeprefix('    ' * (inside.language == 'indented'))}\n"
            )
        elif fence:
            inside = Block(page, number, fence[1], "")
        elif line.startswith("    ") and line.strip():
            inside = Block(page, number, "indented", f"{line[4:]}\n")
    return [*found, *([inside] if inside else [])]


BLOCKS = [
    block
    for path in load_script("render").pages()
    for block in find_blocks(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python"})


def of_language(*languages):
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def check_csr_hf(words):
    """Parse a command of csr-hf, and read its recipe with all the keys that it sets."""
    called = parse(words)
    recipe = getattr(called.options[0], "recipe", None)
    variants = [variant for options in called.options for variant in getattr(options, "variant", [])]
    for keys in (called.keys, *variants):
        if recipe is None:
            RunRecipe.from_dict({}, keys)
        else:
            RunRecipe.load(ROOT / recipe, keys)


def check_script(words):
    """Find a script and its flags."""
    source = (ROOT / words[0]).read_text(encoding="utf-8")
    for flag in re.findall(r"(?<!\S)--[\w-]+", " ".join(words[1:])):
        assert f'"{flag}"' in source, f"{words[0]} has no {flag}"


def check_installed(words):
    """Find an extra in setup.py, or the version of torch that the Makefile installs."""
    target = words[-1]
    if target.startswith("torch"):
        assert f"install --quiet --disable-pip-version-check {target}\n" in (ROOT / "Makefile").read_text(
            encoding="utf-8"
        )
        return
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", target)
    assert extras, f"pip install {target}"
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in (extras[1] or "").split(","):
        assert not extra or f'"{extra}": ' in setup, f"setup.py has no extra {extra}"


def check_command(words):
    """Check one command line.

    Raises:
        ValueError: for a flag that csr-hf does not know.
    """
    program, *rest = words
    if program in ("torchrun", "accelerate"):
        at = rest.index("csr_hf.cli")
        if "--config_file" in rest:
            assert (ROOT / rest[rest.index("--config_file") + 1]).is_file()
        check_csr_hf(rest[at + 1 :])
    elif program == "csr-hf":
        check_csr_hf(rest)
    elif program == "make":
        assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    elif program == "python":
        check_script(rest)
    elif words[:2] == ["pip", "install"]:
        check_installed(rest)
    else:
        pytest.fail(f"{program!r} is no command that this test can check")


def test_blocks_of_every_kind_are_found():
    text = "a\n\n    csr-hf run a.yaml \\\n        --k 3\n    make test\n\nb\n\n```python\nx = 1\n\n    y\n```\n"
    assert find_blocks("p", text) == [
        Block("p", 3, "indented", "csr-hf run a.yaml \\\n    --k 3\nmake test\n"),
        Block("p", 9, "python", "x = 1\n\n    y\n"),
    ]


@pytest.mark.parametrize(
    "line",
    ["csr-hf run --sped 3", "csr-hf run --training.cosinus 1", "make nothing", "python recipes/task_corpus.py --all a",
     "csr-hf sweep recipes/quickstart.yaml --variant training.cosinus=1", "pip install .[everything]", "rm -r ."],
)  # fmt: skip
def test_wrong_commands_are_noticed(line):
    with pytest.raises((ValueError, AssertionError, pytest.fail.Exception)):
        check_command(shlex.split(line))


@pytest.mark.parametrize("block", of_language(*{block.language for block in BLOCKS}))
def test_language_is_known(block):
    """What is neither run nor output must be named."""
    assert block.language in (*SHELL, *NOT_CODE, "python", "yaml")


@pytest.mark.parametrize("block", of_language(*SHELL))
def test_commands_parse(block):
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            check_command(words)


@pytest.mark.parametrize("block", of_language("yaml"))
def test_yaml_is_a_recipe(block):
    RunRecipe.from_dict(yaml.safe_load(block.text))


@pytest.fixture
def folder(finished_run, tmp_path, monkeypatch):
    """The working folder that the Python blocks speak of."""
    from datasets import Dataset

    runs = tmp_path / "runs"
    for name in ("quickstart", "docs"):
        shutil.copytree(finished_run / "first", runs / name, ignore=shutil.ignore_patterns("checkpoints"))
        recipe = runs / name / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(finished_run / "first"), f"runs/{name}"))
    shutil.copytree(finished_run / "embeddings", runs / "embeddings")
    bodies = ["Matrices are multiplied row by column.", "A file is read line by line.", "Lists are sorted in place."]
    Dataset.from_dict({"id": ["a", "b", "c"], "body": bodies}).to_parquet(tmp_path / "docs.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    return tmp_path


def prepare_images(folder, monkeypatch):
    """A run with a small CLIP, and two images."""
    photos = folder / "photos"
    photos.mkdir()
    lines = [f"{number:03}.png,{caption(number)}" for number in range(60)]
    for number in range(60):
        picture(number).save(photos / f"{number:03}.png")
    (photos / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    picture(1).save(folder / "photo.jpg")
    picture(2).save(folder / "another.png")
    run = ["run", "--corpus", "photos", "--backbone", str(save_clip(folder / "clip")), "--model.hidden_dim=96"]
    run += [
        "--model.k=8",
        "--training.max_steps=5",
        "--training.per_device_train_batch_size=16",
        "--evaluation.ks=[8]",
    ]
    assert main([*run, "--output-dir", "runs/clip-vit-base-patch32_captions_k64", "--no-progress"]) == 0


def prepare_mteb(folder, monkeypatch):
    """mteb's own small tasks instead of those that must be downloaded."""
    pytest.importorskip("mteb", reason='pip install "csr_hf[eval]"')
    from mteb.mocks import MOCK_TASK_TEST_GRID

    mocks = {task.metadata.name: type(task) for task in MOCK_TASK_TEST_GRID}
    tasks = {"SciFact": mocks["MockRetrievalTask"], "STSBenchmark": mocks["MockSTSTask"]}
    module = importlib.import_module("mteb.get_tasks")
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, **tasks})


def prepare_backends(folder, monkeypatch):
    """The backend that needs no server."""
    pytest.importorskip("milvus_lite", reason='pip install "csr_hf[milvus]"')


PREPARE = {
    "recipes/images.md": prepare_images,
    "recipes/evaluation.md": prepare_mteb,
    "recipes/backends.md": prepare_backends,
}


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_runs(page, folder, monkeypatch):
    if page in PREPARE:
        PREPARE[page](folder, monkeypatch)
    names = {}
    for block in BLOCKS:
        if (block.page, block.language) == (page, "python"):
            # Blank lines in front, so that a traceback shows the line of the page.
            exec(compile("\n" * block.line + block.text, str(ROOT / page), "exec"), names)


def test_first_example_finds_the_right_text(folder, capsys):
    block = next(block for block in BLOCKS if (block.page, block.language) == ("README.md", "python"))
    names = {}
    exec(block.text, names)
    assert names["index"].search("matrix product", top_k=1)[0].text == "Multiply two sparse matrices."
    assert "Multiply two sparse matrices." in capsys.readouterr().out.splitlines()[0]
