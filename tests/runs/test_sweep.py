import json
import shlex

import numpy as np
import pytest
import yaml

from csr_hf import CSRModel, Results
from csr_hf.cli.main import main
from csr_hf.evaluation.sweep_plot import find_varied, shorten_names, sweep_points
from csr_hf.training.trainer import CSRTrainer

PAIRS = {"anchor": "question", "positive": "answer"}


def make_rows(count, seed=0):
    """Unit rows near a few directions, float32, shape (count, 12)."""
    rng = np.random.default_rng(seed)
    rows = rng.random((count, 20)) * (rng.random((count, 20)) < 0.15) @ rng.standard_normal((20, 12))
    rows += 0.05 * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def recipe(tmp_path):
    """A recipe for embeddings alone, in `recipe.yaml`."""
    np.save(tmp_path / "rows.npy", make_rows(300))
    return write_recipe(tmp_path, "recipe.yaml", {"source": str(tmp_path / "rows.npy")})


def write_recipe(folder, name, data):
    content = {
        "output_dir": str(folder / "sweep"),
        "data": {"held_out": 0.3, **data},
        "model": {"hidden_dim": 32, "k": 4, "k_aux": 2},
        "training": {"max_steps": 20, "per_device_train_batch_size": 32},
    }
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def start(recipe, *flags):
    return main(["sweep", str(recipe), "--no-progress", *map(str, flags)])


def test_budgets_of_a_recipe_are_not_measured_for_every_combination(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "evaluation": {"bytes": [8, 16]}}))
    assert start(recipe, "--k", "2") == 0
    methods = {row.method.partition(", hidden_dim")[0] for row in Results.load(tmp_path / "sweep").rows}
    assert methods == {"dense", "CSR", "CSR, decoded"}


def test_every_combination_is_measured_once(recipe, tmp_path, capsys):
    call = [recipe, "--hidden-dim", "32,4x"]
    assert start(*call, "--k", "2,8", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    folder = tmp_path / "sweep"
    results = Results.load(folder)
    assert [row["score"] for row in said["results"]["rows"]] == [row.score for row in results.rows]
    assert said["files"] == ["results.json", "results.md", "sweep.png"]
    runs = results.details["runs"]
    assert [(run["hidden_dim"], run["k"]) for run in runs] == [(32, 2), (32, 8), (48, 2), (48, 8)]
    assert all(run["max_steps"] == 20 and 0 <= run["dead_fraction"] <= 1 and run["seconds"] > 0 for run in runs)
    assert len(results.select(method="dense")) == 1
    for run in runs:
        assert run["head"] == CSRModel.from_pretrained(folder / run["folder"] / "model").fingerprint
        for method in ("CSR", "CSR, decoded"):
            (row,) = results.select(method=f"{method}, hidden_dim {run['hidden_dim']}, 20 steps", k=run["k"])
            assert run["scores"][method] == row.score > 0
            assert row.n_queries and row.interval
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    models = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    assert len([path for path in models if path.parent.name == "model"]) == 4
    capsys.readouterr()
    # With one more value, only that is trained; what another call measured stays. The batches of the backbone change
    # nothing.
    assert start(*call, "--k", "4", "--backbone.batch_size", "7") == 0
    assert capsys.readouterr().out.count("\nhead ") == 2
    assert all(path.stat().st_mtime_ns == time for path, time in models.items())
    assert sorted(run["k"] for run in Results.load(folder).details["runs"]) == [2, 2, 4, 4, 8, 8]
    points = sweep_points(Results.load(folder))
    assert {(point.method, point.row.k) for point in points} == {
        (method, k) for method in ("CSR", "CSR, decoded") for k in (2, 4, 8)
    }
    assert find_varied(points) == ["hidden_dim", "k"]
    names = {row.method for row in shorten_names(Results.load(folder)).rows}
    assert names == {"dense", *(f"{point.method}, hidden_dim {size}" for point in points for size in (32, 48))}


def test_interrupted_sweep_goes_on_to_the_same_figures(recipe, tmp_path, monkeypatch, capsys):
    flags = ["--k", "2,4", "--training.save_steps", "5"]
    assert start(recipe, *flags, "--output-dir", tmp_path / "whole") == 0
    train, seen = CSRTrainer.train, []

    def interrupted(trainer, *given, **options):
        seen.append(trainer)
        if len(seen) < 2:
            return train(trainer, *given, **options)
        train(trainer, *given, **options, until=10)
        raise KeyboardInterrupt

    monkeypatch.setattr(CSRTrainer, "train", interrupted)
    call = ["sweep", str(recipe), "--no-progress", *flags]
    assert main([*call, "--overwrite"]) == 130
    way_on = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert way_on == ["csr-hf", *call]
    monkeypatch.undo()
    assert main(way_on[1:]) == 0
    said = capsys.readouterr().out
    assert said.count("\nhead ") == 1
    assert "resumed at step 10 from " in said
    whole, resumed = (Results.load(tmp_path / name) for name in ("whole", "sweep"))
    assert resumed.rows == whole.rows
    heads = [[run["head"] for run in results.details["runs"]] for results in (whole, resumed)]
    assert heads[0] == heads[1]


@pytest.mark.slow
def test_head_that_was_replaced_is_refused_and_overwrite_trains_it_again(recipe, tmp_path, capsys):
    assert start(recipe, "--k", "2") == 0
    (run,) = Results.load(tmp_path / "sweep").details["runs"]
    folder = tmp_path / "sweep" / run["folder"] / "model"
    head = CSRModel.from_pretrained(folder)
    head.pre_bias.data += 1
    head.save_pretrained(folder)
    capsys.readouterr()
    assert start(recipe, "--k", "2") == 2
    assert f"is another head ({head.fingerprint}) than the one of this run ({run['head']})" in capsys.readouterr().err
    assert start(recipe, "--k", "2", "--overwrite") == 0
    assert Results.load(tmp_path / "sweep").details["runs"][0]["head"] == run["head"]


def test_another_recipe_is_refused_and_overwrite_starts_over(recipe, tmp_path, capsys):
    assert start(recipe, "--k", "2,4") == 0
    other = ["--k", "4", "--training.learning_rate", "0.01"]
    capsys.readouterr()
    own = tmp_path / "sweep" / "hidden_dim=32,k=2,max_steps=20" / "mine.txt"
    own.write_text("mine")
    before = sorted((tmp_path / "sweep").rglob("*"))
    assert start(recipe, *other) == 2
    said = "holds a sweep with training.learning_rate 0.002, this recipe says 0.01: choose another --output-dir, or"
    assert said in capsys.readouterr().err
    assert sorted((tmp_path / "sweep").rglob("*")) == before
    assert start(recipe, *other, "--overwrite") == 0
    results = Results.load(tmp_path / "sweep")
    assert [run["k"] for run in results.details["runs"]] == [4]
    assert {row.k for row in results.rows} == {None, 4}
    assert len(list((tmp_path / "sweep").glob("*/model"))) == 1
    assert list(own.parent.iterdir()) == [own]


def test_other_data_is_refused(recipe, tmp_path, capsys):
    assert start(recipe, "--k", "2") == 0
    rows = make_rows(300)
    rows[17, 3] += 0.01
    np.save(tmp_path / "rows.npy", rows)
    assert start(recipe, "--k", "2") == 2
    assert "holds a sweep on other data: rows of rows.npy have changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k", "2,1000"], "hidden_dim=32,k=1000,max_steps=20: `k` (1000) must not exceed `hidden_dim` (32)"),
        (["--k", "2,2"], "the combination hidden_dim=32,k=2,max_steps=20 is there 2 times"),
        (["--hidden-dim", "48,4x"], "hidden_dim=48,k=4,max_steps=20 and hidden_dim=4x,k=4,max_steps=20 are the same"),
        (["--preset", "csr,csrv2"], "preset=csrv2: `contrast` is 'pairs', and the data has no pairs"),
        (["--variant", "data.limit=50"], "`variant` sets `data.limit`, but all combinations of a sweep"),
        (["--variant", "model.k=3"], "`variant` sets `model.k`, which has a flag of its own: --k 3."),
        (["--data.held_out", "0.01"], "rows are held out, too few to measure on (20 at least): raise `data.held_out`"),
        (["--variant", "training.seed=" + "1" * 220], "too long for a folder"),
        (["--variant", "training.preset=csr"], "Set `preset` instead: --preset csr."),
    ],
)  # fmt: skip
def test_wrong_combinations_stop_a_sweep_before_the_first_training(recipe, tmp_path, capsys, flags, message):
    assert start(recipe, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_disk_that_is_too_small_is_noticed_before(recipe, tmp_path, capsys, monkeypatch):
    from csr_hf.runs import combinations

    usage = combinations.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(combinations.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert start(recipe) == 2
    assert "heads and checkpoints of 1 combinations take about" in capsys.readouterr().err


def test_runs_and_sweeps_refuse_the_folder_of_the_other(recipe, tmp_path, capsys):
    run = ["run", str(recipe), "--no-progress"]
    assert start(recipe, "--k", "2") == 0
    assert main(run) == 2
    assert "holds a sweep, and this would be a run: choose" in capsys.readouterr().err
    assert main([*run, "--overwrite"]) == 0
    assert not list((tmp_path / "sweep").glob("hidden_dim=*"))
    results = (tmp_path / "sweep" / "results.json").read_text()
    assert start(recipe, "--k", "2") == 2
    assert "holds a run, and this would be a sweep: choose" in capsys.readouterr().err
    assert (tmp_path / "sweep" / "results.json").read_text() == results


@pytest.mark.slow
def test_presets_see_the_same_number_of_examples(tmp_path, tiny_folder):
    lines = [{"question": f"what is {word}", "answer": f"{word} is a thing"} for word in map(str, range(150))]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = write_recipe(tmp_path, "faq.yaml", {"source": str(tmp_path / "faq.jsonl"), "columns": PAIRS})
    flags = ["--backbone", tiny_folder("static"), "--max-steps", "128", "--preset", "csr,csrv2,csr_hf"]
    assert start(recipe, *flags) == 0
    results = Results.load(tmp_path / "sweep")
    runs = results.details["runs"]
    assert [run["preset"] for run in runs] == ["csr", "csrv2", "csr_hf"]
    for run in runs:
        trained = yaml.safe_load((tmp_path / "sweep" / run["folder"] / "recipe.yaml").read_text())["training"]
        assert trained["max_steps"] == max(1, 128 * 32 // trained["per_device_train_batch_size"]) == run["max_steps"]
        assert trained["error"] == ("variance" if run["preset"] == "csr_hf" else "element")
        assert results.select(method=f"CSR, hidden_dim 32, {run['max_steps']} steps, preset {run['preset']}")
    # Steps follow from the preset, so no name needs them.
    assert find_varied(sweep_points(results)) == ["preset"]


@pytest.mark.slow
def test_variants_change_any_key(recipe, tmp_path):
    variants = ["--variant", "training.balance=0", "--variant", "training.k_start=8,model.init=data"]
    assert start(recipe, *variants) == 0
    results = Results.load(tmp_path / "sweep")
    first, second = results.details["runs"]
    assert first["training.balance"] == 0
    assert (second["training.k_start"], second["model.init"]) == (8, "data")
    assert results.select(method="CSR, hidden_dim 32, 20 steps, balance 0")
    assert results.select(method="CSR, decoded, hidden_dim 32, 20 steps, k_start 8, init data")
    trained = [yaml.safe_load(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/recipe.yaml"))]
    assert sorted((each["training"]["balance"], each["training"]["k_start"]) for each in trained) == [(0, 0), (2, 8)]
