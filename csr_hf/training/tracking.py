"""What a run reports while it trains: to its log, callbacks, and trackers that stay offline unless told otherwise."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.plumbing.atomic import explain_full_disk, write_whole
from csr_hf.plumbing.distributed import LONGEST_WAIT, from_first_process, leave_at_exit, trains_on_cpu
from csr_hf.plumbing.launcher import check_launcher
from csr_hf.runs.folder import RunFolder
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.callbacks import CallbackHandler, CSRTrainerControl, CSRTrainerState

if TYPE_CHECKING:
    from accelerate import Accelerator

_PROJECT = "csr_hf"


def make_accelerator(args: CSRTrainingArguments, tracker_dir: Path) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        args: precision and trackers.
        tracker_dir: where trackers write their events.

    Raises:
        ValueError: for an unknown tracker, if accelerate was set up for something that csr_hf does not support, or for
            fp16 on the CPU.
        ImportError: if the package of a tracker is missing, with the line to type.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
    )

    check_launcher()
    _check_trackers(args.report_to)
    on_cpu = trains_on_cpu()
    if args.mixed_precision == "fp16" and on_cpu:
        # Accelerate would train in float32 and not say so.
        raise ValueError("`mixed_precision` fp16 needs a GPU, and this training is on the CPU. Set it to bf16 or no.")
    if "wandb" in args.report_to:
        # Nothing leaves the machine unless the user has said so.
        os.environ.setdefault("WANDB_MODE", "offline")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != args.mixed_precision:
        # Accelerate keeps the precision of a process's first Accelerator and refuses another one later.
        AcceleratorState._reset_state()
    leave_at_exit()
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=args.mixed_precision,
        log_with=args.report_to or None,
        project_dir=tracker_dir,
        # A step takes all batches that it accumulates at once: nothing is left for Accelerate to divide.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            # The only buffers are the dead-latent clocks, which every process advances alike.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
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
    """Open the trackers of a run; yields a function that sends them the figures of a step.

    Those of an evaluation stand in a group of their own: `eval_loss` is `eval/loss` there.
    """
    if not args.report_to:
        yield lambda figures, step: None
        return
    values = {name: value for name, value in args.to_dict().items() if isinstance(value, int | float | str)}
    # Trackers may be on other machines, which need not know the folders of this one.
    values.pop("output_dir", None)
    accelerator.init_trackers(_PROJECT, config=values)
    try:
        yield lambda figures, step: accelerator.log(_group(figures), step=step)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _group(figures: dict[str, float]) -> dict[str, float]:
    return {re.sub("^eval_", "eval/", name): value for name, value in figures.items()}


class Reports:
    """Tells the log, the trackers and the callbacks of a training what happens, and keeps its state.

    Args:
        args: of the training.
        folder: of the run.
        accelerator: of this process.
        callbacks: to be called.

    Attributes:
        state: where the training stands.
        control: what callbacks want to happen next.
    """

    def __init__(
        self, args: CSRTrainingArguments, folder: RunFolder, accelerator: Accelerator, callbacks: CallbackHandler
    ) -> None:
        self._args, self._folder, self._accelerator, self._callbacks = args, folder, accelerator, callbacks
        self.state = CSRTrainerState(max_steps=args.max_steps, is_world_process_zero=accelerator.is_main_process)
        self.control = CSRTrainerControl()
        self._track: Callable[[dict[str, float], int], None]

    @property
    def is_stopped(self) -> bool:
        """Whether a callback or the patience ends the training."""
        patience = self._args.early_stopping_patience
        is_tired = patience is not None and self.state.early_stopping_patience_counter >= patience
        return self.control.should_training_stop or is_tired

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open log and trackers; lines of later steps than that of the state, which are taken again, are dropped."""
        self.state.log_history = from_first_process(lambda: truncate_log(self._folder.log, self.state.global_step))
        self.control = CSRTrainerControl()
        with open_trackers(self._accelerator, self._args) as self._track:
            yield

    def write(self, figures: dict[str, float]) -> None:
        """Add the figures of this step to the log and to the trackers."""
        step = self.state.global_step
        self.state.log_history.append({"step": step, **figures})
        if self.state.is_world_process_zero:
            append_to_log(self._folder.log, step, figures)
        self._track(figures, step)

    def last_logged(self) -> dict[str, float]:
        """Return the figures of the newest line of the log that is not of an evaluation; none before the first.

        Explained variance is left out: `measure_head` has that of all rows, unless it is not defined.
        """
        lines = (line for line in reversed(self.state.log_history) if "loss" in line)
        return {name: value for name, value in next(lines, {}).items() if name not in ("step", "explained_variance")}

    def fire(self, hook: str, **figures: Any) -> None:
        """Call a hook of every callback, see `CallbackHandler.fire`."""
        self.control = self._callbacks.fire(hook, self.state, self.control, **figures)


def describe_progress(figures: dict[str, float]) -> dict[str, str]:
    """Choose what a progress bar shows."""
    kinds = {"loss": ".4f", "explained_variance": ".3f", "dead_fraction": ".1%", "eval_neighbor_recall": ".3f"}
    names = {"explained_variance": "ev", "dead_fraction": "dead", "eval_neighbor_recall": "recall"}
    return {names.get(name, name): format(figures[name], kind) for name, kind in kinds.items() if name in figures}


def append_to_log(path: Path, step: int, figures: dict[str, float]) -> None:
    """Append the figures of a step to the log, as one line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(path), path.open("a") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")


def truncate_log(path: Path, step: int) -> list[dict[str, float]]:
    """Drop the lines of steps after `step`, which are taken again, and a line that an interruption cut short.

    Returns:
        The lines that are kept.
    """
    if not path.exists():
        return []
    complete = [line for line in path.read_text().splitlines(True) if line.endswith("}\n")]
    kept = [line for line in complete if json.loads(line)["step"] <= step]
    with write_whole(path) as temporary:
        temporary.write_text("".join(kept))
    return [json.loads(line) for line in kept]
