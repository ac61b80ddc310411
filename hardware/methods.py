"""Every method on the device against the CPU in float32: losses, gradients and weights of five steps.

Each step starts on both sides from the CPU's weights, momentum and queue. Left to themselves the two drift apart: at
the start of training a difference grows about a thousandfold a step, and says nothing about the device.
"""

import copy
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.resnet import BasicBlock, Bottleneck

from hardware.section import Figure, Options
from pretrain.config import METHODS, OptimizerConfig
from pretrain.method.base import Batch, Method, TrainingPlan, build_method
from pretrain.method.config import MethodConfig
from pretrain.optim import build_optimizer
from runs.distributed import set_precision

STEPS = 5
# The optimizers of the recipes, so that each is tried.
OPTIMIZERS = {"simclr": "lars", "byol": "lars", "swav": "larc"}
# Largest differences: of the loss (relative to it, or absolute below 1), of the gradient and of the optimizer's step
# (length of the difference over length), the middle one of five. Rounding alone makes 1e-5, but it also takes single
# activations over ReLU's corner, and one of them moves a gradient by 1e-2. TF32 keeps 10 bits of a product's factors,
# bf16 7 of everything.
LIMITS = {
    "fp32": (1e-4, 0.05), "channels_last": (1e-4, 0.05), "compile": (1e-4, 0.05),
    "tf32": (5e-3, 0.4), "bf16": (5e-2, 0.8),
}  # fmt: skip


def measure(options: Options) -> Iterator[Figure]:
    """Losses, gradients and weights of every method in every setting."""
    variants = ["fp32", "channels_last", "tf32", "bf16"] if options.device == "cuda" else ["channels_last"]
    for name, schema in METHODS.items():
        if name == "siamese":  # the composition; its defaults are SimSiam
            continue
        reference = Reference(schema(), options)
        # Compiling takes a minute and does not depend on the method.
        more = ["compile"] if name == "simsiam" and options.device == "cuda" else []
        for variant in variants + more:
            found = reference.compare(variant, options.device)
            most_loss, most = LIMITS[variant]
            for what, values, limit in zip(
                ("loss", "gradient", "optimizer's step"), found, (most_loss, most, most), strict=True
            ):
                note = f"{min(values):.1e} to {max(values):.1e} over {STEPS} steps"
                yield Figure(f"{name}, {variant}: {what}", statistics.median(values), "relative", limit, note=note)


class Reference:
    """Five steps on the CPU in float32, with all that each started from.

    Args:
        config: the method.
        options: sizes.
    """

    def __init__(self, config: MethodConfig, options: Options) -> None:
        self.config = config
        arch, size, images = ("resnet18x0.25", 32, 16) if options.small else ("resnet50x0.5", 64, 32)
        self.plan = TrainingPlan(arch, False, 100, 10, images, 10, 1000)
        chance = torch.Generator().manual_seed(1)
        method, optimizer = self.build("cpu")
        self.batches = [
            Batch(draw_views(images, method.views, size, chance), torch.arange(images) % 10, n, torch.arange(images))
            for n in range(STEPS)
        ]
        set_precision("fp32", torch.device("cpu"))
        self.states: list[Any] = []
        self.results: list[tuple[float, Tensor, Tensor]] = []
        for batch in self.batches:
            self.states.append(copy.deepcopy((method.state_dict(), optimizer.state_dict())))
            self.results.append(take_step(method, method, optimizer, batch, "fp32"))

    def build(self, device: str) -> tuple[Method, torch.optim.Optimizer]:
        """The method on a device, always with the same weights, and its optimizer."""
        torch.manual_seed(0)
        method = build_method(self.config, self.plan)
        for block in method.modules():
            # Branches that start at 0 leave most of the network without a gradient. At full strength a ResNet-50's
            # first gradient depends on every bit: that of bf16 is then unrelated to that of float32.
            if isinstance(block, Bottleneck | BasicBlock):
                nn.init.constant_(getattr(block, "bn3", block.bn2).weight, 0.2)
        method = method.to(device).train()
        name = OPTIMIZERS.get(self.config.name, "sgd")
        return method, build_optimizer(method.param_groups(), OptimizerConfig(name=name), 0.05)

    def compare(self, variant: str, device: str) -> list[tuple[float, ...]]:
        """Differences of loss, gradient and optimizer's step from the CPU's, each of every step."""
        method, optimizer = self.build(device)
        layout = torch.channels_last if variant in ("channels_last", "compile") else torch.contiguous_format
        method.to(memory_format=layout)
        model: Any = torch.compile(method) if variant == "compile" else method
        found: list[tuple[float, ...]] = []
        for batch, state, (loss, gradient, step) in zip(self.batches, self.states, self.results, strict=True):
            method.load_state_dict(state[0])
            optimizer.load_state_dict(copy.deepcopy(state[1]))
            views = [view.to(device).contiguous(memory_format=layout) for view in batch.views]
            there = Batch(views, batch.labels.to(device), batch.step, batch.indices)
            precision = variant if variant in ("tf32", "bf16") else "fp32"
            here = take_step(model, method, optimizer, there, precision)
            found.append(
                (abs(here[0] - loss) / max(1.0, abs(loss)), distance(here[1], gradient), distance(here[2], step))
            )
        return list(zip(*found, strict=True))


def draw_views(images: int, views: int, size: int, chance: torch.Generator) -> list[Tensor]:
    """Views (images, 3, size, size) of images that differ: of noise alone all outputs, and so all gradients, cancel."""
    coarse = 2 * torch.randn(images, 3, 4, 4, generator=chance)
    shown = [coarse + 0.7 * torch.randn(images, 3, 4, 4, generator=chance) for _ in range(views)]
    return [
        interpolate(view, (size, size), mode="bilinear") + 0.3 * torch.randn(images, 3, size, size, generator=chance)
        for view in shown
    ]


def take_step(
    model: Any, method: Method, optimizer: torch.optim.Optimizer, batch: Batch, precision: str
) -> tuple[float, Tensor, Tensor]:
    """One step of training: the loss, the gradient and the change of the weights, each (parameters,) on the CPU."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    device = batch.views[0].device
    set_precision(precision, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(batch)
    optimizer.zero_grad()
    output["loss"].backward()
    method.after_backward(batch.step)
    gradient = flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])
    optimizer.step()
    method.after_step(batch.step)
    step = flat([p.detach() - old for p, old in zip(parameters, before, strict=True)])
    return float(output["loss"].detach()), gradient, step


def flat(tensors: list[Tensor]) -> Tensor:
    """All elements, one after the other, on the CPU in float64."""
    return torch.cat([tensor.detach().to("cpu", torch.float64).flatten() for tensor in tensors])


def distance(one: Tensor, other: Tensor) -> float:
    """Length of the difference, over the length of `other`."""
    return float((one - other).norm() / other.norm().clamp(min=1e-30))
