"""One process or many: rank, collectives that also work alone, and batch norm over all processes."""

import os
import sys
import time
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from runs.errors import UserError

# The others wait while the first process evaluates and saves; the backends' own limits of 10 and 30 minutes are too
# short for that on a large data set or a slow disk.
PATIENCE = timedelta(hours=4)
# How long the others have to meet the failure that the keeper of their store has met.
MOMENT = timedelta(seconds=10)

# Where the processes found each other, None alone.
_store: Any = None


def start(device: str) -> torch.device:
    """Join the process group that `torchrun` describes in the environment, if any, and choose the device.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no such device.
    """
    global _store
    local, here = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and max(here, local + 1) > torch.cuda.device_count():
        raise UserError(
            f"device=cuda: {max(here, local + 1)} processes find {torch.cuda.device_count()} CUDA devices; "
            "start fewer, or use device=cpu"
        )
    chosen = torch.device(f"cuda:{local}" if device == "cuda" else device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        _store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        _store.set_timeout(PATIENCE)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_store, rank=number, world_size=count, timeout=PATIENCE)
    return chosen


def first_to_fail() -> bool:
    """Return whether no other process of the run has failed before this one, which then is to say why.

    A failure that all processes find is said once, and one that a single process finds, by that one: the others lose
    their connection to it and have nothing to say.
    """
    if _store is None:
        return True
    try:
        return _store.add("failures", 1) == 1
    except RuntimeError:
        # Without torchrun the first process keeps the store, and it has gone.
        return False


def quit_failed() -> NoReturn:
    """End this process of several with status 2, whatever the others do.

    Not by way of `stop`: NCCL leaves a group only when all do, and the others wait in a collective for this process.
    When it is gone, `torchrun` ends them. Without `torchrun` the first process keeps the store, and gives the others
    a moment to fail too: PyTorch prints a stack for a lost store, below the one line that says what is wrong.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _store is not None and rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        end = time.monotonic() + MOMENT.total_seconds()
        while _store.add("failures", 0) < world() and time.monotonic() < end:
            time.sleep(0.02)
    os._exit(2)


def start_alone(device: str) -> torch.device:
    """Choose the device of a command that runs in one process.

    Raises:
        UserError: there is no such device, or `torchrun` started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("torchrun: this command runs in one process; start it with python -m")
    return start(device)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(x: Tensor) -> float:
    """Average a scalar over processes."""
    return all_sum(x.detach().float()).item() / world()


def objects(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    if world() == 1:
        return [value]
    gathered: list[Any] = [None] * world()
    dist.all_gather_object(gathered, value)
    return gathered


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
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone().contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world())[rank()]


def all_sum(x: Tensor) -> Tensor:
    """Sum over processes, differentiable; same shape."""
    return _AllReduce.apply(x) if world() > 1 else x


def gather(x: Tensor) -> Tensor:
    """Concatenate (n, …) of every process to (n * world, …) in the order of ranks, differentiable."""
    return _Gather.apply(x) if world() > 1 else x


class SplitBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over groups of images, as if each group were on a device of its own."""

    groups = 1

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each contiguous group of (N, C) or (N, C, H, W) by its own statistics.

        The running statistics follow the first group: under DDP, the first device's are broadcast to the others.
        """
        if not self.training:
            return super().forward(input)
        first, *rest = input.chunk(self.groups)
        parts = [super().forward(first)]
        for part in rest:
            parts.append(nn.functional.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps))
        return torch.cat(parts)


def split_norms(module: nn.Module, groups: int) -> None:
    """Make every batch norm of `module` treat its input as `groups` devices would; parameters and names stay."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.__class__ = SplitBatchNorm  # type: ignore[assignment]
            child.groups = groups  # type: ignore[assignment]


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all processes from plain operations, for devices where PyTorch has none.

    NOTE: `torch.nn.SyncBatchNorm` refuses CPU tensors. The mean is reduced before the variance, so nothing cancels.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C) or (N, C, H, W) by the statistics of all processes' inputs; they share one shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = input.numel() // input.shape[1] * world()
        # Statistics of bf16 inputs are float32 and the output is bf16 again, as PyTorch's.
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = all_sum(x.sum(axes)) / count  # C
        centred = x - mean.view(shape)
        variance = all_sum(centred.square().sum(axes)) / count  # C
        with torch.no_grad():
            assert (
                self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
            )
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum or 0.1)
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        out = out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def synchronize_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch norm of `module` one over all processes; parameters and names stay."""
    if world() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            # Only the forward pass differs; parameters, buffers and names are the same.
            child.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return module
