"""What recipes and pages say of defaults is what the code does."""

import re

import pytest
import yaml

from csr_hf import MTEBArguments, RunRecipe
from csr_hf.evaluation.methods import CSRSearch
from csr_hf.runs.recipe import EvaluationArguments
from csr_hf.training.arguments import PRESETS, CSRTrainingArguments
from tests.helpers.scripts import ROOT

RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if "accelerate_configs" not in path.parts)


def read(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_set_no_width_of_a_search_of_their_own(path):
    """A run without a recipe searches as widely as those that are published."""
    given = yaml.safe_load(path.read_text(encoding="utf-8")).get("evaluation", {})
    assert not {"query_k_factor", "candidates", "rerank", "baselines"} & given.keys()


def test_a_search_is_as_wide_everywhere():
    own = EvaluationArguments()
    assert CSRSearch() == (own.query_k_factor, own.candidates, tuple(own.rerank))
    # An evaluation takes what the run was measured with.
    assert (MTEBArguments().query_k_factor, MTEBArguments().candidates) == (None, None)
    assert f"many candidates as the recipe says, {own.candidates} by default" in read("README.md")


@pytest.mark.parametrize("preset", PRESETS)
def test_page_of_training_names_rate_and_batch_of_each_preset(preset):
    row = re.search(rf"\| `{preset}`.*", (ROOT / "recipes/training.md").read_text(encoding="utf-8"))[0]
    arguments = CSRTrainingArguments.from_preset(preset)
    rate, batch = re.search(r"Adam ([\d.e-]+),", row)[1], re.search(r"batch ([\d,]+)", row)[1]
    assert float(rate) == arguments.learning_rate
    assert int(batch.replace(",", "")) == arguments.per_device_train_batch_size


def test_preset_that_is_called_the_default_is_the_default():
    assert "`csr_hf` (default)" in read("recipes/training.md")
    assert RunRecipe().training == CSRTrainingArguments.from_preset("csr_hf")
