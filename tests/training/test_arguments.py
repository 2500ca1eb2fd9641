import pytest

from csr_hf import CSRTrainingArguments
from csr_hf.training.arguments import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_can_be_overridden(preset):
    arguments = CSRTrainingArguments.from_preset(preset, max_steps=7)
    assert arguments.max_steps == 7
    for name, value in PRESETS[preset].items():
        assert getattr(arguments, name) == value
    assert CSRTrainingArguments(**arguments.to_dict()) == arguments


def test_unknown_preset_names_those_there_are():
    with pytest.raises(ValueError, match=r"`preset` \('fast'\) is unknown. Choose one of: csr, csrv2, csr_hf"):
        CSRTrainingArguments.from_preset("fast")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("per_device_train_batch_size", 1),
        ("logging_steps", 0),
        ("save_total_limit", 0),
        ("learning_rate", 0),
        ("temperature", -1),
        ("distillation_temperature", 0),
        ("beta", -0.1),
        ("auxiliary_slope", -0.1),
        ("auxiliary_slope", 1.1),
        ("gamma", -1),
        ("balance", -1),
        ("max_grad_norm", -1),
        ("save_steps", -1),
        ("warmup_ratio", 1),
        ("lr_scheduler_type", "linear"),
        ("mixed_precision", "fp8"),
        ("reconstruction", {}),
        ("reconstruction", {"0": 1.0}),
        ("reconstruction", {"1": -1.0}),
        ("reconstruction", {"1": float("nan")}),
        ("reconstruction", {"one": 1.0}),
        ("reconstruction", {"inf": 1.0}),
        ("reconstruction", {"1": 0.0}),
        ("adam_epsilon", -1),
        ("max_steps", 2.5),
        ("max_steps", "100"),
        ("max_steps", True),
        ("save_steps", None),
        ("seed", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "fast"),
        ("gamma", None),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"`{name}(\.\w+)?`"):
        CSRTrainingArguments(**{name: value})


@pytest.mark.parametrize("name", ["gamma", "learning_rate", "warmup_ratio"])
def test_booleans_are_no_numbers(name):
    for value in (True, False):
        with pytest.raises(ValueError, match=rf"^`{name}` \({value}\): should be a number, not a boolean\.$"):
            CSRTrainingArguments(**{name: value})


def test_multiples_from_yaml_may_be_numbers():
    assert CSRTrainingArguments(reconstruction={1: 1, 0.25: 2}).reconstruction == {"1": 1.0, "0.25": 2.0}


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert CSRTrainingArguments(learning_rate="2e-3").learning_rate == 2e-3


def test_weights_do_not_depend_on_where_a_run_writes():
    first, second = (CSRTrainingArguments(output_dir=name, logging_steps=7).decisive() for name in "ab")
    assert first == second == CSRTrainingArguments().decisive()
    assert first != CSRTrainingArguments(seed=1).decisive()
