"""Several processes on one batch: started by torchrun, silent but for the first."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from runs.errors import UserError
from runs.progress import progress


def join(device: str) -> None:
    """Join the other processes that torchrun started, if it did.

    Args:
        device: `cpu` (Gloo) or `cuda` (NCCL, a device a process).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


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
