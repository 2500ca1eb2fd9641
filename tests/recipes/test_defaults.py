"""What recipes and pages say of defaults is what the code does."""

import dataclasses
import inspect
import re

import pytest
import yaml

from csr_hf import RunRecipe, SearchParams, fit_index_coder
from csr_hf.runs.recipe import IndexArguments, SearchArguments
from csr_hf.training.arguments import PRESETS, CSRTrainingArguments
from tests.helpers.scripts import ROOT

RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if "accelerate_configs" not in path.parts)


def read(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_have_no_search_or_rivals_of_their_own(path):
    """A run without a recipe searches and measures as those that are published."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "search" not in given
    assert "baselines" not in given.get("evaluation", {})
    assert not {"row_bytes", "residual_bytes", "copies"} & given.get("index", {}).keys()


def test_a_search_has_the_same_defaults_everywhere():
    assert SearchArguments().params == SearchParams()
    names = [[each.name for each in dataclasses.fields(kind)] for kind in (SearchArguments, SearchParams)]
    assert names[0] == names[1]


def test_an_index_has_the_same_defaults_everywhere():
    keywords = inspect.signature(fit_index_coder).parameters
    own = IndexArguments()
    assert (own.row_bytes, own.residual_bytes) == tuple(
        keywords[name].default for name in ("row_bytes", "residual_bytes")
    )
    page = read("recipes/search.md")
    assert f"row_bytes: {own.row_bytes} #" in page
    # Of MiniLM's 384 dimensions.
    assert own.residual_bytes is None and "residual_bytes: 192 #" in page


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
