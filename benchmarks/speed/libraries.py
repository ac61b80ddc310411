"""One training step of SimSiam against lightly's and solo-learn's for the same network, images and optimizer.

Both are optional: `pip install -e .[peers]` brings lightly; a row whose library is absent is left out. Images are in
memory, so that neither side's loader counts. On the CPU one thread computes, in processor seconds.
"""

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.speed.limits import multiply_rate
from benchmarks.speed.rows import Row, Skipped, alternate, script
from benchmarks.speed.step import flops, our_step, wait


def lightly_step(arch: str, images: list[Tensor], device: str) -> Callable[[], Any]:
    """The SimSiam example of lightly's documentation, without its loader."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    backbone = models.get_model(arch, zero_init_residual=True)
    width = backbone.fc.in_features
    backbone.fc = nn.Identity()
    project, predict = SimSiamProjectionHead(width, 2048, 2048), SimSiamPredictionHead(2048, 512, 2048)
    model = nn.ModuleList([backbone, project, predict]).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    criterion = NegativeCosineSimilarity()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = project(backbone(x))
        return z.detach(), predict(z)

    def step() -> None:
        (z0, p0), (z1, p1) = (forward(view.to(device, non_blocking=True)) for view in images)
        loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(device)

    return step


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """A row a library."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    arch, batch, size, rounds = ("resnet18", 4, 64, 2) if arguments.quick else ("resnet50", 16, 128, 5)
    if device == "cuda" and not arguments.quick:
        batch, size, rounds = 256, 224, 10
    images = [torch.randn(batch, 3, size, size) for _ in range(2)]
    if importlib.util.find_spec("lightly") is None:
        yield Skipped("libraries/lightly", "lightly is not installed; pip install -e .[peers] brings it")
    else:
        mine = our_step(arch, images, device, "fp32", torch.contiguous_format, False, False)
        ours, theirs = alternate(
            mine, lightly_step(arch, images, device), rounds, "cpu" if device == "cpu" else "wall"
        )  # fmt: skip
        limit = batch * multiply_rate(device=device) / flops(mine)
        yield Row(
            f"libraries/lightly-{device}", f"SimSiam step, {arch}, {batch} images of {size} px, {device}, float32",
            "images/s", True, [batch / s for s in ours], [batch / s for s in theirs],
            f"lightly {importlib.metadata.version('lightly')}", "cpu" if device == "cpu" else "wall", limit,
            "matrix products at full rate",
        )  # fmt: skip
    yield Skipped(
        "libraries/solo-learn",
        "solo-learn 1.0.2 trains through PyTorch Lightning's trainer and has no step of its own to call",
    )


if __name__ == "__main__":
    script(measure, __doc__ or "")
