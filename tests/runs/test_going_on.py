"""The same command goes on where it stopped and ends with the same bits; anything else is refused, or starts over."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from csr_hf import CSRModel, InvertedIndex, Results, RunData, RunRecipe, Source
from csr_hf.cli.main import main
from csr_hf.runs import pipeline
from csr_hf.runs.embedding import embed
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.indexing import index
from csr_hf.runs.state import RunState, check_recipe
from csr_hf.runs.training import train
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.trainer import CSRTrainer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with embeddings in `vectors.npy`, float32, (300, 16), and a finished run on them; to be read."""
    folder = tmp_path_factory.mktemp("base")
    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    pipeline.run(recipe(folder, folder / "run"))
    return folder


@pytest.fixture
def rows(base):
    """The embeddings; whatever a test writes in their place goes at its end."""
    path, rows = base / "vectors.npy", np.load(base / "vectors.npy")
    yield rows
    np.save(path, rows)


@pytest.fixture
def run(base, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(base / "run", tmp_path / "run")


def recipe(base, output, **keys):
    settings = {
        "output_dir": str(output),
        "data.source": str(base / "vectors.npy"),
        "data.held_out": 0.2,
        "model.hidden_dim": 64,
        "model.k": 4,
        "training.max_steps": 30,
        "training.per_device_train_batch_size": 32,
        "training.save_steps": 5,
        "training.logging_steps": 10,
        "evaluation.ks": [4],
        "evaluation.baselines": [],
        "index.copies": ["float16"],
    }
    return RunRecipe.from_dict({}, settings | keys)


def words(base, output, *flags, command="run"):
    """The command line of `recipe`."""
    path = output.parent / "recipe.json"
    path.write_text(json.dumps(recipe(base, output).to_dict()))
    return [command, str(path), "--no-progress", *flags]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def fingerprint(folder):
    return CSRModel.from_pretrained(folder / "model").fingerprint


def answers(folder):
    """Scores of the results, and what the index answers."""
    results = [(row.method, row.metric, row.k, row.score) for row in Results.load(folder).rows]
    index = InvertedIndex.load(folder / "index")
    queries = np.random.default_rng(0).standard_normal((20, index.settings["input_dim"])).astype(np.float32)
    return results, index.search(queries, 5)


def assert_equal(first, second):
    assert fingerprint(first) == fingerprint(second)
    (results, hits), (others, other_hits) = answers(first), answers(second)
    assert results == others
    for left, right in zip(hits, other_hits, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_finished_run_is_not_done_again(base, run, capsys):
    before = files(run)
    # Where the embeddings are, how often is saved and on which device says nothing of the result.
    assert main(words(base, run, "--training.save_steps", "7", "--cache-dir", str(run.parent / "else"))) == 0
    said = capsys.readouterr().out
    for line in ("training   done before", "results    measured before", "index      built before"):
        assert line in said
    assert files(run) == before


def test_what_is_missing_is_made_again(base, run):
    shutil.rmtree(run / "index")
    (run / "results.json").unlink()
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step_0000030")
    pipeline.run(recipe(base, run))
    assert_equal(base / "run", run)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--training.max_steps", "40"],
            "holds a run with training.max_steps 30, this recipe says 40: choose another --output-dir, or start over "
            "with --overwrite. In another folder, model.init={run} trains this head on.",
        ),
        (["--k", "5"], "holds a run with model.k 4, this recipe says 5: choose another --output-dir, or start over "),
        (["--data.held_out", "0.3"], "holds a run with data.held_out 0.2, this recipe says 0.3"),
        (
            ["--training.seed", "1", "--index.k", "3", "--training.beta", "0", "--data.limit", "9"],
            "(1 more keys differ)",
        ),
    ],
)
def test_another_recipe_is_refused_with_what_differs(base, run, capsys, flags, said):
    before = files(run)
    for command in ("run", "train"):
        assert main(words(base, run, *flags, command=command)) == 2
        error = capsys.readouterr().err
        assert said.format(run=run) in error and error.count("\n") == 1
    assert files(run) == before


def test_any_changed_row_is_noticed(base, run, rows):
    before = files(run)
    for row in (0, 137, 299):
        changed = rows.copy()
        changed[row, 5] += 1e-3
        np.save(base / "vectors.npy", changed)
        with pytest.raises(
            ValueError, match=r"run holds a run on other data: rows of .*vectors.* have changed: choose"
        ):
            pipeline.run(recipe(base, run))
    np.save(base / "vectors.npy", rows[:-1])
    with pytest.raises(ValueError, match=r"on other data: .* had 300 rows and has 299: choose another --output-dir"):
        pipeline.run(recipe(base, run))
    assert files(run) == before


def test_another_head_in_the_place_of_the_own_one_is_refused(base, run):
    head = CSRModel.from_pretrained(run / "model")
    head.latent_bias.data += 0.1
    head.save_pretrained(run / "model")
    with pytest.raises(
        ValueError, match=r"model is another head \(\w{16}\) than the one of this run \(\w{16}\): choose"
    ):
        pipeline.run(recipe(base, run))


def test_a_folder_of_unknown_making_is_refused(base, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"run holds results\.json, checkpoints of an earlier run or training: choose"
    ):
        check_recipe("a run", recipe(base, tmp_path / "run"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("own files are no obstacle")
    check_recipe("a run", recipe(base, tmp_path / "notes"))


def test_a_damaged_state_is_named(base, run):
    for content in ("{", "[]", '{"format": "other"}', '{"format": "csr_hf.run/1", "size": 3}'):
        (run / "state.json").write_text(content)
        with pytest.raises(ValueError, match=r"state\.json is damaged .*--overwrite"):
            check_recipe("a run", recipe(base, run))


@pytest.mark.parametrize("way", ["run", "train", "python"])
def test_no_figure_of_an_earlier_head_is_left(base, run, capsys, way):
    (run / "mine.txt").write_text("mine")
    (run / "evaluation").mkdir()
    shutil.copy(run / "results.json", run / "evaluation")
    assert main(["card", str(run), str(run)]) == 0
    capsys.readouterr()
    first, other = fingerprint(run), recipe(base, run, **{"training.seed": 1})
    if way == "python":
        train(other, embed(other), overwrite=True)
    else:
        assert main(words(base, run, "--training.seed", "1", "--overwrite", command=way)) == 0
        assert "overwrite  removed results.json, results.md" in capsys.readouterr().out
    assert fingerprint(run) != first
    expected = {"checkpoints", "mine.txt", "model", "recipe.yaml", "state.json", "training_log.jsonl"}
    if way == "run":
        expected |= {"results.json", "results.md", "retention.png", "index"}
        assert InvertedIndex.load(run / "index").head == fingerprint(run)
    assert {path.name for path in run.iterdir()} | {"retention.png"} == expected | {"retention.png"}
    for path in run.rglob("*"):
        assert not path.is_file() or first.encode() not in path.read_bytes(), path


def test_figures_are_gone_before_another_head_is_there(base, run, monkeypatch):
    """Whenever a training that starts over is stopped, no figure stands beside a head that is not its own."""
    folder = RunFolder.of(run)

    def stopped(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(CSRTrainer, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe(base, run, **{"training.seed": 1}), overwrite=True)
    assert (folder.measured, folder.model.exists(), folder.recipe.exists()) == ([], False, False)


def test_an_interrupted_command_that_started_over_goes_on_without_the_flag(base, run, capsys, monkeypatch):
    def stopped(self, *_, **__):
        raise KeyboardInterrupt

    call = words(base, run, "--training.seed", "1", "--overwrite")
    monkeypatch.setattr(CSRTrainer, "train", stopped)
    assert main(call) == 130
    way_on = capsys.readouterr().err.splitlines()[-1].split()
    assert way_on == ["csr-hf", *call[:-1]]
    monkeypatch.undo()
    assert main(way_on[1:]) == 0


def test_wrong_input_with_overwrite_costs_nothing(base, run, capsys):
    before = files(run)
    for flags in (["--k", "1000"], ["--data.source", "gone.npy"], ["--training.contrast=pairs", "--training.gamma=1"]):
        assert main(words(base, run, *flags, "--overwrite")) == 2
    (run / "README.md").write_text("written by a person")
    assert main(words(base, run, "--overwrite")) == 2
    assert "README.md was written or changed by a person, and may quote the head" in capsys.readouterr().err
    (run / "README.md").unlink()
    assert files(run) == before


def test_a_trainer_of_its_own_leaves_a_run_alone(run, rows):
    before = files(run)
    args = CSRTrainingArguments(output_dir=str(run), max_steps=3, per_device_train_batch_size=32)
    head = CSRModel.from_pretrained(run / "model")
    with pytest.raises(ValueError, match=r"run holds results\.json, .*index of an earlier head\. Choose another"):
        CSRTrainer(head, args, rows).train()
    assert files(run) == before


def test_an_index_is_not_put_over_a_run_nor_over_another_index(base, run, rows, tmp_path, capsys):
    np.save(tmp_path / "more.npy", rows[:50])
    call = ["index", "--corpus", str(tmp_path / "more.npy"), "--head", str(base / "run"), "--no-progress"]
    call += ["--backbone", "none/none"]
    before = files(run)
    assert main([*call, "--output-dir", str(run)]) == 2
    assert f"{run} holds a run, and this would be an index: choose" in capsys.readouterr().err
    assert files(run) == before
    there = ["--output-dir", str(tmp_path / "there")]
    for said in ("50 documents", "built before"):
        assert main([*call, *there]) == 0
        assert said in capsys.readouterr().out
    np.save(tmp_path / "more.npy", rows[:40])
    assert main([*call, *there]) == 2
    assert "had 50 rows and has 40" in capsys.readouterr().err
    assert main([*call, *there, "--overwrite"]) == 0
    assert len(InvertedIndex.load(tmp_path / "there" / "index")) == 40


def test_another_head_of_the_same_name_is_noticed(base, run, tmp_path):
    keys = {"model.init": str(run), "model.k": 4}
    index(recipe(base, tmp_path / "there", **keys))
    head = CSRModel.from_pretrained(run / "model")
    head.latent_bias.data += 0.1
    head.save_pretrained(run / "model")
    with pytest.raises(
        ValueError, match=r"there holds an index with the head \w{16}, and .*run is now \w{16}: choose"
    ):
        index(recipe(base, tmp_path / "there", **keys))


def test_the_head_to_start_from_is_not_written_over(base, run, capsys):
    for command in ("run", "index"):
        assert main(words(base, run, "--model.init", str(run), "--overwrite", command=command)) == 2
        assert "is where the head comes from. Choose another folder." in capsys.readouterr().err
    assert RunFolder.of(run).is_run


def test_a_second_process_is_refused(base, run):
    before, (ours, theirs) = files(run), os.pipe()
    child = os.fork()
    if child == 0:
        import fcntl

        fcntl.flock(os.open(run, os.O_RDONLY), fcntl.LOCK_EX)
        os.write(theirs, b"locked")
        time.sleep(600)
    assert os.read(ours, 6) == b"locked"
    with pytest.raises(ValueError, match=r"another process writes to .*run\. Wait until it ends, or choose another"):
        pipeline.run(recipe(base, run), overwrite=True)
    assert files(run) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pipeline.run(recipe(base, run))


KILLS = """
import os, shutil, signal, sys, time, traceback
import numpy as np
from csr_hf.runs import pipeline
from csr_hf.runs.recipe import RunRecipe

def start(output):
    child = os.fork()
    if child == 0:
        try:
            pipeline.run(RunRecipe.load(sys.argv[1], {"output_dir": output}))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return child

began, rng = time.perf_counter(), np.random.default_rng(0)
assert os.waitpid(start(sys.argv[2] + "/whole"), 0)[1] == 0
whole, killed, cut = time.perf_counter() - began, 0, sys.argv[2] + "/cut"
while killed < int(sys.argv[3]):
    child = start(cut)
    time.sleep(rng.uniform(0.1, 1) * whole)
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        # It ended before: once more from the beginning, for a shorter time.
        assert status == 0
        shutil.rmtree(cut)
        whole *= 0.8
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed += 1
"""


def go_on_after_kills(base, tmp_path, times):
    """Run to the end, and elsewhere with kills at random moments; both are equal."""
    path = words(base, tmp_path / "none")[1]
    call = [sys.executable, "-c", KILLS, path, str(tmp_path), str(times)]
    done = subprocess.run(call, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    pipeline.run(recipe(base, tmp_path / "cut"))
    assert_equal(tmp_path / "whole", tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob(".*.*.*"))


def test_a_run_that_was_killed_goes_on_to_the_same_bits(base, tmp_path):
    go_on_after_kills(base, tmp_path, 1)


@pytest.mark.slow
def test_a_run_that_was_killed_many_times_goes_on_to_the_same_bits(base, tmp_path):
    go_on_after_kills(base, tmp_path, 40)


def test_the_order_of_sources_counts(base):
    vectors = np.load(base / "vectors.npy")
    sources = [Source(name, ("text",), np.zeros(300, bool), vectors={"text": vectors}) for name in ("a", "b")]
    states = [
        RunState.of("a run", recipe(base, base / "run"), RunData(None, order), None)
        for order in (sources, sources[::-1])
    ]
    assert states[0].data == states[1].data[::-1] != states[0].data[::-1]
