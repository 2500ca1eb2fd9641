"""Checkpoints of a training run: written whole or not at all, found again, pruned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.atomic import write_whole

_STATE = "trainer_state.json"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / f"step_{step:07d}"


def save_checkpoint(
    folder: Path,
    model: CSRModel,
    states: Mapping[str, Any],
    record: Mapping[str, Any],
    keep: int,
    best: int | None = None,
) -> Path:
    """Write `folder/step_XXXXXXX` whole, and remove all but the newest `keep` checkpoints and the best one.

    Checkpoints of later steps are left from a run that went further and was started anew; they are removed as well, so
    that the checkpoint written last is the newest.

    Args:
        folder: where checkpoints live.
        model: the head.
        states: tensors of optimizer, scheduler and scaler, by name.
        record: JSON values; must hold `step`.
        keep: number of checkpoints to keep.
        best: step whose checkpoint is kept beside them.

    Returns:
        The folder of the checkpoint.
    """
    target = checkpoint_path(folder, record["step"])
    with write_whole(target) as temporary:
        model.save_pretrained(temporary)
        for name, state in states.items():
            torch.save(state, temporary / f"{name}.pt")
        (temporary / _STATE).write_text(json.dumps(record, indent=2))
    checkpoints = list_checkpoints(folder)
    end = checkpoints.index(target) + 1
    kept = checkpoints[max(0, end - keep) : end]
    if best is not None and best <= record["step"]:
        kept.append(checkpoint_path(folder, best))
    for other in checkpoints:
        if other not in kept:
            shutil.rmtree(other)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / _STATE).is_file())


class Checkpoint(NamedTuple):
    """What was read of a checkpoint."""

    path: Path
    """Its folder."""
    weights: dict[str, torch.Tensor]
    """Of the head, by parameter."""
    states: dict[str, Any]
    """Tensors of optimizer, scheduler and scaler, by name."""
    record: dict[str, Any]
    """JSON values; `step` among them."""
    best: Path | None
    """Folder of the checkpoint of the step that its record names as the best; None if it is not there."""


def find_checkpoint(folder: Path, checkpoint: bool | str | Path, names: Sequence[str]) -> Checkpoint | None:
    """Load a checkpoint, see `load_checkpoint`.

    Args:
        folder: where checkpoints live.
        checkpoint: a folder; True for the newest of `folder`, or None if there is none yet.
        names: of the states to load.

    Raises:
        ValueError: if the folder is no complete checkpoint.
    """
    if not isinstance(checkpoint, bool):
        return load_checkpoint(Path(checkpoint), names)
    found = list_checkpoints(folder)
    return load_checkpoint(found[-1], names) if found else None


def load_checkpoint(path: Path, names: Sequence[str] = ()) -> Checkpoint:
    """Load a checkpoint; nothing is unpickled beyond tensors and plain values.

    Args:
        path: folder of the checkpoint.
        names: of the states to load.

    Raises:
        ValueError: if the folder is no complete checkpoint.
    """
    from safetensors.torch import load_file

    if not (path / _STATE).is_file():
        raise ValueError(f"{path} is not a checkpoint (no {_STATE}). Give a step_* folder, or True for the newest.")
    states = {name: torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True) for name in names}
    record = json.loads((path / _STATE).read_text())
    step = record.get("best", {}).get("best_global_step")
    best = None if step is None else checkpoint_path(path.parent, step)
    if best not in list_checkpoints(path.parent):
        best = None
    return Checkpoint(path, load_file(path / "model.safetensors"), states, record, best)
