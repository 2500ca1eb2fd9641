"""What `accelerate config` and `accelerate launch` say of a run: it arrives as environment variables."""

from __future__ import annotations

import os
from typing import Any

_UNSUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_OUR_WAY = (
    "A head is small: each process holds all of it (DDP). Use `accelerate launch --multi_gpu --num_processes N`, or a "
    "file of recipes/accelerate_configs."
)


def launched_processes() -> int:
    """Return how many processes a launcher says that it started, 1 without one."""
    return max(int(os.environ.get(name) or 1) for name in _WORLD_SIZES)


def check_launcher() -> None:
    """Refuse what `accelerate launch` may demand and csr_hf does not do.

    Raises:
        ValueError: for FSDP, DeepSpeed, Megatron-LM, a parallelism_config, TPUs, a dynamo backend or 8-bit precision,
            and if it was told to start several processes on the CPU and started one.
    """
    for variable, name in _UNSUPPORTED.items():
        if _is_set(variable):
            raise ValueError(f"accelerate is set up for {name}, which csr_hf does not support. {_OUR_WAY}")
    if _finds_xla():
        raise ValueError(f"accelerate would train on TPUs (torch_xla), which csr_hf does not support. {_OUR_WAY}")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise ValueError(
            f"accelerate's `dynamo_backend` ({backend}) is not supported: a training step is compiled already. "
            "Launch with `--dynamo_backend no`."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise ValueError(
            f"accelerate's `mixed_precision` ({precision}) is not supported. Launch with --mixed_precision bf16 or no."
        )
    if _started_too_few():
        raise ValueError(
            "`accelerate launch` was told to start several processes on the CPU, and its --cpu starts one. Use "
            "`torchrun --nproc_per_node N`, or recipes/accelerate_configs/cpu.yaml."
        )


def launched_settings(mixed_precision: str, gradient_accumulation_steps: int) -> dict[str, Any]:
    """Return the settings of a training with what `accelerate launch` says where they say nothing.

    Accelerate passes a precision always, "no" for nothing said.

    Args:
        mixed_precision: "no" (says nothing), "fp16" or "bf16".
        gradient_accumulation_steps: 1 says nothing.

    Returns:
        Both, by their names.

    Raises:
        ValueError: if both sides name a value and they differ.
    """
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or "1"
    if not steps.isdigit() or int(steps) < 1:
        raise ValueError(
            f"accelerate's `gradient_accumulation_steps` ({steps}) is no number of steps. Give 1 or more."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    return {
        "mixed_precision": _agree("mixed_precision", mixed_precision, precision, "no"),
        "gradient_accumulation_steps": _agree(
            "gradient_accumulation_steps", gradient_accumulation_steps, int(steps), 1
        ),
    }


def _agree(name: str, own: Any, launched: Any, nothing: Any) -> Any:
    if own != nothing and launched not in (own, nothing):
        raise ValueError(
            f"`training.{name}` is {own}, and accelerate was told {launched}. Take one out, or make both equal."
        )
    return launched if own == nothing else own


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y", "t")


def _finds_xla() -> bool:
    from accelerate.utils import is_torch_xla_available

    return bool(is_torch_xla_available())


def _started_too_few() -> bool:
    """Tell whether this is the one process of a launch of several on the CPU.

    For more than one process, and then alone, the launcher names the address of the first.
    """
    # Several launchers set the address; this one sets a precision too, and the size of the world never.
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    return is_launched and _is_set("ACCELERATE_USE_CPU") and not any(name in os.environ for name in _WORLD_SIZES)
