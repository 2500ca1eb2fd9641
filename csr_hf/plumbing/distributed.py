"""Communication between training processes, and the check that as many run as the user demands."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from csr_hf.plumbing.launcher import check_launcher, launched_processes

_Result = TypeVar("_Result")

LONGEST_WAIT = timedelta(days=7)
"""How long a process waits for others before it gives up. Those that wait do so while the first one measures, indexes
or uploads, or while another one embeds a larger share; a process that ended is noticed at once all the same."""

_VISIBLE_AFTER = 600.0
_BETWEEN_LOOKS = 0.2


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and the number of processes; (0, 1) for a process that trains alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def processes() -> Iterator[bool]:
    """Join the other processes that `torchrun` or `accelerate launch` started, and leave them at the end.

    Yields:
        Whether this process is the first.

    Raises:
        ValueError: if accelerate was set up for something that csr_hf does not support.
    """
    check_launcher()
    if launched_processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=trains_on_cpu(), timeout=LONGEST_WAIT)
    try:
        yield rank_and_world()[0] == 0
    finally:
        _leave()


def leave_at_exit() -> None:
    """Leave the other processes when the interpreter exits, unless an error ends it.

    Threads of the group that outlive the interpreter abort the process, so that a finished training ends as a failed
    one. After an error others may wait in vain for this process, and leaving in order would wait for them.
    """
    atexit.unregister(_leave_after_success)
    atexit.register(_leave_after_success)


def _leave_after_success() -> None:
    if not hasattr(sys, "last_value"):
        _leave()


def _leave() -> None:
    if rank_and_world()[1] > 1:
        dist.destroy_process_group()


def trains_on_cpu() -> bool:
    """Return whether there is no accelerator, or the environment variable ACCELERATE_USE_CPU forbids its use."""
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def from_first_process(function: Callable[[], _Result]) -> _Result:
    """Call a function on the first process, and return its result on all of them.

    For whatever depends on a file system: what one machine has written may show later on another, so the first process
    looks and tells the others.

    Args:
        function: its result is pickled.

    Raises:
        Exception: what the function raised, on every process.
    """
    rank, world = rank_and_world()
    if world == 1:
        return function()
    if rank == 0:
        try:
            result = function()
        except Exception as error:
            # The others would wait for a result in vain.
            dist.broadcast_object_list([None, error], src=0)
            raise
        dist.broadcast_object_list([result, None], src=0)
        return result
    outcome: list[Any] = [None, None]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    received: _Result = outcome[0]
    return received


def gather_objects(value: _Result) -> list[_Result]:
    """Return the values of all processes in order of rank; they are pickled."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def wait_for_files(sizes: Mapping[Path, int], seconds: float = _VISIBLE_AFTER) -> None:
    """Wait until files that other processes have written show here: a shared file system may lag.

    Args:
        sizes: file -> bytes that it has when it is whole.
        seconds: how long to wait.

    Raises:
        OSError: if one does not show, or is of another size, in that time.
    """
    until = time.monotonic() + seconds
    for path, size in sizes.items():
        while not path.is_file() or path.stat().st_size != size:
            if time.monotonic() > until:
                raise OSError(
                    f"{path}, written by another process, does not show here after {seconds:.0f} s. "
                    "All processes need the same folder: give a shared one."
                )
            time.sleep(_BETWEEN_LOOKS)


def gather_from_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the tensors of all processes in order of rank; gradients flow back to the process of each.

    The gradient that arrives at a process is the sum over the losses of all processes.

    Args:
        tensor: of the same shape in every process.
    """
    if rank_and_world()[1] == 1:
        return tensor
    result: torch.Tensor = _Gather.apply(tensor)
    return result


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, without a gradient."""
    if rank_and_world()[1] == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        rank, world = rank_and_world()
        return total.chunk(world)[rank]


def check_processes(running: int, wanted: int | None) -> None:
    """Refuse to train with another number of processes than the user wants.

    Args:
        running: number of processes that train.
        wanted: `num_processes` of the arguments; None accepts any number.

    Raises:
        ValueError: if the numbers differ, with a command that starts as many.
    """
    if wanted is not None and wanted != running:
        raise ValueError(
            f"`num_processes` ({wanted}) differs from the {running} that started. On a CPU `accelerate launch --cpu` "
            f"starts one, whatever --num_processes says. Use `torchrun --nproc_per_node {wanted} -m csr_hf.cli train "
            "RECIPE` (recipes/accelerate_configs)."
        )
