"""`csr-hf evaluate` and `csr_hf.evaluate_mteb` on whole runs, and the real tasks where their data is at hand."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from mteb.mocks import MOCK_TASK_TEST_GRID

from csr_hf import CSREncoder, MTEBArguments, Results, evaluate_mteb
from csr_hf.cli.main import main
from csr_hf.runs import mteb_benchmark
from csr_hf.runs.recipe import EvaluationArguments
from tests.publishing.conftest import make_head

MOCK = {task.metadata.name: type(task) for task in MOCK_TASK_TEST_GRID}


@pytest.fixture
def mock_tasks(monkeypatch):
    """mteb's mock tasks, found by name like any other."""
    module = importlib.import_module("mteb.get_tasks")
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, **MOCK})


@pytest.fixture(scope="module")
def run_folder(finished_run, tmp_path_factory):
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("benchmark") / "copy") / "first"


def evaluate(run_folder, *flags):
    return main(["evaluate", str(run_folder), "--no-progress", *map(str, flags)])


def test_command_measures_every_method_and_writes_everything(run_folder, mock_tasks, tmp_path, capsys):
    flags = ["--tasks", "MockRetrievalTask,MockSTSTask", "--k", "4,8", "--output-dir", tmp_path]
    # Without the two that take longest to fit.
    flags += ["--baselines", "truncate,pca,int8,binary,rotated,pq"]
    assert evaluate(run_folder, *flags, "--trained-on", "MockSTSTask") == 0
    said = capsys.readouterr().out
    assert "MockSTSTask: STS, cosine_spearman (the head was trained on its data)" in said
    results = Results.load(tmp_path)
    retrieval = {row.method for row in results.select(task="MockRetrievalTask")}
    assert retrieval == {
        "dense", "CSR", "CSR, decoded", "truncation", "PCA", "PQ", "int8", "binary", "rotated signs"
    }  # fmt: skip
    assert {row.method for row in results.select(task="MockSTSTask")} == retrieval
    assert {row.k for row in results.rows} == {None, 4, 8}
    assert results.details["datasets"]["MockRetrievalTask"]["id"] == MOCK["MockRetrievalTask"].metadata.dataset["path"]
    assert results.details["trained_on"] == ["MockSTSTask"]
    assert set(results.details["seconds"]["MockSTSTask"]) == {"dense", "all others"}
    assert "### MockSTSTask (the head was trained on its data)" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "retention.png").read_bytes()[:4] == b"\x89PNG"
    metas = [json.loads(path.read_text()) for path in (tmp_path / "mteb").rglob("model_meta.json")]
    names = {meta["name"] for meta in metas}
    assert names == {"sentence-transformers/all-MiniLM-L6-v2", f"local/{run_folder.name}"}
    csr = [meta for meta in metas if meta["name"].startswith("local/")]
    assert {meta["experiment_kwargs"]["k"] for meta in csr} == {4, 8}
    assert {meta["revision"] for meta in csr} == {CSREncoder.from_pretrained(run_folder, device="cpu").fingerprint}
    assert {meta["embed_dim"] for meta in csr} == {384, 512}
    assert {tuple(meta["training_datasets"]) for meta in csr} == {("MockSTSTask",)}


def test_every_method_keeps_within_given_bytes(run_folder, mock_tasks, tmp_path):
    flags = ["--tasks", "MockRetrievalTask,MockSTSTask", "--bytes", "16,50", "--output-dir", tmp_path]
    assert evaluate(run_folder, *flags, "--baselines", "truncate,int8,binary,pq") == 0
    results = Results.load(tmp_path)
    assert {(row.method, row.bytes_per_vector) for row in results.select(task="MockSTSTask")} == {
        ("dense", 1536),
        ("CSR, packed", 16),
        ("CSR, packed", 50),
        ("truncation", 16),
        ("truncation", 50),
        ("PQ", 16),
        ("PQ", 48),
        ("binary", 48),
    }
    assert results.details["budgets"] == [16, 50]
    text = (tmp_path / "results.md").read_text()
    assert "At equal bytes, share of the dense score (mean over 2 tasks)" in text
    assert "Each method has its largest setting within 16, 50 bytes" in text
    # Results of a coder are the head's, in mteb's own files too.
    metas = [json.loads(path.read_text()) for path in (tmp_path / "mteb").rglob("model_meta.json")]
    own = [meta["experiment_kwargs"] for meta in metas if meta["name"] == f"local/{run_folder.name}"]
    assert sorted(settings["bytes"] for settings in own) == [16, 50]


def test_coders_see_the_training_embeddings_whatever_the_baselines(run_folder, mock_tasks, tmp_path, monkeypatch):
    seen = []
    made = mteb_benchmark.all_methods

    def note(head, train, **more):
        seen.append(train)
        return made(head, train, **more)

    monkeypatch.setattr(mteb_benchmark, "all_methods", note)
    for name, flags in (("bytes", ["--bytes", "16"]), ("k", ["--k", "4"])):
        call = ["--tasks", "MockSTSTask", "--baselines", "truncate", *flags, "--output-dir", tmp_path / name]
        assert evaluate(run_folder, *call) == 0
    at_bytes, at_k = seen
    assert at_bytes.shape[1] == 384 and len(at_bytes) > 100 and at_k is None


def test_budgets_take_the_place_of_k():
    assert MTEBArguments().measured_ks == [4, 8, 16, 32, 64]
    assert EvaluationArguments().measured_ks == [8, 16, 32, 64]
    for kind in (MTEBArguments, EvaluationArguments):
        assert kind(bytes=[16]).measured_ks == []
        assert kind(bytes=[16], ks=[4]).measured_ks == [4]
        with pytest.raises(ValueError, match=r"`bytes\.0` \(7\)"):
            kind(bytes=[7])
    assert EvaluationArguments().measured_baselines == ["truncate", "pca", "int8", "binary"]
    assert EvaluationArguments(bytes=[16]).measured_baselines == ["truncate", "adapter", "pq", "binary", "rotated"]
    assert EvaluationArguments(bytes=[16], baselines=[]).measured_baselines == []


def test_failed_task_gives_code_1_and_the_others_go_on(run_folder, mock_tasks, tmp_path, monkeypatch, capsys):
    def broken(self, *_, **__):
        raise ConnectionError("Couldn't reach the data on the Hub")

    monkeypatch.setattr(MOCK["MockRetrievalTask"], "load_data", broken)
    flags = ["--tasks", "MockRetrievalTask,MockSTSTask", "--k", "4", "--baselines", "binary", "--output-dir", tmp_path]
    assert evaluate(run_folder, *flags) == 1
    said = capsys.readouterr().out
    assert "MockRetrievalTask could not be measured: ConnectionError: Couldn't reach the data on the Hub" in said
    assert {row.task for row in Results.load(tmp_path).rows} == {"MockSTSTask"}


def test_unknown_names_are_refused_before_anything_runs(run_folder, tmp_path, capsys):
    assert evaluate(run_folder, "--tasks", "SciFac", "--output-dir", tmp_path / "out") == 2
    assert "Did you mean: 'SciFact" in capsys.readouterr().err
    assert evaluate(run_folder, "--tasks", "SciFact", "--baselines", "pqq", "--output-dir", tmp_path / "out") == 2
    assert "Did you mean `pq`?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_templates_of_instructions_have_a_place_for_them(run_folder, tmp_path, capsys):
    assert (
        MTEBArguments(instruction_template=r"Do: {instruction}\nQ: ").instruction_template == "Do: {instruction}\nQ: "
    )
    flags = ["--tasks", "SciFact", "--instruction-template", "Instruct: ", "--output-dir", tmp_path / "out"]
    assert evaluate(run_folder, *flags) == 2
    assert "`instruction_template` ('Instruct: ') has no place for the instruction" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_head_without_its_run_leaves_out_what_must_be_fitted(run_folder, mock_tasks, tmp_path):
    found = evaluate_mteb(run_folder / "model", ["MockSTSTask"], MTEBArguments(ks=[4], output_dir=str(tmp_path)))
    assert {row.method for row in found.results.rows} == {"dense", "CSR", "CSR, decoded", "truncation", "binary"}


@pytest.mark.slow
def test_results_of_another_head_are_refused_and_overwrite_starts_over(
    mock_tasks, tmp_path, backbone, capsys, monkeypatch
):
    for name in ("first", "second"):
        head = make_head()
        head.pre_bias.data += name == "second"
        head.save_pretrained(tmp_path / name)
    flags = ["--k", "4", "--baselines", "binary", "--output-dir", tmp_path / "out"]
    assert evaluate(tmp_path / "first", "--tasks", "MockSTSTask", *flags) == 0
    before = Results.load(tmp_path / "out")
    # Other tasks join the results of the same head.
    assert evaluate(tmp_path / "first", "--tasks", "MockClassificationTask", *flags) == 0
    assert [row for row in Results.load(tmp_path / "out").rows if row.task == "MockSTSTask"] == before.rows
    capsys.readouterr()
    assert evaluate(tmp_path / "second", "--tasks", "MockSTSTask", *flags) == 2
    assert "holds results of another head. Choose another output_dir, or start over" in capsys.readouterr().err

    def stop(*_):
        raise KeyboardInterrupt

    # The command that goes on does not start over once more.
    with monkeypatch.context() as patched:
        patched.setattr("csr_hf.runs.mteb_benchmark.evaluate_tasks", stop)
        assert evaluate(tmp_path / "second", "--tasks", "MockSTSTask", *flags, "--overwrite") == 130
    said = capsys.readouterr().err
    assert "Go on with:\n  csr-hf evaluate" in said and "--overwrite" not in said
    assert evaluate(tmp_path / "second", "--tasks", "MockSTSTask", *flags, "--overwrite") == 0
    results = Results.load(tmp_path / "out")
    assert {row.task for row in results.rows} == {"MockSTSTask"}
    assert results.details["head"] != before.details["head"]
    metas = [json.loads(path.read_text()) for path in (tmp_path / "out" / "mteb").rglob("model_meta.json")]
    assert before.details["head"] not in {meta["revision"] for meta in metas}


def test_scores_on_another_revision_of_the_data_are_measured_again(mock_tasks, tmp_path, backbone):
    make_head().save_pretrained(tmp_path / "head")
    flags = ["--tasks", "MockSTSTask", "--k", "4", "--baselines", "binary", "--output-dir", tmp_path / "out"]
    assert evaluate(tmp_path / "head", *flags) == 0
    files = list((tmp_path / "out" / "mteb").rglob("MockSTSTask.json"))
    assert len(files) > 2
    for file in files:
        content = json.loads(file.read_text())
        content["dataset_revision"] = "another"
        for entry in content["scores"]["test"]:
            entry["main_score"] = 0.123
        file.write_text(json.dumps(content))
    assert evaluate(tmp_path / "head", *flags) == 0
    assert 0.123 not in {row.score for row in Results.load(tmp_path / "out").rows}


@pytest.mark.slow
def test_training_data_is_embedded_again_for_named_baselines_alone(run_folder, mock_tasks, tmp_path, capsys):
    run = shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("cache_dir: null", f"cache_dir: {tmp_path / 'cache'}"))
    flags = ["--tasks", "MockSTSTask", "--k", "4", "--output-dir", tmp_path / "out"]
    assert evaluate(run, *flags) == 0
    said = capsys.readouterr().out
    assert "adapter, pca, int8, rotated, pq, opq, rabitq are left out: they are fitted on what the head was" in said
    plain = {"dense", "CSR", "CSR, decoded"}
    assert {row.method for row in Results.load(tmp_path / "out").rows} == {*plain, "truncation", "binary"}
    assert evaluate(run, *flags, "--baselines", "int8") == 0
    assert "int8 need what the head was trained on, which is embedded again" in capsys.readouterr().out
    assert {row.method for row in Results.load(tmp_path / "out").rows} == {*plain, "int8"}


@pytest.mark.slow
def test_dense_model_scores_what_is_published_for_it(backbone, shared_data, tmp_path):
    """all-MiniLM-L6-v2 on STSBenchmark: Spearman 0.820."""
    home = shutil.copytree(shared_data / "hf_home", tmp_path / "home", copy_function=os.link)
    make_head().save_pretrained(tmp_path / "head")
    call = [sys.executable, "-m", "csr_hf.cli", "evaluate", str(tmp_path / "head"), "--tasks", "STSBenchmark"]
    call += ["--k", "16", "--baselines", "binary", "--output-dir", str(tmp_path / "out"), "--no-progress"]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (dense,) = Results.load(tmp_path / "out").select(method="dense")
    assert dense.score == pytest.approx(0.820, abs=0.001)
