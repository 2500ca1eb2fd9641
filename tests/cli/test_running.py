"""What a program reads of the commands that make, use and publish a head: one JSON document on stdout for each."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from csr_hf import CSRModel, Results, SparseCodes
from csr_hf.cli.main import main
from csr_hf.runs.folder import RunFolder
from tests.helpers.backbones import KINDS

SMALL = ["--model.hidden_dim", "64", "--k", "8", "--training.max_steps", "10", "--data.held_out", "0.4"]
SMALL += ["--training.per_device_train_batch_size", "32", "--evaluation.ks", "[8]", "--evaluation.baselines", "[]"]
COUNT = 60


@pytest.fixture
def ask(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run a command with `--json` in a folder of its own, and return what a program reads."""
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"text": KINDS["bert"].sentences(COUNT, 0)}).to_parquet("docs.parquet")

    def run(*words):
        recipe = ["--corpus", "docs.parquet", "--backbone", str(tiny_folder("bert")), *SMALL]
        words = [*words, *(recipe if words[0] in ("run", "embed", "train") else [])]
        capsys.readouterr()
        assert main([*words, "--json", "--no-progress", "--device", "cpu"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_programs_read_what_every_command_has_made(ask):
    (source,) = ask("embed", "--output-dir", "runs/mine")["sources"]
    assert source["rows"] == COUNT > source["held_out"] > 0
    embedded = source["embeddings"]["text"]
    assert (embedded["rows"], Path(embedded["cache"]).is_dir()) == (COUNT, True)

    trained = ask("train", "--output-dir", "runs/mine")
    assert trained["figures"]["steps"] == 10
    head = CSRModel.from_pretrained(trained["model"])

    done = ask("run", "--output-dir", "runs/mine", "--index.questions", "[what is it]")
    folder = RunFolder.of(done["output_dir"])
    assert all((folder.path / name).exists() for name in done["files"])
    assert done["results"]["head"] == head.fingerprint
    shown = [(row["method"], row["score"], row["n_queries"]) for row in done["results"]["rows"]]
    assert shown == [(row.method, row.score, row.n_queries) for row in Results.load(folder.path).rows]
    assert [(answer["question"], len(answer["hits"])) for answer in done["answers"]] == [("what is it", 3)]

    indexed = ask("index", "--corpus", "docs.parquet", "--head", "runs/mine", "--output-dir", "runs/more")
    assert (indexed["backend"], RunFolder.of(indexed["output_dir"]).index.is_dir()) == (None, True)

    Path("texts.txt").write_text("one\ntwo\n")
    coded = ask("encode", "runs/mine", "texts.txt", "--output", "codes.safetensors")
    assert (coded["rows"], coded["k"], coded["latents"]) == (2, 8, 64)
    assert len(SparseCodes.load(coded["output"])) == 2

    exported = ask("export", "runs/mine", "exported", "--layout", "full")
    assert exported["layout"] == "full"
    assert CSRModel.from_pretrained(exported["output"]).fingerprint == head.fingerprint

    written = ask("card", "runs/mine", "card")
    assert Path(written["card"]).read_text().startswith("---\n")

    imported = ask("import", "exported", "imported")
    assert (imported["hidden_dim"], imported["k"], imported["holds_backbone"]) == (64, 8, True)
