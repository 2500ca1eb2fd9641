import json

import pytest
import yaml

from csr_hf import Results
from csr_hf.cli.main import main

RECIPE = {
    "data": {"limit": 120, "held_out": 0.3, "max_characters": 100},
    "model": {"hidden_dim": 256, "k": 8},
    "training": {"max_steps": 20, "per_device_train_batch_size": 64},
}


@pytest.fixture
def recipe(tmp_path, backbone, corpus):
    path = tmp_path / "recipe.yaml"
    data = {**RECIPE["data"], "source": str(corpus)}
    folders = {"output_dir": str(tmp_path / "sweep"), "cache_dir": str(tmp_path / "e")}
    path.write_text(yaml.safe_dump({**RECIPE, "data": data, **folders}))
    return path


def test_every_combination_is_measured_once(recipe, tmp_path, capsys):
    call = ["sweep", str(recipe), "--hidden-dim", "256,1x", "--k", "4,16", "--no-progress"]
    assert main(call) == 0
    results = Results.load(tmp_path / "sweep")
    runs = results.details["runs"]
    assert [(run["hidden_dim"], run["k"]) for run in runs] == [(256, 4), (256, 16), (384, 4), (384, 16)]
    assert all(run["max_steps"] == 20 and 0 <= run["dead_fraction"] <= 1 and run["seconds"] > 0 for run in runs)
    assert len(results.select(method="dense", metric="nDCG@10")) == 1
    for run in runs:
        name = f"CSR, decoded, hidden_dim {run['hidden_dim']}, 20 steps"
        (row,) = results.select(method=name, k=run["k"], metric=run["metric"])
        assert run["score"] >= row.score > 0
    assert (tmp_path / "sweep" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("model.safetensors")}
    assert len([path for path in models if path.parent.name == "model"]) == 4
    capsys.readouterr()
    # Again, with one more: only that is trained.
    assert main([*call[:-2], "4,16,32", "--no-progress"]) == 0
    assert capsys.readouterr().out.count("\nhead ") == 2
    assert all(path.stat().st_mtime_ns == time for path, time in models.items())
    assert len(json.loads((tmp_path / "sweep" / "results.json").read_text())["runs"]) == 6


@pytest.mark.slow
def test_presets_see_the_same_number_of_examples(recipe, tmp_path):
    # The data has pairs, which csrv2 contrasts.
    assert main(["sweep", str(recipe), "--k", "4", "--preset", "csr,csrv2,csr_hf", "--no-progress"]) == 0
    results = Results.load(tmp_path / "sweep")
    runs = results.details["runs"]
    assert [run["preset"] for run in runs] == ["csr", "csrv2", "csr_hf"]
    recipes = {path.parent.name.rsplit("=", 1)[1]: path for path in (tmp_path / "sweep").glob("*/recipe.yaml")}
    for run in runs:
        trained = yaml.safe_load(recipes[run["preset"]].read_text())["training"]
        assert trained["max_steps"] == max(1, 20 * 64 // trained["per_device_train_batch_size"]) == run["max_steps"]
        assert trained["error"] == ("variance" if run["preset"] == "csr_hf" else "element")
        assert results.select(method=f"CSR, hidden_dim 256, {run['max_steps']} steps, preset {run['preset']}")


def test_variants_change_any_key(recipe, tmp_path):
    variants = ["--variant", "training.balance=0", "--variant", "training.k_start=64,model.init=data"]
    assert main(["sweep", str(recipe), "--k", "4", *variants, "--no-progress"]) == 0
    results = Results.load(tmp_path / "sweep")
    first, second = results.details["runs"]
    assert first["training.balance"] == 0
    assert (second["training.k_start"], second["model.init"]) == (64, "data")
    assert results.select(method="CSR, hidden_dim 256, 20 steps, balance 0")
    assert results.select(method="CSR, decoded, hidden_dim 256, 20 steps, k_start 64, init data")
    trained = [yaml.safe_load(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/recipe.yaml"))]
    assert sorted((each["training"]["balance"], each["training"]["k_start"]) for each in trained) == [(0, 0), (2, 64)]


def test_variants_leave_presets_to_their_own_flag(recipe, tmp_path, capsys):
    assert main(["sweep", str(recipe), "--variant", "training.preset=csr", "--no-progress"]) == 2
    said = "`variant` sets `training.preset` ('csr'), which would change nothing. Set `preset` instead: --preset csr."
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_another_recipe_or_an_interruption_is_measured_anew(recipe, tmp_path, capsys):
    call = ["sweep", str(recipe), "--k", "4", "--no-progress"]
    for flags in ([], ["--training.learning_rate", "0.001"]):
        assert main([*call, *flags]) == 0
        assert capsys.readouterr().out.count("\nhead ") == 1
    (path,) = (tmp_path / "sweep").glob("*/results.json")
    content = json.loads(path.read_text())
    del content["run"]
    path.write_text(json.dumps(content))
    assert main([*call, "--training.learning_rate", "0.001"]) == 0
    assert capsys.readouterr().out.count("\nhead ") == 1


def test_sizes_that_do_not_fit_stop_the_sweep_before_the_first_training(recipe, tmp_path, capsys):
    assert main(["sweep", str(recipe), "--k", "4,1000", "--no-progress"]) == 2
    assert "`k` (1000) must not exceed `hidden_dim` (256)" in capsys.readouterr().err
    assert not list((tmp_path / "sweep").rglob("model.safetensors"))
