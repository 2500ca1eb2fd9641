"""The commands that look at what is there, and explain it."""

import json
import subprocess
import sys

import pytest

from csr_hf.cli.glossary import GLOSSARY
from csr_hf.cli.main import main
from csr_hf.embedding.cache import embed_dataset
from csr_hf.embedding.loading import load_backbone
from csr_hf.evaluation.cross_modal import CUTOFFS
from csr_hf.evaluation.faiss_quantizers import OptimizedProductQuantization, ProductQuantization, RaBitQ
from csr_hf.evaluation.labeled import NEAREST, PROBE
from csr_hf.evaluation.prefixes import PCA, Adapter, Truncation
from csr_hf.evaluation.retrieval import NDCG, RECALL
from csr_hf.evaluation.scalar_quantizers import Binary, Int8, RotatedSigns
from csr_hf.evaluation.vector_method import DenseMethod
from tests.conftest import make_head


@pytest.fixture
def cache(tiny_folder, tmp_path):
    backbone = load_backbone(str(tiny_folder("router")), device="cpu")
    return embed_dataset(["a text", "another"], backbone, tmp_path / "embeddings").folder


def test_caches_are_listed_and_cleared(cache, capsys):
    where = ["--cache-dir", str(cache.parent)]
    assert main(["cache", *where]) == 0
    assert f"{cache}  0.0 MB, 0 days old: 2 rows, " in capsys.readouterr().out
    assert main(["cache", "--json", *where]) == 0
    (found,) = json.loads(capsys.readouterr().out)["caches"]
    assert (found["folder"], found["rows"], found["finished"]) == (str(cache), 2, True)
    assert main(["cache", "--clear", "--older-than", "1d", *where]) == 0
    assert cache.exists()
    capsys.readouterr()
    assert main(["cache", "--clear", "0" * 24, *where]) == 2
    assert f"has no cache {'0' * 24}" in capsys.readouterr().err
    assert main(["cache", "--clear", cache.name, *where]) == 0
    assert f"removing {cache}" in capsys.readouterr().out
    assert not cache.exists()


def test_days_are_read(capsys, tmp_path):
    assert main(["cache", "--cache-dir", str(tmp_path), "--older-than", "soon"]) == 2
    assert "--older-than 'soon' is no number of days. Give one such as 30d." in capsys.readouterr().err


def test_words_are_explained(capsys):
    assert main(["glossary", "nprobe"]) == 0
    assert capsys.readouterr().out == f"nprobe  {GLOSSARY['nprobe']}\n"
    assert main(["glossary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == GLOSSARY
    assert main(["glossary", "laten"]) == 2
    assert "'laten' is not in the glossary. Did you mean `latent`?" in capsys.readouterr().err


def test_every_word_of_the_tables_is_explained():
    said = [NDCG, RECALL, NEAREST, PROBE, f"R@{CUTOFFS[-1]}", "k", "bytes", "retention", "kept"]
    said += [kind.name for kind in (DenseMethod, Truncation, Adapter, PCA, Int8, Binary, RotatedSigns)]
    said += [kind.name for kind in (ProductQuantization, OptimizedProductQuantization, RaBitQ)]
    assert not set(said) - GLOSSARY.keys()
    assert "float16" in GLOSSARY["copies"]


def test_info_is_read_by_programs(tmp_path, capsys):
    make_head().save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["input_dim"], found["hidden_dim"], found["k"]) == ("head", 12, 40, 5)
    assert main(["info", str(tmp_path)]) == 0
    assert "  backbone not named\n" in capsys.readouterr().out


COMPLETE = """
source "$0"
function_name=$(complete -p csr-hf | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
    "$function_name" csr-hf "${COMP_WORDS[COMP_CWORD]}" ""
    echo "${COMPREPLY[@]}"
}
complete_line csr-hf se
complete_line csr-hf search --candi
complete_line csr-hf train --training.max_s
complete_line csr-hf export run out --layout h
"""


def test_bash_completes_commands_flags_and_values(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "csr-hf.bash").write_text(capsys.readouterr().out)
    done = subprocess.run(
        ["bash", "-c", COMPLETE, str(tmp_path / "csr-hf.bash")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:4] == ["search", "--candidates", "--training.max_steps", "head"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_of_completion_is_printed_as_it_is(shell, capsys):
    assert main(["completion", shell, "--json"]) == 0
    script = json.loads(capsys.readouterr().out)["script"]
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == f"{script}\n"
    assert script.startswith("#compdef csr-hf") == (shell == "zsh")


def test_a_pipe_that_is_closed_ends_a_command_quietly(tmp_path):
    make_head().save_pretrained(tmp_path)
    command = f"{sys.executable} -m csr_hf.cli info {tmp_path} --json"
    # The pipe is closed before anything is written.
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_of_ascii_gets_replacements(tmp_path):
    make_head(base_model_name_or_path="caf\xe9/\u6a21\u578b").save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "csr_hf.cli", "info", str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.returncode == 0
    assert "backbone caf?/??" in done.stdout
