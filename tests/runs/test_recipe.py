from pathlib import Path

import pytest
import yaml

from csr_hf.runs.recipe import RunRecipe
from csr_hf.training.arguments import CSRTrainingArguments

FILES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
LAUNCHES = [path for path in FILES if path.parent.name == "accelerate_configs"]
RECIPES = [path for path in FILES if path not in LAUNCHES]


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_accelerate_takes_the_configurations(path):
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(path))
    assert loaded.distributed_type == "MULTI_GPU"
    assert loaded.num_processes >= 2
    assert f"--config_file recipes/accelerate_configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_that_come_along_are_valid_and_round_trip(path, tmp_path):
    recipe = RunRecipe.load(path)
    recipe.save(tmp_path / "resolved.yaml", {"results": {"loss": 0.1}})
    assert RunRecipe.load(tmp_path / "resolved.yaml") == recipe
    resolved = yaml.safe_load((tmp_path / "resolved.yaml").read_text())
    assert resolved["versions"]["torch"]
    assert resolved["results"] == {"loss": 0.1}


def test_defaults_fill_what_is_missing():
    assert RunRecipe.from_dict({}) == RunRecipe()
    assert RunRecipe.from_dict({"model": None}).model.k == 32


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {k: 16, hidden_dim: 512}\n")
    recipe = RunRecipe.load(path, {"model.k": 8, "training.learning_rate": "1e-3", "output_dir": "elsewhere"})
    assert (recipe.model.k, recipe.model.hidden_dim, recipe.output_dir) == (8, 512, "elsewhere")
    assert recipe.training.learning_rate == 1e-3


def test_preset_gives_what_the_file_leaves_out():
    recipe = RunRecipe.from_dict({"training": {"preset": "csr", "max_steps": 7}})
    assert recipe.training == CSRTrainingArguments.from_preset("csr", max_steps=7)


def test_preset_over_a_resolved_recipe_is_refused():
    resolved = RunRecipe().to_dict()
    with pytest.raises(ValueError, match=r"`training.preset` would change nothing.*Take the recipe that the run was"):
        RunRecipe.from_dict(resolved, {"training.preset": "csr"})
    given = {"training": {"max_steps": 7, "learning_rate": 0.1}}
    recipe = RunRecipe.from_dict(given, {"training.preset": "csr"})
    assert recipe.training == CSRTrainingArguments.from_preset("csr", max_steps=7, learning_rate=0.1)


def test_keys_inside_mappings_are_overridden_one_by_one():
    given = {"data": {"columns": {"anchor": "a", "positive": "p"}}, "backbone": None}
    overrides = {"data.columns.anchor": "q", "training.reconstruction.0.25": 0.5, "backbone.batch_size": 4}
    recipe = RunRecipe.from_dict(given, overrides)
    assert recipe.data.columns == {"anchor": "q", "positive": "p"}
    assert recipe.training.reconstruction == {"0.25": 0.5}
    assert recipe.backbone.batch_size == 4
    # The dictionaries are the caller's.
    assert given == {"data": {"columns": {"anchor": "a", "positive": "p"}}, "backbone": None}


def test_settings_of_a_backbone_are_keys_and_round_trip(tmp_path):
    given = {"prompts": {"query": "query", "anchor": "ask: "}, "truncate_dim": 16, "dtype": "bfloat16"}
    overrides = {"backbone.prompts.document": "passage", "backbone.similarity": "dot"}
    recipe = RunRecipe.from_dict({"backbone": given}, overrides)
    recorded = {**given, "similarity": "dot", "prompts": {**given["prompts"], "document": "passage"}}
    assert recipe.backbone.to_record() == recorded
    recipe.save(tmp_path / "recipe.yaml")
    assert RunRecipe.load(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trainin": {}}, r"`trainin` is not a key of a recipe. Did you mean `training`\?"),
        ({"training": {"max_step": 3}}, r"`training.max_step` .*Did you mean `training.max_steps`\?"),
        ({"data": {"zzz": 3}}, r"`data.zzz` .*Known: source,"),
        ({"training": {"max_steps": "many"}}, r"`training.max_steps` \('many'\)"),
        ({"training": {"max_steps": 0}}, r"^`training\.max_steps` \(0\): should be greater than or equal to 1\.$"),
        ({"training": {"presett": "csr"}}, r"`training.presett` is not a setting. Did you mean `training.preset`\?"),
        ({"training": {"zzz": 1}}, r"`training.zzz` is not a setting. Known: preset, output_dir, max_steps, "),
        ({"training": {"preset": "best"}}, r"`preset` \('best'\) is unknown. Choose one of: csr, "),
        ({"model": 3}, r"`model` \(3\) must be a section with keys: hidden_dim"),
        ({"evaluation": {"ks": 8}}, r"`evaluation.ks` \(8\)"),
        ({"evaluation": {"baselines": ["pca", "pqq"]}}, r"`evaluation.baselines.1` \('pqq'\).*Did you mean `pq`"),
        ({"training": {"output_dir": "x"}}, r"`training.output_dir` \('x'\).*Remove this key and set `output_dir`"),
        ({"training": {"eval_steps": 5}, "data": {"held_out": 0}}, r"`training.eval_steps` \(5\) needs held-out rows"),
        ({"training": {"early_stopping_patience": 5}}, r"`early_stopping_patience` \(5\) needs evaluations"),
        ({"data": {"held_out": 1.5}}, r"`data.held_out` \(1.5\)"),
        ({"backbone": {"dtype": "int8"}}, r"`backbone.dtype` \('int8'\)"),
        ({"backbone": {"promts": {}}}, "Did you mean `backbone.prompts`"),
        ({"backbone": {"model_kwargs": {"token": "x"}}}, "`model_kwargs.token` is not passed on"),
        ({"backbone": {"trust_remote_code": True}}, "`backbone.trust_remote_code` is for the caller alone to say"),
        ([], "a recipe is a mapping of sections, not list"),
    ],
)
def test_mistakes_are_named(content, message):
    with pytest.raises(ValueError, match=message):
        RunRecipe.from_dict(content)


@pytest.mark.parametrize(
    ("given", "expected"), [("4x", 1536), ("2.5x", 960), (100, 100), ("100", 100), ("x", None), ("four", None)]
)
def test_hidden_dim_as_a_multiple(given, expected):
    recipe = RunRecipe.from_dict({"model": {"hidden_dim": given}})
    if expected is None:
        with pytest.raises(ValueError, match=r"`model.hidden_dim`"):
            recipe.model.hidden_dim_for(384)
    else:
        assert recipe.model.hidden_dim_for(384) == expected


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        RunRecipe.load(tmp_path / "none.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("model: {k: 16\n")
    with pytest.raises(ValueError, match=r"broken.yaml is not valid YAML"):
        RunRecipe.load(path)
    with pytest.raises(ValueError, match=r"`model.k.x` is unknown"):
        RunRecipe.from_dict({"model": {"k": 3}}, {"model.k.x": 1})


OTHER_DATA = {
    "backbone": {"name_or_path": "some/backbone", "batch_size": 7},
    "data": {"source": "docs.csv", "limit": 30, "max_characters": 300, "columns": {"text": "body"}, "held_out": 0.2},
    "index": {"questions": ["How?"], "k": 8},
}


def load_with(tmp_path, caplog, **overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(OTHER_DATA))
    with caplog.at_level("INFO"):
        return RunRecipe.load(path, {key.replace("__", "."): value for key, value in overrides.items()})


def test_what_a_recipe_says_of_its_data_does_not_hold_for_other_data(tmp_path, caplog):
    recipe = load_with(tmp_path, caplog, data__source="faq.csv", data__columns={"anchor": "q", "positive": "a"})
    assert (recipe.data.source, recipe.data.limit, recipe.data.max_characters) == ("faq.csv", None, None)
    assert recipe.data.columns == {"anchor": "q", "positive": "a"}
    assert recipe.index.questions == []
    # What is said of the run stays.
    assert (recipe.data.held_out, recipe.index.k, recipe.backbone.name_or_path) == (0.2, 8, "some/backbone")
    said = "left out what it says of docs.csv: data.limit, data.max_characters, index.questions"
    assert said in caplog.text


def test_what_flags_say_of_other_data_holds(tmp_path, caplog):
    questions = ["Why?"]
    recipe = load_with(tmp_path, caplog, data__source="faq.csv", data__limit=9, index__questions=questions)
    assert (recipe.data.limit, recipe.index.questions) == (9, questions)
    assert "data.limit" not in caplog.text
    several = load_with(tmp_path, caplog, data__sources=[{"source": "a.csv"}, {"source": "b.csv"}])
    assert (several.data.source, several.data.limit) == ("", None)


def test_the_same_data_keeps_what_the_recipe_says_of_it(tmp_path, caplog):
    recipe = load_with(tmp_path, caplog, data__source="docs.csv", data__sources=[])
    assert (recipe.data.limit, recipe.data.columns, recipe.index.questions) == (30, {"text": "body"}, ["How?"])
    assert load_with(tmp_path, caplog, model__k=8).data.limit == 30
    assert not caplog.text


@pytest.mark.parametrize(
    "given", [{"data__source": "a.npy"}, {"data__source": "a.parquet", "data__columns": {"embedding": "vector"}}]
)
def test_embeddings_take_no_backbone_from_a_recipe_for_texts(tmp_path, caplog, given):
    recipe = load_with(tmp_path, caplog, **given)
    assert recipe.backbone.name_or_path is None
    assert recipe.backbone.batch_size == 7
    assert "backbone.name_or_path" in caplog.text
    named = load_with(tmp_path, caplog, **given, backbone__name_or_path="own/model")
    assert named.backbone.name_or_path == "own/model"
