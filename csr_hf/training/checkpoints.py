"""Checkpoints of a training run: written whole or not at all, found again, pruned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.atomic import write_whole

_STATE = "trainer_state.json"


def save_checkpoint(folder: Path, model: CSRModel, states: dict[str, Any], record: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_XXXXXXX` whole, and remove all but the newest `keep` checkpoints.

    Checkpoints of later steps are left from a run that went further and was started anew; they are removed as well, so
    that the checkpoint written last is the newest.

    Args:
        folder: where checkpoints live.
        model: the head.
        states: tensors of optimizer, scheduler and scaler, by name.
        record: JSON values; must hold `step`.
        keep: number of checkpoints to keep.

    Returns:
        The folder of the checkpoint.
    """
    target = folder / f"step_{record['step']:07d}"
    with write_whole(target) as temporary:
        model.save_pretrained(temporary)
        for name, state in states.items():
            torch.save(state, temporary / f"{name}.pt")
        (temporary / _STATE).write_text(json.dumps(record, indent=2))
    checkpoints = list_checkpoints(folder)
    end = checkpoints.index(target) + 1
    for other in checkpoints[: max(0, end - keep)] + checkpoints[end:]:
        shutil.rmtree(other)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / _STATE).is_file())


def load_checkpoint(path: Path, names: list[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Load weights, states and record of a checkpoint; nothing is unpickled beyond tensors and plain values.

    Args:
        path: folder of the checkpoint.
        names: of the states to load.

    Returns:
        Weights by parameter, states by name, and the record.

    Raises:
        ValueError: if the folder is no complete checkpoint.
    """
    from safetensors.torch import load_file

    if not (path / _STATE).is_file():
        raise ValueError(f"{path} is not a checkpoint (no {_STATE}). Give a step_* folder, or True for the newest.")
    states = {name: torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True) for name in names}
    return load_file(path / "model.safetensors"), states, json.loads((path / _STATE).read_text())
