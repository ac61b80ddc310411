"""One training step of SimSiam: this project's against the official script's, and the rate of matrix products.

    python -m experiments.speed.step [--official CLONE] [--device cuda]

Both sides get the same images, already in memory. `--official` is a clone of facebookresearch/simsiam@a7bc177, whose
builder makes the model and whose loop (main_simsiam.py, `train`) is followed; without it the peer is that loop around
this project's network, which has the same layers. On the CPU one thread computes, in processor seconds.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from experiments.speed.limits import multiply_rate
from experiments.speed.rows import OFFICIAL, Row, Skipped, alternate, script
from pretrain.config import OptimizerConfig
from pretrain.method.base import Batch, Plan, build_method
from pretrain.method.config import SimSiamConfig
from pretrain.method.simsiam import SimSiam
from pretrain.optim import build_optimizer, clip_gradients
from runs.distributed import set_precision
from runs.errors import UserError

TITLES = {
    "official": "official=true",
    "default": "default settings",
    "bf16": "precision=bf16",
    "compiled": "compile=true, precision=bf16",
}
# How many times the release's step is asked for.
GOALS = {"official": 1.0, "default": 1.05, "bf16": 1.0, "compiled": 1.0}


class Siamese(nn.Module):
    """The official forward pass around this project's layers, where the official code is not at hand."""

    def __init__(self, ours: SimSiam) -> None:
        super().__init__()
        self.encoder, self.predictor = ours.encoder, ours.predictor

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predictions and targets of both views, each (N, d)."""
        z1, z2 = self.encoder(x1), self.encoder(x2)  # N-by-d
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()


def build(arch: str, device: str) -> SimSiam:
    """This project's SimSiam, from seed 0."""
    torch.manual_seed(0)
    method = build_method(SimSiamConfig(), Plan(arch, True, 100, 1000, 256, 1000)).to(device)
    assert isinstance(method, SimSiam)
    return method.train()


def our_step(
    arch: str, images: list[Tensor], device: str, precision: str, official: bool = False, compiled: bool = False
) -> Callable[[], Any]:
    """The step of `Trainer.train` (pretrain/trainer.py), with channels last and fused updates unless `official`."""
    layout = torch.contiguous_format if official else torch.channels_last
    method = build(arch, device).to(memory_format=layout)
    optimizer = build_optimizer(method.groups(), OptimizerConfig(fused=not official), 0.05)
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
        clip_gradients(method.parameters(), 0.0)
        optimizer.step()
        method.after_step(0)
        wait(device)

    return step


def official_step(arch: str, images: list[Tensor], device: str, folder: Path | None) -> Callable[[], Any]:
    """The body of main_simsiam.py's `train`, with the arithmetic that it gets from PyTorch."""
    torch.manual_seed(0)
    if folder:
        sys.path.insert(0, str(folder))
        try:
            # The clone is no dependency of this project.
            builder = importlib.import_module("simsiam.builder")
        except ImportError as error:
            raise SystemExit(f"{folder}: no simsiam/builder.py; --official is a clone of {OFFICIAL}") from error
        model = builder.SimSiam(models.__dict__[arch], 2048, 512).to(device)
    else:
        model = Siamese(build(arch, device))
    criterion = nn.CosineSimilarity(dim=1)
    groups = [{"params": part.parameters()} for part in (model.encoder, model.predictor)]
    optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> None:
        default_arithmetic()
        x1, x2 = (view.to(device, non_blocking=True) for view in images)
        p1, p2, z1, z2 = model(x1=x1, x2=x2)
        loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait(device)

    return step


def default_arithmetic() -> None:
    """PyTorch's defaults, which the peers leave and our step changes: TF32 in convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


def wait(device: str) -> None:
    """Wait for a GPU, so that a step is timed whole."""
    if device == "cuda":
        torch.cuda.synchronize()


def flops(step: Callable[[], Any]) -> int:
    """Floating-point operations of one step, forward and backward, a multiplication and an addition as two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """The releases' arithmetic, the default settings, and what may be added to them, on one device."""
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device here; run it on a machine that has one")
    if device == "cpu":
        torch.set_num_threads(1)
    arch, batch, size, rounds = ("resnet18", 4, 64, 2) if arguments.quick else ("resnet50", 2, 224, 3)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True  # the official script sets it
        batch, rounds = (16, 3) if arguments.quick else (512, 20)
    batch = arguments.batch or batch
    torch.manual_seed(1)
    images = [torch.randn(batch, 3, size, size) for _ in range(2)]
    if device == "cuda":
        images = [view.pin_memory() for view in images]
    peer = official_step(arch, images, device, arguments.official)
    name = f"{OFFICIAL}, fp32" if arguments.official else "the official script's loop around the same layers, fp32"
    work, rates = flops(peer), dict[str, float]()
    settings = {"official": "fp32", "default": "auto", "bf16": "bf16"}
    if device == "cuda":
        settings["compiled"] = "bf16"
    for setting, precision in settings.items():
        mine = our_step(arch, images, device, precision, setting == "official", setting == "compiled")
        ours, theirs = alternate(mine, peer, rounds, "cpu" if device == "cpu" else "wall")
        if precision not in rates:
            rates[precision] = multiply_rate(torch.bfloat16 if precision == "bf16" else torch.float32, device)
        limit = batch * rates[precision] / work
        done = f"{work / 1e9:.0f} GFLOP a step, {precision} matrix products at {rates[precision] / 1e9:.0f} GFLOP/s"
        yield Row(
            f"step/{device}-{setting}",
            f"SimSiam step, {arch}, {batch} images of {size} px, {device}: "
            + TITLES[setting],
            "images/s", True, [batch / s for s in ours], [batch / s for s in theirs], name,
            "cpu" if device == "cpu" else "wall", limit, "matrix products at full rate",
            goal=2.0 if device == "cuda" and setting == "bf16" else GOALS[setting], note=done,
        )  # fmt: skip
    if device == "cpu" and not torch.cuda.is_available():
        yield Skipped("step/cuda", "no CUDA device; run it on a machine that has one: --device cuda")


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this script."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default: cuda where there is one")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="images a step (default 2; 512 on a GPU)")


if __name__ == "__main__":
    script(measure, __doc__ or "", options)
