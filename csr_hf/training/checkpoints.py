"""Checkpoints of a training run: written whole or not at all, checked by their hashes, found again, pruned."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.atomic import write_whole

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_WEIGHTS = "model.safetensors"


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
    with write_whole(target, folder=True) as temporary:
        model.save_pretrained(temporary)
        for name, state in states.items():
            # An open file lets torch say that the disk is full.
            with (temporary / f"{name}.pt").open("wb") as file:
                torch.save(state, file)
        sealed = _seal({**record, "checksums": _hash_files(temporary)})
        (temporary / _STATE).write_text(json.dumps(sealed, indent=2))
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


def name_newest(folder: Path) -> str:
    """Say which checkpoint is the newest, for messages."""
    kept = list_checkpoints(folder)
    return f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint had been written yet"


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
        checkpoint: a folder; True for the newest of `folder` that is whole, or None if there is none yet. Damaged ones
            are named in the log.
        names: of the states to load.

    Raises:
        ValueError: if the folder is no checkpoint or damaged, or all checkpoints of `folder` are damaged.
    """
    if not isinstance(checkpoint, bool):
        return load_checkpoint(Path(checkpoint), names)
    found = sorted(folder.glob("step_*"), reverse=True)
    for path in found:
        try:
            return load_checkpoint(path, names)
        except ValueError as error:
            logger.warning("passed over a checkpoint: %s", error)
    if found:
        raise ValueError(
            f"no checkpoint in {folder} is whole: {', '.join(path.name for path in found)}. Start over with "
            "--overwrite, or remove them."
        )
    return None


def load_checkpoint(path: Path, names: Sequence[str] = ()) -> Checkpoint:
    """Load a checkpoint; nothing is unpickled beyond tensors and plain values.

    Args:
        path: folder of the checkpoint.
        names: of the states to load.

    Raises:
        ValueError: if the folder is no checkpoint, or a file of it is missing or damaged; it is named.
    """
    from safetensors.torch import load_file

    if not (path / _STATE).is_file():
        raise ValueError(f"{path} is not a checkpoint (no {_STATE}). Give a step_* folder, or True for the newest.")
    record = _read_record(path)
    states = {name: torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True) for name in names}
    step = record.get("best", {}).get("best_global_step")
    best = None if step is None else checkpoint_path(path.parent, step)
    if best not in list_checkpoints(path.parent):
        best = None
    return Checkpoint(path, load_file(path / _WEIGHTS), states, record, best)


def find_weights(path: str | Path | None) -> dict[str, torch.Tensor] | None:
    """Load the weights of a checkpoint; None if it is gone or damaged, which is then named in the log."""
    try:
        return None if path is None else load_checkpoint(Path(path)).weights
    except ValueError as error:
        logger.warning("passed over a checkpoint: %s", error)
        return None


def _read_record(path: Path) -> dict[str, Any]:
    """Read the JSON values of a checkpoint, and compare all its files with their checksums.

    Raises:
        ValueError: if a file is missing or is not as it was written; it is named.
    """
    try:
        record: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
        is_whole = record == _seal(record)
    except (ValueError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path / _STATE} is damaged. Give another checkpoint, or True for the newest whole one.")
    found = _hash_files(path)
    for name, checksum in record["checksums"].items():
        if found.get(name) != checksum:
            state = "damaged" if name in found else "missing"
            raise ValueError(
                f"{path / name} is {state}. Give another checkpoint, or True for the newest that is whole."
            )
    return record


def _hash_files(folder: Path) -> dict[str, str]:
    """Hash the files of a checkpoint, by name, but for its JSON values."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != _STATE:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return hashes


def _seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add a hash of all other values to a record, or replace the one it has."""
    values = {name: value for name, value in record.items() if name != "checksum"}
    content = json.dumps(values, sort_keys=True).encode()
    return {**values, "checksum": hashlib.blake2b(content, digest_size=16).hexdigest()}
