"""What a run reports while it trains: lines of its log, and trackers that stay offline unless told otherwise."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.distributed import trains_on_cpu
from csr_hf.training.arguments import CSRTrainingArguments

if TYPE_CHECKING:
    from accelerate import Accelerator

_PROJECT = "csr_hf"


def make_accelerator(args: CSRTrainingArguments, tracker_dir: Path) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        args: precision and trackers.
        tracker_dir: where trackers write their events.

    Raises:
        ValueError: for an unknown tracker.
        ImportError: if the package of a tracker is missing, with the line to type.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    _check_trackers(args.report_to)
    if "wandb" in args.report_to:
        # Nothing leaves the machine unless the user has said so.
        os.environ.setdefault("WANDB_MODE", "offline")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != args.mixed_precision:
        # Accelerate keeps the precision of a process's first Accelerator and refuses another one later.
        AcceleratorState._reset_state()
    return Accelerator(
        cpu=trains_on_cpu(),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to or None,
        project_dir=tracker_dir,
        # The only buffers are the dead-latent clocks, which every process advances alike.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _check_trackers(names: list[str]) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    for name in names:
        if name not in known:
            raise ValueError(f"`report_to` ({name!r}) is no tracker of Accelerate. Known: {', '.join(known)}.")
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"`report_to` {name} needs the package {name}: pip install {name}")


@contextmanager
def open_trackers(
    accelerator: Accelerator, args: CSRTrainingArguments
) -> Iterator[Callable[[dict[str, float], int], None]]:
    """Open the trackers of a run; yields a function that sends them the figures of a step."""
    if not args.report_to:
        yield lambda figures, step: None
        return
    values = {name: value for name, value in args.to_dict().items() if isinstance(value, int | float | str)}
    # Trackers may be on other machines, which need not know the folders of this one.
    values.pop("output_dir", None)
    accelerator.init_trackers(_PROJECT, config=values)
    try:
        yield lambda figures, step: accelerator.log(figures, step=step)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def append_to_log(path: Path, step: int, figures: dict[str, float]) -> None:
    """Append the figures of a step to the log, as one line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which are taken again, and a line that an interruption cut short."""
    if not path.exists():
        return
    complete = [line for line in path.read_text().splitlines(True) if line.endswith("}\n")]
    kept = [line for line in complete if json.loads(line)["step"] <= step]
    with write_whole(path) as temporary:
        temporary.write_text("".join(kept))
