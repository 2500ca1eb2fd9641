import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.cli.parsing import parse


def test_flags_of_recipe_keys_are_read_as_yaml():
    given = ["--training.max_steps", "5", "--data.columns={anchor: q, positive: a}", "--model.k_aux", "null"]
    called = parse(["train", "recipe.yaml", *given, "--k", "7"])
    assert called.keys == {
        "training.max_steps": 5,
        "data.columns": {"anchor": "q", "positive": "a"},
        "model.k_aux": None,
    }
    assert (called.options[0].recipe, called.options[0].k) == ("recipe.yaml", 7)


def test_keys_inside_mappings_are_flags_too():
    given = ["--data.columns.anchor", "q", "--training.reconstruction.0.25=0.5"]
    for words in (["recipe.yaml", *given], [*given, "recipe.yaml"]):
        called = parse(["train", *words])
        assert called.keys == {"data.columns.anchor": "q", "training.reconstruction.0.25": 0.5}
        assert called.options[0].recipe == "recipe.yaml"


@pytest.mark.parametrize("words", [["--top-k", "3", "one", "two"], ["one", "--top-k", "3", "two"]])
def test_questions_may_stand_behind_flags(words):
    (options,) = parse(["search", "runs/q", *words]).options
    assert (str(options.run), options.question, options.top_k) == ("runs/q", ["one", "two"], 3)


@pytest.mark.parametrize(
    "words",
    [
        ["--quiet", "search", "--top-k", "3", "runs/q", "one"],
        ["--top-k", "3", "search", "runs/q", "one", "--quiet"],
        ["--top-k=3", "--quiet", "search", "runs/q", "one"],
        ["--device", "cpu", "search", "runs/q", "--quiet", "one", "--top-k", "3"],
        ["--json", "search", "runs/q", "--top-k", "3", "--quiet", "--", "one"],
    ],
)
def test_options_stand_before_and_behind_the_command(words):
    called = parse(words)
    (options,) = called.options
    assert (called.name, called.quiet, called.json) == ("search", True, "--json" in words)
    assert called.no_progress
    assert (str(options.run), options.question, options.top_k) == ("runs/q", ["one"], 3)


def test_a_command_is_found_behind_an_option_without_a_value():
    called = parse(["--skip-bad", "run", "recipe.yaml"])
    assert (called.name, called.options[0].recipe, called.options[0].skip_bad) == ("run", "recipe.yaml", True)


def test_a_question_may_be_named_like_a_command():
    assert parse(["search", "run", "run", "info"]).options[0].question == ["run", "info"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=4))
def test_what_stands_behind_two_dashes_is_taken_as_it_is(questions):
    called = parse(["search", "runs/q", "--top-k", "3", "first", "--", *questions])
    assert called.options[0].question == ["first", *questions]
    assert called.options[0].top_k == 3


def test_lists_are_split_at_commas_and_variants_repeat():
    variants = [
        "--variant",
        "training.balance=0",
        "--variant",
        "training.reconstruction={0.5: 1, 1: 2},training.beta=0.5",
    ]
    (_, arguments) = parse(["sweep", "recipe.yaml", "--hidden-dim", "1x,2x", "--k", "4, 8", *variants]).options
    assert (arguments.hidden_dim, arguments.k, arguments.preset) == (["1x", "2x"], [4, 8], [])
    assert arguments.variant == [
        {"training.balance": 0},
        {"training.reconstruction": {0.5: 1, 1: 2}, "training.beta": 0.5},
    ]
