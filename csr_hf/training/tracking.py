"""Accelerate set up for a run: precision, processes, and trackers that stay offline unless told otherwise."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from csr_hf.plumbing.distributed import trains_on_cpu
from csr_hf.runs.folder import RunFolder
from csr_hf.training.arguments import CSRTrainingArguments

if TYPE_CHECKING:
    from accelerate import Accelerator

_PROJECT = "csr_hf"
# Trackers whose logger imports another package than its own name.
_PACKAGES = {"tensorboard": ("tensorboard",), "comet_ml": ("comet_ml",)}


def make_accelerator(args: CSRTrainingArguments, folder: RunFolder) -> Accelerator:
    """Make an accelerator for the arguments; events of trackers go below `folder.trackers`.

    Raises:
        ValueError: for an unknown tracker.
        ImportError: if its package is missing, with the line to type.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import DistributedDataParallelKwargs

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    for name in args.report_to:
        if name not in known:
            raise ValueError(f"`report_to` ({name!r}) is no tracker of Accelerate. Known: {', '.join(known)}.")
        for package in _PACKAGES.get(name, (name,)):
            if importlib.util.find_spec(package) is None:
                raise ImportError(f"`report_to` {name} needs the package {package}: pip install {package}")
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
        project_dir=folder.trackers,
        # The only buffer is the dead-latent clock, which every process advances alike.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


@contextmanager
def tracking(
    accelerator: Accelerator, args: CSRTrainingArguments
) -> Iterator[Callable[[dict[str, float], int], None]]:
    """A function that sends figures of a step to the trackers of the args."""
    if not args.report_to:
        yield lambda figures, step: None
        return
    scalars = {name: value for name, value in args.to_dict().items() if isinstance(value, int | float | str)}
    accelerator.init_trackers(_PROJECT, config=scalars)
    try:
        yield lambda figures, step: accelerator.log(figures, step=step)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
