"""Sums and concatenations over processes that gradients pass through.

NOTE: those of `torch.distributed.nn.functional` are deprecated from PyTorch 2.15 on, and what it names in their place
is private.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runs.distributed import rank, world_size


class _AllReduce(torch.autograd.Function):
    """Sum over processes whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone().contiguous()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone().contiguous()
        dist.all_reduce(gradient)
        return gradient


class _Gather(torch.autograd.Function):
    """Concatenate over processes; the gradient returns to the process that each part came from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Images may come with channels last, which the collective would refuse or mix up.
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone().contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def all_reduce(x: Tensor) -> Tensor:
    """Sum over processes, differentiable; same shape."""
    return _AllReduce.apply(x) if world_size() > 1 else x


def all_gather(x: Tensor) -> Tensor:
    """Concatenate (n, …) of every process to (n * world, …) in the order of ranks, differentiable."""
    return _Gather.apply(x) if world_size() > 1 else x


def average_gradients(module: nn.Module) -> None:
    """Replace each parameter's gradient by its mean over processes.

    Not by DistributedDataParallel: it groups gradients anew after the first step, so that a resumed run of more than
    two processes would add in another order.
    """
    if world_size() > 1:
        for p in module.parameters():
            assert p.grad is not None
            dist.all_reduce(p.grad)
            p.grad.div_(world_size())


def mean_over_processes(scalar: Tensor) -> float:
    """Average a scalar over processes, without a gradient."""
    return all_reduce(scalar.detach().float()).item() / world_size()
