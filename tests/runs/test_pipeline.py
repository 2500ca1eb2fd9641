"""One small run on the real backbone, and what must not start a run."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from csr_hf import CSREncoder, CSRModel, InvertedIndex, PackedCodes, Results, RunRecipe, SparseCodes
from csr_hf.cli.main import main
from csr_hf.coding.coder import Coder
from csr_hf.coding.compact_coder import load_coder
from csr_hf.runs.embedding import embed
from csr_hf.runs.first_head import first_head
from csr_hf.runs.searcher import RunSearcher


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "copy"
    return shutil.copytree(finished_run, folder)


def run(finished, *flags, output="other"):
    return main(
        ["run", str(finished / "recipe.yaml"), "--output-dir", str(finished / output), "--no-progress", *flags]
    )


def test_everything_lands_in_the_output_folder(finished):
    names = {path.name for path in (finished / "first").iterdir()}
    expected = {"model", "index", "results.json", "results.md", "retention.png", "recipe.yaml"}
    assert expected <= names
    assert not any(name.startswith(".") for name in names)
    resolved = yaml.safe_load((finished / "first" / "recipe.yaml").read_text())
    assert resolved["versions"]["transformers"]
    assert resolved["results"]["explained_variance"] > 0
    assert (finished / "first" / "model" / "recipe.yaml").exists()


def test_results_have_every_method_at_every_k(finished):
    results = Results.load(finished / "first")
    methods = {(row.method, row.k) for row in results.rows}
    assert methods >= {("dense", None), ("CSR", 8), ("CSR", 16), ("CSR, decoded", 16)}
    assert {row.method for row in results.rows} >= {"truncation", "PCA", "int8", "binary"}
    for row in results.select(metric="nDCG@10"):
        dense = results.select(metric="nDCG@10", method="dense")[0]
        assert row.retention == pytest.approx(row.score / dense.score)
    # Truncation and PCA never get fewer bytes than CSR with the norm.
    sizes = {row.bytes_per_vector for row in results.select(method="CSR, decoded")}
    assert {row.bytes_per_vector for row in results.select(method="PCA")} == sizes
    assert results.details["command"].startswith("csr-hf run")


def test_the_index_is_measured_over_all_documents(finished):
    results = Results.load(finished / "first")
    found = results.details["index"]
    assert (found["n_documents"], found["k"]) == (200, InvertedIndex.load(finished / "first" / "index").k)
    low, high = found["interval"]
    assert 0.5 < low <= found["score"] <= high <= 1
    text = (finished / "first" / "results.md").read_text()
    assert f"`csr-hf search` at its defaults finds {found['score']:.3f} ±" in text
    assert "among all 200 documents, asked for " in text
    assert "bytes a document (216 of them its code), and " in text


def test_index_holds_the_whole_corpus_and_answers(finished):
    searcher = RunSearcher.load(finished / "first")
    assert len(searcher.index) == len(searcher.documents) == 200
    document = searcher.documents[7]
    hits = searcher.search(document["text"], 3)
    assert hits[0].id == document["id"]
    assert hits[0].score > hits[1].score
    # What is stored is nearly the embedding: the cosine of a text with itself.
    itself = [searcher.search(searcher.documents[row]["text"], 1)[0].score for row in range(0, 200, 10)]
    assert min(itself) > 0.9 and np.mean(itself) > 0.93


def test_hits_have_the_cosine_of_the_decoded_document(finished):
    searcher = RunSearcher.load(finished / "first")
    document = searcher.documents[7]
    (hit,) = searcher.search(document["text"], 1)
    assert hit.id == document["id"]
    coder = searcher.index.coder
    (embedding,) = searcher.encoder.backbone.embed([document["text"]], "query")
    (decoded,) = coder.decode(coder.encode(searcher.encoder.backbone.embed([document["text"]], "document")))
    assert hit.score == pytest.approx(embedding @ decoded / np.linalg.norm(decoded), abs=1e-3)


def test_second_run_finds_the_cache_and_gives_the_same_weights(finished, capsys):
    assert run(finished, output="again") == 0
    assert "anchor: 200 x 384 found in" in capsys.readouterr().out
    first, again = (CSRModel.from_pretrained(finished / name / "model").state_dict() for name in ("first", "again"))
    assert all((first[name] == again[name]).all() for name in first)


def test_training_can_be_resumed(finished, capsys):
    train = ["train", str(finished / "recipe.yaml"), "--output-dir", str(finished / "resumed"), "--no-progress"]
    assert main(train) == 0
    whole = CSRModel.from_pretrained(finished / "resumed" / "model").state_dict()
    log = finished / "resumed" / "training_log.jsonl"
    log.write_text("")
    # What an interruption leaves.
    shutil.rmtree(finished / "resumed" / "checkpoints" / "step_0000040")
    shutil.rmtree(finished / "resumed" / "model")
    assert main(train) == 0
    resumed = CSRModel.from_pretrained(finished / "resumed" / "model").state_dict()
    assert all((whole[name] == resumed[name]).all() for name in whole)
    # Only what came after the checkpoint of step 20 was done again.
    assert [json.loads(line)["step"] for line in log.open()] == [30, 40]


def test_training_is_evaluated_on_the_held_out_rows(finished, capsys):
    flags = {"eval_steps": 10, "load_best_model_at_end": "true", "early_stopping_patience": 3}
    words = [word for name, value in flags.items() for word in (f"--training.{name}", str(value))]
    assert run(finished, *words, output="evaluated") == 0
    lines = [json.loads(line) for line in (finished / "evaluated" / "training_log.jsonl").open()]
    recalls = {line["step"]: line["eval_neighbor_recall"] for line in lines if "eval_loss" in line}
    assert list(recalls) == [10, 20, 30, 40]
    recorded = RunRecipe.recorded(finished / "evaluated" / "recipe.yaml", "results")
    assert recorded["best_step"] == max(recalls, key=recalls.get)
    assert recorded["eval_neighbor_recall"] == pytest.approx(max(recalls.values()), abs=1e-6)
    assert recorded["eval_explained_variance"] < recorded["explained_variance"]
    said = "The same held-out rows chose the step"
    assert said in Results.load(finished / "evaluated").details["note"]
    assert said not in Results.load(finished / "first").details["note"]


def test_search_command_prints_scores_and_names(finished, capsys):
    assert main(["search", str(finished / "first"), "parse command line options", "--top-k", "2"]) == 0
    out = capsys.readouterr().out
    assert "  1. 0." in out
    assert "  2. 0." in out
    assert "  3. " not in out


def test_encode_command_equals_the_library(finished, tmp_path):
    (tmp_path / "texts.txt").write_text("a first text\nanother one\n")
    model = str(finished / "first" / "model")
    output = tmp_path / "codes.safetensors"
    arguments = ["encode", model, str(tmp_path / "texts.txt"), "--k", "5", "-o", str(output), "--no-progress"]
    assert main(arguments) == 0
    codes = SparseCodes.load(output)
    expected = (
        CSREncoder.from_pretrained(model).encode(["a first text", "another one"], max_active_dims=5).astype("float16")
    )
    assert np.array_equal(codes.indices, expected.indices)
    assert np.array_equal(codes.values, expected.values)
    assert SparseCodes.load_ids(output) is None


def test_encode_command_gives_every_row_its_code_and_id(finished, tmp_path, capsys):
    (tmp_path / "faq.csv").write_text("id,answer\n007,first answer\nx,\n9,None\n")
    model, output = str(finished / "first" / "model"), tmp_path / "codes.safetensors"
    arguments = ["encode", model, str(tmp_path / "faq.csv"), "-o", str(output), "--no-progress"]
    assert main(arguments) == 2
    assert "--column gives text: 'text', but" in capsys.readouterr().err
    assert main([*arguments, "--column", "answer"]) == 0
    assert "1 of 3 rows have no text and get the code of the empty text: 1" in "".join(capsys.readouterr())
    expected = CSREncoder.from_pretrained(model).encode(["first answer", "", "None"]).astype("float16")
    assert np.array_equal(SparseCodes.load(output).indices, expected.indices)
    assert SparseCodes.load_ids(output) == ["007", "x", "9"]


def test_encode_command_packs_codes(finished, tmp_path, capsys):
    (tmp_path / "faq.csv").write_text("id,text\n007,a first text\nx,another one\n")
    model, output = str(finished / "first" / "model"), tmp_path / "codes.safetensors"
    arguments = ["encode", model, str(tmp_path / "faq.csv"), "-o", str(output), "--no-progress", "--k", "5"]
    assert main([*arguments, "--bits", "4"]) == 0
    codes = PackedCodes.load(output)
    encoder = CSREncoder.from_pretrained(model)
    embeddings = encoder.embed(["a first text", "another one"])
    expected = Coder(encoder.head, k=5, bits=4).encode(embeddings)
    assert np.array_equal(codes.rows, expected.rows)
    assert (codes.layout, codes.base) == (expected.layout, expected.base)
    assert PackedCodes.load_ids(output) == ["007", "x"]
    capsys.readouterr()
    assert main(["info", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"packed codes {output}: PackedCodes(n=2, k=5, dim={codes.dim}, 4 bits a value, ")
    assert f"{codes.row_bytes} bytes a row" in said
    assert main([*arguments, "--bits", "4", "--refine", "values"]) == 0
    refined = encoder.encode(["a first text", "another one"], max_active_dims=5, refine=True).pack(4)
    assert np.array_equal(PackedCodes.load(output).rows, refined.rows)
    assert main([*arguments[:-2], "--bytes", "12"]) == 0
    assert np.array_equal(
        PackedCodes.load(output).rows, Coder(encoder.head, row_bytes=12, bits=3).encode(embeddings).rows
    )
    assert main([*arguments, "--bytes", "12", "--refine", "values"]) == 2
    assert "`--bytes` (12) needs latents chosen by pursuit. Leave out `--refine values`" in capsys.readouterr().err
    assert main([*arguments, "--bits", "9"]) == 2
    assert "`bits` ('9'): should be less than or equal to 8" in capsys.readouterr().err


def test_encode_command_fits_a_coder_and_uses_it_again(finished, tmp_path, capsys):
    (tmp_path / "faq.csv").write_text("id,text\n007,a first text\nx,another one\n")
    run, output, coder = finished / "first", tmp_path / "codes.safetensors", tmp_path / "coder.safetensors"
    arguments = ["encode", str(run), str(tmp_path / "faq.csv"), "-o", str(output), "--no-progress"]
    arguments += ["--coder", str(coder)]
    assert main(arguments) == 2
    assert f"`--coder` ({coder}) does not exist. Give the `--bytes` to fit one for" in capsys.readouterr().err
    assert main([*arguments, "--bytes", "24"]) == 0
    encoder = CSREncoder.from_pretrained(run)
    embeddings = encoder.embed(["a first text", "another one"])
    made = load_coder(coder, encoder.head)
    # There is too little to learn from here for anything but packed codes.
    assert isinstance(made, Coder) and made.bytes_per_vector == 24
    assert np.array_equal(PackedCodes.load(output).rows, made.encode(embeddings).rows)
    written = coder.read_bytes()
    assert main(arguments) == 0 and coder.read_bytes() == written
    assert PackedCodes.load_ids(output) == ["007", "x"]
    assert main([*arguments, "--bytes", "25"]) == 2
    assert f"`--bytes` (25) differs from the 24 of {coder}" in capsys.readouterr().err
    assert main([*arguments, "--k", "4", "--bits", "3"]) == 2
    assert "has chosen --k, --bits itself. Leave them out" in capsys.readouterr().err
    assert main(["encode", str(run / "model"), *arguments[2:-1], str(tmp_path / "again"), "--bytes", "24"]) == 0
    shutil.copytree(run / "model", tmp_path / "head")
    assert main(["encode", str(tmp_path / "head"), *arguments[2:-1], str(tmp_path / "new"), "--bytes", "24"]) == 2
    assert "head is no run, so that a coder cannot be fitted" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["", "model", "index", "results.json"])
def test_info_describes_every_part(finished, capsys, part):
    assert main(["info", str(finished / "first" / part)]) == 0
    assert {"": "run", "model": "head", "index": "index", "results.json": "results"}[part] in capsys.readouterr().out


def test_texts_without_pairs_are_measured_by_neighbors(finished, capsys):
    flags = ["--data.columns", "{text: positive}"]
    assert run(finished, *flags, output="texts") == 0
    assert {row.metric for row in Results.load(finished / "texts").rows} == {"dense top 10"}


def test_without_held_out_rows_there_are_no_results(finished, capsys):
    assert run(finished, "--data.held_out", "0", output="all") == 0
    assert "results    none" in capsys.readouterr().out
    assert not (finished / "all" / "results.json").exists()
    assert (finished / "all" / "index").is_dir()


def test_index_of_another_head_is_refused(finished, capsys):
    assert run(finished, "--training.seed", "1", output="other") == 0
    mixed = finished / "mixed"
    shutil.copytree(finished / "first", mixed)
    shutil.rmtree(mixed / "index")
    shutil.copytree(finished / "other" / "index", mixed / "index")
    assert main(["search", str(mixed), "anything"]) == 2
    assert "was built with another head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backbone.name_or_path", "nobody/nothing"], "backbone 'nobody/nothing' was not found"),
        (["--model.k", "513"], "`k` (513) must not exceed `hidden_dim` (512)"),
        (["--model.k_aux", "513"], "`k_aux` (513) must not exceed `hidden_dim` (512)"),
        (["--index.k", "513"], "`index.k` (513) is above the number of latents, `hidden_dim` (512)"),
        (["--modle.k", "3"], "Did you mean `--model.k`?"),
        (["--training.max_steps"], "argument --training.max_steps: expected one argument"),
        (["--speed", "3"], "unknown argument '--speed'"),
        (["--data.source", "gone.csv"], "gone.csv"),
        (["--data.columns", "{text: title}"], "Its columns: id, anchor, positive"),
    ],
)
def test_wrong_input_gives_one_line_and_leaves_nothing(finished, capsys, flags, message):
    before = set(finished.iterdir())
    assert run(finished, *flags, output="wrong") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert set(finished.iterdir()) == before


def test_output_folder_that_cannot_be_written(finished, capsys):
    before = set(finished.iterdir())
    assert run(finished, output="recipe.yaml/run") == 2
    assert "cannot write to" in capsys.readouterr().err
    assert set(finished.iterdir()) == before


def test_library_accepts_the_same_recipe(finished):
    recipe = RunRecipe.load(finished / "first" / "recipe.yaml")
    assert recipe.model.k == 16
    index = InvertedIndex.load(finished / "first" / "index")
    # Of 200 documents none are fitted residuals: their bytes go to the codes.
    assert index.settings["row_bytes"] == recipe.index.row_bytes + index.settings["input_dim"] // 2


@pytest.mark.slow
def test_full_disk_gives_one_line_and_no_half_model(finished):
    # The limit on the size of a file stands for a full disk: embeddings fit, weights do not.
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from csr_hf.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = [str(finished / "recipe.yaml"), "--output-dir", str(finished / "full"), "--training.save_steps", "0"]
    done = subprocess.run(
        [sys.executable, "-c", script, "train", *arguments, "--no-progress"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"File too large. Free some space in {finished / 'full'}, or choose another folder" in done.stderr
    assert "Then go on with: csr-hf train" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (finished / "full").iterdir()) == ["state.json", "training_log.jsonl"]


def test_heads_record_the_settings_of_their_backbone(tiny_folder, tmp_path):
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(8)))
    settings = {"prompts": {"document": "passage"}, "truncate_dim": 16, "max_seq_length": 9, "similarity": "dot"}
    backbone = {"name_or_path": str(tiny_folder("e5")), "device": "cpu", **settings}
    content = {"backbone": backbone, "data": {"source": str(tmp_path / "texts.jsonl")}, "model": {"k": 4}}
    recipe = RunRecipe.from_dict({**content, "output_dir": str(tmp_path / "run")})
    data = embed(recipe)
    head = first_head(recipe, data)
    assert head.config.base_model_settings == settings
    assert (data.dim, data.backbone.similarity_fn_name) == (16, "dot")
    expected = data.backbone.embed(["text 3"], task="document")
    np.testing.assert_allclose(data.sources[0].vectors["text"].to_numpy()[3:4], expected, atol=2e-3)
    # A head that is trained further is one of this run's backbone.
    head.config.base_model_settings = {"dtype": "float16"}
    head.save_pretrained(tmp_path / "head")
    recipe.model.init = str(tmp_path / "head")
    assert first_head(recipe, data).config.base_model_settings == settings
