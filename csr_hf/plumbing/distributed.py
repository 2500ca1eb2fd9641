"""What several training processes tell each other, and whether there are as many as the user asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def processes() -> Iterator[bool]:
    """Work together with the others that `torchrun` or `accelerate launch` started; whether this is the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=trains_on_cpu())
    try:
        yield rank_and_world()[0] == 0
    finally:
        if rank_and_world()[1] > 1:
            dist.destroy_process_group()


def trains_on_cpu() -> bool:
    """Whether there is no accelerator, or ACCELERATE_USE_CPU says to leave it alone."""
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if rank_and_world()[1] > 1:
        dist.barrier()


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, one after the other in order of rank; gradients flow back to their owners.

    All must have the same shape. The gradient that arrives at a process is the sum over the losses of all.
    """
    if rank_and_world()[1] == 1:
        return tensor
    result: torch.Tensor = _Gather.apply(tensor)
    return result


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, without a gradient."""
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
    """Refuse to train with another number of processes than was asked for.

    Args:
        running: processes that train.
        wanted: what the recipe asks for; None for any number.

    Raises:
        ValueError: if the numbers differ, with a command that works.
    """
    if wanted is not None and wanted != running:
        raise ValueError(
            f"`num_processes` ({wanted}) were asked for and {running} started. On a CPU `accelerate launch` starts "
            f"one, whatever --num_processes says. Use `torchrun --nproc_per_node {wanted} -m csr_hf.cli train RECIPE` "
            "(recipes/accelerate_configs)."
        )
