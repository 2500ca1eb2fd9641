"""What `accelerate launch` passes on, as its own subprocesses and as variables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from csr_hf.plumbing.launcher import check_launcher, launched_processes, launched_settings

ROOT = Path(__file__).parents[2]
TAKEN = ("ACCELERATE_", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_", "MV2_COMM_", "MASTER_", "RANK", "LOCAL_RANK")

SHOW = """
import json, sys
from csr_hf.plumbing.launcher import check_launcher, launched_settings
check_launcher()
print(json.dumps(launched_settings("no", 1)))
"""


@pytest.fixture
def launched(monkeypatch):
    """Sets variables as a launcher would; none of this machine are left."""
    for name in list(os.environ):
        if name.startswith(TAKEN):
            monkeypatch.delenv(name)

    def launch(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def accelerate_launch(folder, *flags, **variables):
    """Start a script that prints the settings it was launched with."""
    (folder / "show.py").write_text(SHOW)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(TAKEN)}
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *flags, str(folder / "show.py")],
        env=environment | {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder), **variables},
        capture_output=True,
        text=True,
    )


def test_without_a_launcher_nothing_changes(launched):
    check_launcher()
    assert launched_processes() == 1
    assert launched_settings("bf16", 4) == {"mixed_precision": "bf16", "gradient_accumulation_steps": 4}


def test_what_the_launcher_says_holds_where_the_settings_say_nothing(launched):
    launched(ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="8", WORLD_SIZE="4")
    check_launcher()
    assert launched_processes() == 4
    wanted = {"mixed_precision": "bf16", "gradient_accumulation_steps": 8}
    assert launched_settings("no", 1) == wanted == launched_settings("bf16", 8)


def test_two_different_wishes_are_refused(launched):
    launched(ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="8")
    with pytest.raises(
        ValueError, match=r"`training.mixed_precision` is fp16, and accelerate was told bf16. Take one"
    ):
        launched_settings("fp16", 1)
    with pytest.raises(ValueError, match=r"`training.gradient_accumulation_steps` is 2, and accelerate was told 8"):
        launched_settings("no", 2)
    # Accelerate passes "no" when nothing is said, so it is no wish.
    launched(ACCELERATE_MIXED_PRECISION="no", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="1")
    assert launched_settings("fp16", 2) == {"mixed_precision": "fp16", "gradient_accumulation_steps": 2}
    launched(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="auto")
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps` \(auto\) is no number"):
        launched_settings("no", 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP, which csr_hf does not support"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which csr_hf does not support"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM, which csr_hf does not support"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism_config, which csr_hf does not support"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, r"`dynamo_backend` \(INDUCTOR\).*--dynamo_backend no"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, r"`mixed_precision` \(fp8\).*--mixed_precision bf16 or no"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"},
            "several processes on the CPU, and its --cpu starts one.*torchrun --nproc_per_node N",
        ),
    ],
)
def test_what_is_not_supported_is_refused_in_a_line(launched, variables, message):
    launched(**variables)
    with pytest.raises(ValueError, match=message) as caught:
        check_launcher()
    assert "\n" not in str(caught.value)
    if "which csr_hf" in message:
        assert "accelerate launch --multi_gpu --num_processes N" in str(caught.value)


def test_tpus_are_refused(launched, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_torch_xla_available", lambda: True)
    with pytest.raises(ValueError, match=r"TPUs \(torch_xla\), which csr_hf does not support"):
        check_launcher()


def test_refusals_come_before_any_work(launched, tmp_path, embeddings):
    from csr_hf import CSRTrainer, CSRTrainingArguments
    from csr_hf.plumbing.distributed import processes
    from tests.conftest import make_head

    launched(ACCELERATE_USE_FSDP="true")
    with pytest.raises(ValueError, match="FSDP"), processes():
        pass
    with pytest.raises(ValueError, match="FSDP"):
        CSRTrainer(make_head(), CSRTrainingArguments(output_dir=str(tmp_path)), embeddings)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_accelerate_passes_on_what_was_configured(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nnum_machines: 1\n"
        "num_processes: 1\nuse_cpu: true\n"
    )
    done = accelerate_launch(
        tmp_path, "--config_file", str(tmp_path / "config.yaml"), ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"mixed_precision": "bf16", "gradient_accumulation_steps": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--use_fsdp", "--num_processes", "1", "--fsdp_offload_params", "false"], "set up for FSDP"),
        (["--cpu", "--num_processes", "2"], "its --cpu starts one"),
        (["--cpu", "--num_processes", "1", "--dynamo_backend", "inductor"], "`dynamo_backend`"),
    ],
)
def test_accelerate_launches_what_is_refused(tmp_path, flags, message):
    done = accelerate_launch(tmp_path, *flags)
    assert done.returncode != 0
    assert message in done.stderr
