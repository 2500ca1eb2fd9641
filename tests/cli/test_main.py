import subprocess
import sys

import pytest

from csr_hf.cli.flags import overrides
from csr_hf.cli.main import main

COMMANDS = [
    "run",
    "embed",
    "train",
    "sweep",
    "evaluate",
    "bench",
    "encode",
    "index",
    "search",
    "info",
    "export",
    "push",
    "card",
    "import",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_of_the_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    examples = capsys.readouterr().out.partition("examples:")[2]
    assert f"csr-hf {command} " in examples


def test_help_loads_nothing_heavy():
    # What makes --help quick is what it does not import.
    script = (
        "import sys; from csr_hf.cli.main import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sentence_transformers', 'numba', 'rich', 'numpy', 'yaml'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_installed_command_reports_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "csr_hf.cli", "run", "none.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == (
        "csr-hf: error: recipe none.yaml does not exist. Recipes that come with csr_hf are in recipes/.\n"
    )
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        main(["run", str(tmp_path / "none.yaml"), "--debug"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["search"], "required: run"),
        (["search", "run", "a question", "--top-k", "many"], "invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_give_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", "q"], "nowhere has no model"),
        (["search", "nowhere", "q", "--fast"], "unknown argument '--fast'"),
        (["info", "nowhere"], "nowhere does not exist"),
        (["encode", "nowhere", "none.txt", "-o", "codes"], "none.txt does not exist"),
    ],
)
def test_wrong_input_gives_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_flags_of_recipe_keys_are_read_as_yaml():
    given = ["--training.max_steps", "5", "--data.columns={anchor: q, positive: a}", "--model.k_aux", "null"]
    assert overrides(given) == {
        "training.max_steps": 5,
        "data.columns": {"anchor": "q", "positive": "a"},
        "model.k_aux": None,
    }
