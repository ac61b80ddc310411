"""Several processes on one batch: started by torchrun, silent but for the first."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from runs.errors import UserError
from runs.progress import progress

# The others wait while the first process measures a test split and saves; NCCL's own limit of 10 minutes is too short
# for that on a slow disk.
PATIENCE = timedelta(hours=4)
# Processes that compute the same come to the same place within an iteration.
TOGETHER = timedelta(minutes=2)

# Where the processes found each other, and a group for the CPU, on which a wait can have an end. None alone.
_store: Any = None
_control: Any = None


def choose_device(name: str) -> str:
    """`cpu` or `cuda`, whichever `name` means on this machine.

    Raises:
        UserError: CUDA is asked for and there is none, or fewer devices than torchrun started processes.
    """
    devices = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if devices else "cpu"
    if name == "cuda" and not devices:
        raise UserError("device=cuda: PyTorch sees no CUDA device; use device=cpu or auto")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "cuda" and here > devices:
        raise UserError(f"torchrun: {here} processes for {devices} CUDA devices; start fewer, or use device=cpu")
    return name


def join(device: str) -> None:
    """Join the other processes that torchrun started, if it did.

    Args:
        device: `cpu` (Gloo) or `cuda` (NCCL, a device a process).
    """
    global _store, _control
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    _store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    _store.set_timeout(PATIENCE)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world, timeout=PATIENCE)
    _control = dist.new_group(backend="gloo", timeout=PATIENCE)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def joined() -> bool:
    """Whether this is one of several processes."""
    return bool(dist.is_initialized())


def leave() -> None:
    """Leave the other processes, if there are any, once all have come to their end."""
    if joined():
        dist.destroy_process_group()


def first_to_fail() -> bool:
    """Whether no other process has failed before this one, which then is to say why.

    A fault that all processes meet is said once, and one that a single process meets (a broken image, a device without
    memory) by that one.
    """
    if _store is None:
        return True
    try:
        return bool(_store.add("failures", 1) == 1)
    except RuntimeError:
        # The process that keeps the store has gone, with its message.
        return False


def met_by_all() -> bool:
    """Wait for the other processes at the same place; whether they came."""
    if comm.get_world_size() == 1:
        return True
    try:
        dist.monitored_barrier(_control, timeout=TOGETHER)
    except RuntimeError:
        return False
    return True


def check_split(cfg: Any) -> None:
    """Refuse to share a batch out where the processes would not compute what one does.

    The gradient is the mean of the processes' means, which is that of the whole batch if all have equally many images;
    naive SyncBN's statistics are then those of the batch too (detectron2/layers/batch_norm.py).

    Raises:
        UserError: the batch does not divide, or each process would normalise with statistics of its own.
    """
    world = comm.get_world_size()
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % world:
        raise UserError(
            f"detectron2.SOLVER.IMS_PER_BATCH={batch} does not divide by {world} processes; start fewer or more"
        )
    if world > 1 and cfg.MODEL.RESNETS.NORM == "BN":
        raise UserError(
            f"detectron2.MODEL.RESNETS.NORM=BN would normalise {batch // world} images a process instead of {batch}; "
            "use naiveSyncBN"
        )


def mean_over_processes(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Each loss as a number: its mean over the processes."""
    stacked = torch.stack([value.detach().float() for value in losses.values()])  # (terms,)
    if comm.get_world_size() > 1:
        dist.all_reduce(stacked)
        stacked /= comm.get_world_size()
    return dict(zip(losses, stacked.tolist(), strict=True))


class FullPrecisionSyncBatchNorm(NaiveSyncBatchNorm):
    """Detectron2's batch norm over processes, with float32 statistics of bfloat16 features.

    NOTE: Detectron2's own does so for float16 alone (detectron2/layers/batch_norm.py@a59f0563), and its variance is a
    difference of squares, of which the 8 bits of bfloat16 leave nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); the output has the input's type."""
        output: Tensor = super().forward(input.float() if self.training else input)
        return output.to(input.dtype)


def synchronise_in_full_precision(detector: nn.Module) -> None:
    """Give every batch norm over processes float32 statistics; parameters, buffers and names stay."""
    if comm.get_world_size() == 1:
        return
    for module in detector.modules():
        if isinstance(module, NaiveSyncBatchNorm):
            # Only the forward pass differs.
            module.__class__ = FullPrecisionSyncBatchNorm


class _Silent:
    def update(self, *_: Any, **__: Any) -> None: ...


@contextlib.contextmanager
def shown(
    total: int, description: str, unit: str = "it", initial: int = 0, folder: Path | None = None
) -> Iterator[Any]:
    """`runs.progress.progress` on the first process, nothing on the others."""
    if not comm.is_main_process():
        yield _Silent()
        return
    with progress(total, description, unit, initial, folder) as bar:
        yield bar
