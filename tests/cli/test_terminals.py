"""Whatever a stranger named or wrote, nothing that steers a terminal is printed, and no page opens a file."""

import json
import shutil
import subprocess
import sys
import unicodedata

import pytest

from csr_hf.cli.main import main
from csr_hf.cli.output import print_latents, print_line, print_tables
from csr_hf.evaluation.results import Results, Row
from csr_hf.explain.latents import Latent, Latents
from tests.conftest import make_head
from tests.helpers.clip import picture

EVIL = "a\x1b]0;owned\x07b\x1b[2J\x9b2Jc\r\x08\u202ed"
"""Sets the title of a terminal, clears it, moves back, and turns what follows around."""


def check(capsys, *shown):
    """Check all that was printed, and that it holds some texts."""
    said = capsys.readouterr()
    for text in (said.out, said.err):
        hidden = [char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs")]
        assert hidden == [], text
    for text in shown:
        assert text in said.out + said.err
    return said


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """An index of documents whose ids, texts, columns and file have names that harm."""
    folder = tmp_path_factory.mktemp("terminals")
    make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("router"))).save_pretrained(folder / "head")
    picture(1).save(folder / "private.png")
    rows = [{"id": f"{EVIL}{number}", "text": f"a cat {EVIL}", EVIL: EVIL} for number in range(3)]
    rows.append({"id": str(folder / "private.png"), "text": "a cat", EVIL: EVIL})
    (folder / f"{EVIL}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    words = ["index", "--corpus", str(folder / f"{EVIL}.jsonl"), "--head", str(folder / "head"), "--device", "cpu"]
    assert main([*words, "--data.keep", json.dumps([EVIL]), "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_hits_do_not_steer_a_terminal(run, capsys):
    capsys.readouterr()
    assert main(["search", str(run), f"a cat {EVIL}", "--show", f"id,text,{EVIL}", "--device", "cpu"]) == 0
    check(capsys, "a cat", "owned")


def test_what_a_command_says_of_files_does_not(run, tmp_path, capsys):
    corpus = shutil.copy(run.parent / f"{EVIL}.jsonl", tmp_path / f"more{EVIL}.jsonl")
    copy = shutil.copytree(run, tmp_path / f"run{EVIL}")
    for words, code in (
        (["info", copy], 0),
        (["info", corpus], 2),
        (["info", tmp_path / f"none{EVIL}"], 2),
        (["add", copy, corpus, "--device", "cpu"], 2),
        (["add", copy, corpus, "--replace", "--device", "cpu"], 0),
        (["delete", copy, "--ids", f"none{EVIL}"], 2),
        (["search", copy, "a cat", "--show", f"none{EVIL}", "--device", "cpu"], 2),
        (["encode", run.parent / "head", corpus, "--column", f"none{EVIL}", "-o", tmp_path / "out"], 2),
        (["index", "--corpus", corpus, "--head", run.parent / "head", "--text-column", EVIL + "x"], 2),
    ):
        capsys.readouterr()
        assert main([str(word) for word in words]) == code, words
        check(capsys)


def test_names_of_latents_and_tasks_do_not(tmp_path, capsys):
    scores = [{"names": EVIL, "by": EVIL, "share": 1, "median": 0.5, "at_least_0.8": 0.1}]
    Latents([Latent(0, EVIL, 0.5, together=((0, 1.0),))], "h", 3, scores).save(tmp_path / "latents.json")
    latents = Latents.load(tmp_path / "latents.json")
    print_latents(latents, latents.live)
    check(capsys, "owned")
    rows = [Row(EVIL, EVIL, method, 8, 36, 0.5, 0.9, n_queries=3) for method in ("dense", EVIL)]
    Results(rows, {"budgets": [36], "seen": [EVIL]}).save(tmp_path)
    print_tables(Results.load(tmp_path))
    check(capsys, "owned")
    assert main(["info", str(tmp_path)]) == 0
    check(capsys, "owned")
    print_line(f"a line {EVIL}")
    check(capsys, "a line a]0;owned")


def test_the_log_in_python_does_not(tmp_path):
    script = (
        "import logging, csr_hf, sys; csr_hf.set_verbosity_info(); logging.getLogger('csr_hf.x').info(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, EVIL], capture_output=True, text=True, check=True)
    assert done.stderr == "a]0;ownedb[2J2Jcd\n"


def test_a_page_of_texts_opens_no_file_that_an_id_names(run, tmp_path):
    page = tmp_path / "found.html"
    assert main(["search", str(run), "a cat", "--top-k", "4", "--html", str(page), "--device", "cpu"]) == 0
    content = page.read_text(encoding="utf-8")
    assert "private.png" in content
    for opened in ("<img", "<a ", "file:", "data:image"):
        assert opened not in content


def test_ids_of_images_that_name_other_files_are_not_opened(tmp_path):
    """The bytes of a data set are shown, not what its ids name on this machine."""
    from datasets import Dataset, Features, Image, Value

    from csr_hf.data.image_columns import make_previews

    picture(1).save(tmp_path / "private.png")
    picture(2).save(tmp_path / "own.png")
    cells = [
        {"bytes": (tmp_path / "own.png").read_bytes(), "path": None},
        {"bytes": None, "path": str(tmp_path / "own.png")},
    ]
    ids = [str(tmp_path / "private.png"), str(tmp_path / "own.png")]
    features = Features({"id": Value("string"), "image": Image(decode=False)})
    shown = make_previews(Dataset.from_dict({"id": ids, "image": cells}, features=features))["thumbnail"]
    assert [each is None for each in shown] == [False, True]
