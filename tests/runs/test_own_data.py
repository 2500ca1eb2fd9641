"""Heads for the user's own data: a corpus, several sources, precomputed embeddings, several processes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset

from csr_hf import CSREncoder, CSRModel, Results, RunRecipe
from csr_hf.cli.main import main
from csr_hf.cli.searching import collection_name
from csr_hf.coding.coder import Coder
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.evaluation.probes import knn_accuracy
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.runs.searcher import RunSearcher

SMALL = ["--training.max_steps", "30", "--training.per_device_train_batch_size", "64", "--model.hidden_dim", "512"]
MEASURED = ["--k", "16", "--evaluation.ks", "[8, 16]", "--data.held_out", "0.4", "--no-progress"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, backbone, corpus):
    folder = tmp_path_factory.mktemp("own")
    docs = Dataset.from_parquet(str(corpus))
    bodies = [text[:200] for text in docs["positive"][:160]]
    Dataset.from_dict({"body": bodies[:120]}).to_parquet(folder / "docs.parquet")
    pairs = {"q": docs["anchor"][120:160], "a": bodies[120:]}
    Dataset.from_dict(pairs).to_parquet(folder / "pairs.parquet")
    return folder


@pytest.fixture(scope="module")
def adapted(folder):
    """A run on the corpus, and one that starts from its head."""
    corpus = ["--corpus", str(folder / "docs.parquet"), "--text-column", "body"]
    shared = [*corpus, *MEASURED]
    assert main(["run", *shared, *SMALL, "--output-dir", str(folder / "fresh")]) == 0
    more = ["--head", str(folder / "fresh"), "--output-dir", str(folder / "more"), "--training.max_steps", "10"]
    assert main(["run", *shared[:4], "--data.held_out", "0.4", "--evaluation.ks", "[16]", "--no-progress", *more]) == 0
    return folder


def test_corpus_alone_makes_a_run(adapted):
    recipe = RunRecipe.load(adapted / "fresh" / "recipe.yaml")
    assert recipe.data.columns == {"text": "body"}
    searcher = RunSearcher.load(adapted / "fresh")
    assert len(searcher.documents) == 120
    assert searcher.search(searcher.documents[5]["text"], 3)[0].id == "5"
    assert {row.metric for row in Results.load(adapted / "fresh").rows} == {"dense top 10"}


def test_training_goes_on_from_a_head(adapted):
    fresh, more = (CSRModel.from_pretrained(adapted / name / "model") for name in ("fresh", "more"))
    assert more.config.hidden_dim == 512
    assert more.config.k == 16
    assert not torch.equal(fresh.encoder.weight, more.encoder.weight)
    torch.testing.assert_close(fresh.encoder.weight, more.encoder.weight, atol=0.05, rtol=1)
    assert RunRecipe.load(adapted / "more" / "recipe.yaml").model.init == str(adapted / "fresh")


def test_a_corpus_goes_into_a_backend_and_is_searched_there(folder, adapted, tmp_path, capsys):
    pytest.importorskip("milvus_lite", reason='pip install "csr_hf[milvus]"')
    engine = ["--backend", f"milvus-lite:{tmp_path / 'there.db'}"]
    call = ["index", "--corpus", str(folder / "pairs.parquet"), "--text-column", "a", "--no-progress", *engine]
    call += ["--head", str(adapted / "fresh"), "--output-dir", str(tmp_path / "run")]
    for said in ("40 documents in", "filled before"):
        assert main([*call, "--limit", "40"]) == 0
        assert said in capsys.readouterr().out
    assert main([*call[:-2], "--output-dir", str(tmp_path / "else" / "run"), "--limit", "30"]) == 2
    assert "collection run in Milvus holds 40 documents already: choose another" in capsys.readouterr().err
    assert main([*call, "--limit", "30", "--overwrite"]) == 0
    # Nothing stays of a larger corpus.
    assert "30 documents in" in capsys.readouterr().out
    assert not (tmp_path / "run" / "index").exists()
    documents = Dataset.from_parquet(str(tmp_path / "run" / "documents.parquet"))
    assert main(["search", str(tmp_path / "run"), documents["text"][7], "--top-k", "2", *engine]) == 0
    first = next(line for line in capsys.readouterr().out.splitlines() if " 1. " in line)
    assert first.split()[-1] == "7"
    assert main(["search", str(tmp_path / "run"), "a text"]) == 2
    assert "has no index" in capsys.readouterr().err
    assert main(["search", str(adapted / "more"), "a text", *engine]) == 2
    assert "has no 'more' created by csr_hf" in capsys.readouterr().err
    assert main(["search", str(adapted / "more"), "a text", *engine, "--collection", "run"]) == 2
    assert "'run' was filled with another head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "name"),
    [("runs/docs", "docs"), ("a/My Docs-2", "my_docs_2"), ("a/20_x", "c_20_x"), ("a" * 80, "a" * 63)],
)
def test_collections_are_called_like_their_folder(folder, name):
    assert collection_name(folder) == name


def test_a_corpus_is_indexed_with_a_head_and_asked(folder, adapted, capsys, monkeypatch):
    call = ["index", "--corpus", str(folder / "pairs.parquet"), "--text-column", "a", "--no-progress"]
    assert main([*call, "--output-dir", str(folder / "never")]) == 2
    assert "names no head to index with. Give one: --head" in capsys.readouterr().err
    assert not (folder / "never").exists()
    assert main([*call, "--head", str(adapted / "fresh"), "--output-dir", str(adapted / "fresh")]) == 2
    assert "is where the head comes from" in capsys.readouterr().err
    assert main([*call, "--head", str(adapted / "fresh"), "--index.copies", "[int4]"]) == 2
    assert "`index.copies.0` ('int4')" in capsys.readouterr().err
    indexed = folder / "indexed"
    assert main([*call, "--head", str(adapted / "fresh"), "--output-dir", str(indexed)]) == 0
    fresh, own = (CSRModel.from_pretrained(run / "model") for run in (adapted / "fresh", indexed))
    assert torch.equal(fresh.encoder.weight, own.encoder.weight)
    searcher = RunSearcher.load(indexed)
    assert (len(searcher.documents), len(searcher.index), searcher.index.index.copies) == (40, 40, ())
    text = searcher.documents[7]["text"]
    (hit,) = searcher.search(text, 1)
    # The cosine of a text with what is stored of it, which has no residual: that needs more documents.
    settings = searcher.index.index.settings
    coder = Coder(own.eval(), **{name: settings[name] for name in ("k", "row_bytes", "bits")})
    embedding = unit_rows(searcher.encoder.backbone.embed([text]))
    stored = unit_rows(coder.decode(coder.encode(embedding * settings["norm"])))
    assert (hit.id, hit.text) == ("7", text) and hit.score == pytest.approx(
        float((embedding @ stored.T)[0, 0]), abs=2e-3
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text.split()[0]}\nparse [a] date\n\nnever asked\n"))
    capsys.readouterr()
    assert main(["search", str(indexed), "--top-k", "2"]) == 0
    said = capsys.readouterr().out
    assert "40 documents. Type a question" in said
    assert "parse [a] date" in said and " ms" in said and "never asked" not in said
    assert said.count("  1. ") == 2
    assert main(["info", str(indexed)]) == 0
    said = capsys.readouterr().out
    assert "bytes a document (216 of them its code), and " in said
    assert " partitions, of which a search visits " in said


def test_head_of_another_width_is_refused(folder, adapted, capsys):
    np.save(folder / "narrow.npy", np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    call = ["train", "--corpus", str(folder / "narrow.npy"), "--head", str(adapted / "fresh"), "--no-progress"]
    assert main([*call, "--output-dir", str(folder / "never"), "--model.hidden_dim", "16", "--k", "4"]) == 2
    assert "takes embeddings of width 384, these are 8 wide" in capsys.readouterr().err


def test_neither_recipe_nor_corpus_is_an_error(capsys):
    assert main(["train"]) == 2
    assert "give a recipe, or the texts to learn from: --corpus" in capsys.readouterr().err


def of_several_sources(folder, output_dir):
    """Path of a recipe with documents and pairs."""
    recipe = {
        "output_dir": str(output_dir),
        "cache_dir": str(output_dir.with_name(f"{output_dir.name}-embeddings")),
        "data": {
            "held_out": 0.4,
            "sources": [
                {"source": str(folder / "docs.parquet"), "columns": {"text": "body"}, "limit": 60},
                {"source": str(folder / "pairs.parquet"), "columns": {"anchor": "q", "positive": "a"}, "weight": 100},
            ],
        },
    }
    path = output_dir.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_several_sources_are_one_run(folder, capsys):
    contrast = ["--training.gamma", "0.1", "--training.contrast", "pairs"]
    recipe = of_several_sources(folder, folder / "several")
    assert main(["run", recipe, *SMALL, *contrast, *MEASURED[:4], "--no-progress"]) == 0
    results = Results.load(folder / "several")
    assert {row.task.split(",")[0] for row in results.rows} == {"docs.parquet and 1 more"}
    searcher = RunSearcher.load(folder / "several")
    assert len(searcher.documents) == 100
    assert {name.split(":")[0] for name in searcher.documents["id"]} == {"docs.parquet", "pairs.parquet"}


def test_unknown_key_of_a_source_is_named(folder):
    with pytest.raises(ValueError, match=r"`data.sources.0.colums` is not a setting.*`data.sources.0.columns`"):
        RunRecipe.from_dict({"data": {"sources": [{"source": "a.csv", "colums": {}}]}})
    with pytest.raises(ValueError, match=r"`data.sources.0` \('a.csv'\) must be a section with keys: source"):
        RunRecipe.from_dict({"data": {"sources": ["a.csv"]}})


def test_embeddings_need_no_backbone(folder):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 32))
    np.savez(folder / "vectors.npz", data=rows.astype(np.float32), label=np.arange(300) % 4)
    columns = ["--data.columns", "{embedding: data, label: label}", "--backbone", "nobody/model"]
    sizes = ["--model.hidden_dim", "128", "--k", "8", "--evaluation.ks", "[8]", "--no-progress"]
    contrast = ["--training.gamma", "0.1", "--training.contrast", "labels", "--training.max_steps", "60"]
    output = ["--output-dir", str(folder / "vectors"), "--model.init", "data"]
    assert main(["run", "--corpus", str(folder / "vectors.npz"), *columns, *sizes, *contrast, *output]) == 0
    head = CSRModel.from_pretrained(folder / "vectors" / "model")
    assert head.config.base_model_name_or_path == "nobody/model"
    results = Results.load(folder / "vectors")
    assert results.select(method="CSR", k=8)[0].score > 0.3
    (labels,) = {row.task for row in results.rows if row.metric == "linear probe"}
    assert labels.startswith("vectors.npz, labels of ")
    (data,) = load_sources(
        DataArguments(source=str(folder / "vectors.npz"), columns={"embedding": "data", "label": "label"})
    )
    known, asked = ((data.vectors["embedding"][side], data.labels[side]) for side in (~data.held_out, data.held_out))
    expected = knn_accuracy(*known, *asked)
    assert results.select(task=labels, metric="1-NN accuracy", method="dense")[0].score == expected > 0
    log = [json.loads(line) for line in (folder / "vectors" / "training_log.jsonl").open()]
    assert log[-1]["contrast"] > 0


def test_embeddings_of_an_unnamed_model_get_no_backbone(folder, capsys):
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((260, 5)) @ rng.standard_normal((5, 32))).astype(np.float32)
    np.save(folder / "own.npy", rows)
    sizes = ["--model.hidden_dim", "64", "--k", "8", "--evaluation.ks", "[8]", "--evaluation.baselines", "[]"]
    run, output = str(folder / "own"), ["--output-dir", str(folder / "own"), "--no-progress"]
    call = ["run", "--corpus", str(folder / "own.npy"), *sizes, "--training.max_steps", "40", *output]
    assert main([*call, "--data.held_out", "0.4"]) == 0
    said = capsys.readouterr().out
    assert f'csr_hf.SearchIndex.load("{run}", texts=False).search(embeddings)' in said
    assert "csr-hf search" not in said.partition("Everything is in")[2]
    assert CSRModel.from_pretrained(folder / "own" / "model").config.base_model_name_or_path is None
    assert "MiniLM" not in (folder / "own" / "recipe.yaml").read_text()
    assert main(["card", run, str(folder / "card")]) == 0
    front = (folder / "card" / "README.md").read_text()
    for invented in ("MiniLM", "license:", "language:", "base_model:"):
        assert invented not in front
    capsys.readouterr()
    assert main(["search", run, "a question"]) == 2
    assert f'csr_hf.SearchIndex.load("{run}", texts=False).search(embeddings)' in capsys.readouterr().err
    answers = RunSearcher.load(run, texts=False).search(rows[[3, 200]], 4)
    assert [hits[0].id for hits in answers] == [3, 200]
    assert [hits[0].score for hits in answers] == pytest.approx([1, 1], abs=0.01)
    assert main(["export", run, str(folder / "exported")]) == 2
    assert "names no backbone: its embeddings came with the data" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_run_the_whole_command(folder):
    recipe = of_several_sources(folder, folder / "two")
    flags = [*SMALL, *MEASURED[:4], "--no-progress", "--training.num_processes", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "csr_hf.cli"]
    done = subprocess.run(
        [*launch, "run", recipe, *flags],
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nhead ") == 1
    encoder = CSREncoder.from_pretrained(folder / "two" / "model")
    assert len(encoder.encode(["a text"])) == 1
    assert len(RunSearcher.load(folder / "two").documents) == 100


def test_contrast_without_pairs_is_refused_before_anything_is_embedded(tmp_path, tiny_folder, capsys):
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "text {number}"}}\n' for number in range(60)))
    call = ["run", "--corpus", str(tmp_path / "texts.jsonl"), "--backbone", str(tiny_folder("bert"))]
    call += ["--training.preset", "csrv2", "--output-dir", str(tmp_path / "run"), "--no-progress"]
    assert main(call) == 2
    assert "`contrast` is 'pairs', and the data has no pairs" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl"]
