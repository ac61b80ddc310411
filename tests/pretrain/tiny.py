"""The small networks, images and training loop that the methods' tests share."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pretrain.config import OptimizerConfig
from pretrain.method.base import Batch, Method, Output, TrainingPlan, build_method
from pretrain.method.config import (
    BYOLConfig,
    MethodConfig,
    MoCoConfig,
    SimCLRConfig,
    SimSiamConfig,
    SupervisedConfig,
    SwAVConfig,
)
from pretrain.optim import build_optimizer

BATCH, SIDE, CLASSES = 16, 32, 4
CONFIGS: dict[str, MethodConfig] = {
    "simsiam": SimSiamConfig(dim=64, hidden=16),
    "simclr": SimCLRConfig(dim=32),
    "moco": MoCoConfig(dim=32, queue=8 * BATCH, momentum=0.9),
    "byol": BYOLConfig(dim=32, hidden=64, momentum=0.9),
    "swav": SwAVConfig(dim=32, hidden=64, prototypes=20, freeze_epochs=0),
    "supervised": SupervisedConfig(),
}


def plan(arch: str = "resnet18x0.125", epochs: int = 4, steps_per_epoch: int = 10, batch: int = BATCH) -> TrainingPlan:
    return TrainingPlan(arch, False, epochs, steps_per_epoch, batch, CLASSES)


def build(config: MethodConfig, seed: int = 0, **changes: Any) -> Method:
    torch.manual_seed(seed)
    return build_method(config, plan(**changes)).double()


def images(count: int = BATCH, seed: int = 0) -> Tensor:
    """(count, 3, 32, 32) float64: coarse random patterns, which a few convolutions can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return interpolate(coarse, size=SIDE, mode="bilinear")


def views(x: Tensor, step: int) -> list[Tensor]:
    """Two noisy views of images, drawn from the step's number."""
    generator = torch.Generator().manual_seed(1000 + step)
    noise = torch.randn(2, *x.shape, generator=generator, dtype=x.dtype)
    scale = 1 + 0.2 * torch.randn(2, len(x), 1, 1, 1, generator=generator, dtype=x.dtype)
    return [avg_pool2d(view, 3, 1, 1) for view in x * scale + 0.3 * noise]


def batch(method: Method, x: Tensor, step: int) -> Batch:
    return Batch(views(x, step)[: method.views], torch.arange(len(x)) % CLASSES, step)


def step(method: Method, optimizer: torch.optim.Optimizer, given: Batch, bf16: bool = False) -> Output:
    """One step as the trainer takes it; returns what the method returned."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = method(given)
    optimizer.zero_grad(set_to_none=True)
    output["loss"].backward()
    method.after_backward(given.step)
    optimizer.step()
    method.after_step(given.step)
    return output


def train(method: Method, x: Tensor, steps: int, lr: float = 0.05, first: int = 0, bf16: bool = False) -> list[float]:
    """Train on views of the same images; returns the losses."""
    optimizer = build_optimizer(method.param_groups(), OptimizerConfig(lr=lr, weight_decay=0.0), lr)
    numbers = range(first, first + steps)
    return [step(method, optimizer, batch(method, x, number), bf16)["loss"].item() for number in numbers]
