"""The collectives of several processes, NCCL's on a GPU and Gloo's on a CPU, tried in one process."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hardware.section import Figure, Options


def measure(options: Options) -> Iterator[Figure]:
    """Joining, sums, objects, DDP, synchronized batch norm."""
    backend = "nccl" if options.device == "cuda" else "gloo"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
        total = torch.ones(1000, device=device)
        dist.all_reduce(total)
        found: list[Any] = [None]
        dist.all_gather_object(found, {"rank": 0})
        torch.manual_seed(0)
        plain: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4)).to(
            device
        )
        x = torch.randn(4, 3, 8, 8, device=device)
        expected = plain(x).detach()
        synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(plain) if options.device == "cuda" else plain
        model = DistributedDataParallel(synchronized)
        output = model(x)
        output.sum().backward()
        yield Figure(
            f"{backend}: sum, objects", float(total.sum() == 1000 and found == [{"rank": 0}]), "", 1.0, least=True
        )
        difference = float((output.detach() - expected).abs().max())
        yield Figure(f"{backend}: DDP with synchronized batch norm against plain", difference, "", 1e-3)
    finally:
        dist.destroy_process_group()
