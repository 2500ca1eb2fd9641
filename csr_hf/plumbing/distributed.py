"""Communication between training processes, and the check that as many run as the user demands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


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
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=trains_on_cpu())
    try:
        yield rank_and_world()[0] == 0
    finally:
        if rank_and_world()[1] > 1:
            dist.destroy_process_group()


def trains_on_cpu() -> bool:
    """Return whether there is no accelerator, or the environment variable ACCELERATE_USE_CPU forbids its use."""
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    if rank_and_world()[1] > 1:
        dist.barrier()


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
