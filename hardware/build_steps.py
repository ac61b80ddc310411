"""One training step of SimSiam, this project's and the official script's, on images that are in memory already."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from hardware.section import OFFICIAL
from pretrain.config import OptimizerConfig
from pretrain.method.base import Batch, TrainingPlan, build_method
from pretrain.method.config import SimSiamConfig
from pretrain.method.simsiam import SimSiam
from pretrain.optim import build_optimizer
from runs.distributed import set_precision
from runs.errors import UserError


class OfficialForward(nn.Module):
    """The official forward pass around this project's layers, where there is no clone of the official code."""

    def __init__(self, ours: SimSiam) -> None:
        super().__init__()
        self.encoder, self.predictor = ours.encoder, ours.predictor

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions and targets of both views, each (N, d)."""
        z1, z2 = self.encoder(x1), self.encoder(x2)  # N-by-d
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()


def build_simsiam(arch: str, device: str) -> SimSiam:
    """This project's SimSiam, from seed 0."""
    torch.manual_seed(0)
    method = build_method(SimSiamConfig(), TrainingPlan(arch, True, 100, 1000, 256, 1000)).to(device)
    assert isinstance(method, SimSiam)
    return method.train()


def random_views(batch: int, size: int, device: str) -> list[Tensor]:
    """Two views (batch, 3, size, size) of noise in the host's memory, pinned for a GPU."""
    views = [torch.randn(batch, 3, size, size) for _ in range(2)]
    return [view.pin_memory() for view in views] if device == "cuda" else views


def our_step(
    arch: str, images: list[Tensor], device: str, precision: str, official: bool = False, compiled: bool = False
) -> Callable[[], Any]:
    """The step of `Trainer.train` (pretrain/trainer.py), with channels last and fused updates unless `official`."""
    layout = torch.contiguous_format if official else torch.channels_last
    method = build_simsiam(arch, device).to(memory_format=layout)
    optimizer = build_optimizer(method.param_groups(), OptimizerConfig(fused=not official), 0.05)
    model: Any = torch.compile(method) if compiled else method
    labels = torch.zeros(len(images[0]), dtype=torch.long, device=device)

    def step() -> None:
        set_precision(precision, torch.device(device))
        views = [view.to(device, non_blocking=True).contiguous(memory_format=layout) for view in images]
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            output = model(Batch(views, labels, 0))
        optimizer.zero_grad(set_to_none=True)
        output["loss"].backward()
        method.after_backward(0)
        optimizer.step()
        method.after_step(0)
        synchronize(device)

    return step


def official_step(arch: str, images: list[Tensor], device: str, folder: Path | None) -> Callable[[], Any]:
    """The body of main_simsiam.py's `train`, with the arithmetic that it gets from PyTorch."""
    torch.manual_seed(0)
    if folder:
        sys.path.insert(0, str(folder))
        try:
            # The clone is not a dependency of this project.
            builder = importlib.import_module("simsiam.builder")
        except ImportError as error:
            raise UserError(f"{folder}: no simsiam/builder.py; --official is a clone of {OFFICIAL}") from error
        model = builder.SimSiam(models.__dict__[arch], 2048, 512).to(device)
    else:
        model = OfficialForward(build_simsiam(arch, device))
    criterion = nn.CosineSimilarity(dim=1)
    groups = [{"params": part.parameters()} for part in (model.encoder, model.predictor)]
    optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> None:
        set_precision("pytorch", torch.device(device))
        x1, x2 = (view.to(device, non_blocking=True) for view in images)
        p1, p2, z1, z2 = model(x1=x1, x2=x2)
        loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(device)

    return step


def synchronize(device: str) -> None:
    """Wait for a GPU, so that a step is timed whole."""
    if device == "cuda":
        torch.cuda.synchronize()


def count_flops(step: Callable[[], Any]) -> int:
    """Floating-point operations of one step, forward and backward, a multiplication and an addition as two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
