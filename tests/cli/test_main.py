import shlex
import subprocess
import sys

import numpy as np
import pytest

import csr_hf
from csr_hf import CSREncoder, SparseCodes
from csr_hf.cli.main import main, parse
from csr_hf.cli.recipes import read_recipe
from csr_hf.cli.table import COMMANDS
from csr_hf.plumbing.provenance import provenance, record_command
from tests.conftest import make_head


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_examples_of_the_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    examples = capsys.readouterr().out.partition("examples:")[2]
    assert f"csr-hf {command} " in examples


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["search", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    # What makes --help quick is what it does not import.
    script = (
        "import sys; from csr_hf.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sentence_transformers', 'numba', 'rich', 'numpy', 'yaml'}\n"
        "heavy |= {'pydantic'} if len(sys.argv) == 2 else set()\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_help_lists_every_key_of_a_recipe_with_its_docstring(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--data.max_characters" in shown and "Cut texts to this length before embedding." in shown
    assert "--training.learning_rate" in shown
    # Its place is taken by --output-dir.
    assert "--training.output_dir" not in shown
    assert "--output-dir" in shown and "--cache-dir" in shown


@pytest.mark.parametrize("command", list(COMMANDS))
def test_remote_code_is_trusted_where_it_can_run(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    runs = ("run", "embed", "train", "sweep", "evaluate", "encode", "index", "add", "search", "explain", "demo")
    assert ("--trust-remote-code" in capsys.readouterr().out) == (command in runs)


def test_installed_command_reports_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "csr_hf.cli", "run", "none.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == (
        "csr-hf: error: recipe none.yaml does not exist. Recipes that come with csr_hf are in recipes/.\n"
    )
    assert done.stdout == ""


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 0
    shown = capsys.readouterr()
    assert all(f"  {name} " in shown.out for name in COMMANDS)
    assert shown.err == ""


def test_version_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"csr-hf {csr_hf.__version__}\n"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        main(["run", str(tmp_path / "none.yaml"), "--debug"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quiet"], "give a command. `csr-hf --help` lists them."),
        (["--verson"], "give a command, '--verson' is none. `csr-hf --help` lists them."),
        (["serch", "runs/q"], "'serch' is no command. Did you mean `search`?"),
        (["--device", "cpu", "trian"], "'trian' is no command. Did you mean `train`?"),
        (["fly"], "'fly' is no command. Known: run, embed,"),
        (["search"], "required: run"),
        (["search", "run", "a question", "--top-k", "many"], "`top_k` ('many'): should be a valid integer"),
        (["search", "run", "a question", "--top-k", "0"], "`top_k` ('0'): should be greater than or equal to 1"),
        (["search", "run", "--candidtes", "3"], "unknown argument '--candidtes'. Did you mean `--candidates`?"),
        (["train", "x.yaml", "--training.max_step", "3"], "Did you mean `--training.max_steps`?"),
        (["train", "x.yaml", "--data.limit.x", "3"], "unknown argument '--data.limit.x'"),
        (["train", "x.yaml", "--data.columns.text"], "argument --data.columns.text: expected one argument"),
        (
            ["sweep", "x.yaml", "--variant", "no-value"],
            "argument --variant: 'no-value' is not key=value. `csr-hf sweep --help` shows examples.",
        ),
        (
            ["train", "x.yaml", "--training.max_steps", "{a: "],
            "argument --training.max_steps: '{a: ' is not a YAML value. `csr-hf train --help` shows examples.",
        ),
    ],
)
def test_wrong_arguments_give_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", "q"], "nowhere has no model"),
        (["search", "nowhere", "q", "--fast"], "unknown argument '--fast'"),
        (["info", "nowhere"], "nowhere does not exist"),
        (["encode", "nowhere", "none.txt", "-o", "."], ". is a folder. Give the name of a file"),
        (["encode", "nowhere", "none.txt", "-o", "codes"], "'none.txt' cannot be read: there is no such file"),
    ],
)
def test_wrong_input_gives_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_head_brings_the_settings_of_its_backbone(tmp_path):
    settings = {"prompts": {"document": "passage"}, "truncate_dim": 12}
    make_head(base_model_name_or_path="user/tiny", base_model_settings=settings).save_pretrained(tmp_path)
    words = ["index", "--corpus", "a.csv", "--head", str(tmp_path)]
    recipe = read_recipe(parse(words))
    assert (recipe.backbone.name_or_path, recipe.backbone.to_record()) == ("user/tiny", settings)
    changed = read_recipe(parse([*words, "--backbone.prompts.query", "ask: ", "--backbone.truncate_dim", "null"]))
    assert changed.backbone.to_record() == {"prompts": {"document": "passage", "query": "ask: "}}


def test_remote_code_runs_only_with_the_flag(tiny_folder, tmp_path, capsys):
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(4)))
    words = ["embed", "--corpus", str(tmp_path / "texts.jsonl"), "--output-dir", str(tmp_path / "out")]
    words += ["--backbone", str(tiny_folder("remote_code")), "--device", "cpu"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs code of its own repository" in error.splitlines()[-1]
    assert main([*words, "--trust-remote-code"]) == 0
    assert parse(["search", "run", "--trust-remote-code"]).trust_remote_code
    assert not parse(["search", "run"]).trust_remote_code
    assert parse(["evaluate", "run", "--tasks", "STS12", "--trust-remote-code"]).options[1].trust_remote_code


def test_texts_are_encoded_for_a_task(tiny_folder, tmp_path):
    make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("router"))).save_pretrained(tmp_path / "head")
    (tmp_path / "texts.txt").write_text("a cat\ntwo dogs\n")
    encoder = CSREncoder.from_pretrained(tmp_path / "head", device="cpu")
    for task in ("query", "document"):
        words = ["encode", str(tmp_path / "head"), str(tmp_path / "texts.txt"), "-o", str(tmp_path / task)]
        assert main([*words, "--task", task, "--device", "cpu"]) == 0
        expected = encoder.encode(["a cat", "two dogs"], task=task)
        found = SparseCodes.load(tmp_path / task)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-3)
        assert np.array_equal(found.indices, expected.indices)


def test_a_device_that_is_not_there_gives_one_line(capsys):
    assert main(["info", "nowhere", "--device", "toaster"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("csr-hf: error: --device toaster cannot be used: ")
    assert error.endswith(" Leave it out, or give cpu.\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", [TypeError, KeyError, AttributeError, RuntimeError])
def test_a_bug_stays_a_traceback(kind, monkeypatch):
    def fail(*_):
        raise kind("a bug")

    monkeypatch.setattr("csr_hf.runs.describe.examine", fail)
    with pytest.raises(kind, match="a bug"):
        main(["info", "nowhere"])


def test_a_source_alone_is_a_corpus():
    recipe = read_recipe(parse(["train", "--data.source", "vec/rows.npy"]))
    assert (recipe.data.source, recipe.output_dir) == ("vec/rows.npy", "runs/rows")
    assert read_recipe(parse(["train", "--data.source", "a.npy", "--corpus", "b.npy"])).output_dir == "runs/b"


def test_a_corpus_is_indexed_whole(tmp_path):
    (tmp_path / "recipe.yaml").write_text("training: {eval_steps: 5, early_stopping_patience: 2}\n")
    words = ["index", str(tmp_path / "recipe.yaml"), "--corpus", "a.csv"]
    assert read_recipe(parse(words)).data.held_out == 0
    assert read_recipe(parse(["train", *words[1:]])).data.held_out == 0.1


def test_folders_of_a_recipe_have_flags():
    recipe = read_recipe(parse(["train", "--corpus", "a.csv", "--output-dir", "out", "--cache-dir", "kept"]))
    assert (recipe.output_dir, recipe.cache_dir) == ("out", "kept")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "csr-hf: interrupted; what was finished is kept. Go on with:\n  "),
        (OSError(28, "The disk is full."), "csr-hf: error: The disk is full. Then go on with: "),
    ],
)
def test_what_was_stopped_names_the_command_that_goes_on(error, said, capsys, monkeypatch):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("csr_hf.runs.embedding.embed", stop)
    words = ["embed", "--corpus", "my docs.csv", "--output-dir", "runs/it's"]
    assert main(words) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shlex.split(shown.removeprefix(said)) == ["csr-hf", *words]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_says_what_goes_on(rank, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("csr_hf.runs.sweep.sweep", stop)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert main(["sweep", "--corpus", "docs.csv"]) == 130
    said = "Go on by the same torchrun or accelerate launch with:\n  csr-hf sweep --corpus docs.csv\n"
    shown = capsys.readouterr().err
    assert shown.endswith(said) if rank == "0" else shown == ""


def test_an_interrupted_upload_names_the_command_that_completes_it(capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("csr_hf.publishing.export.export", stop)
    assert main(["push", "run", "user/minilm-csr"]) == 130
    assert capsys.readouterr().err.endswith("Go on with:\n  csr-hf push run user/minilm-csr\n")


def test_an_interrupted_look_names_no_command(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("csr_hf.runs.describe.examine", stop)
    assert main(["info", "nowhere"]) == 130
    assert capsys.readouterr().err == "csr-hf: interrupted\n"


def test_results_of_later_calls_do_not_name_the_command(capsys):
    record_command("another")
    assert main(["info", "nowhere"]) == 2
    assert provenance()["command"] == ""
