"""The small case on which the official code and ours are compared: everything that is not either's own."""

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

SEED, DIM, HIDDEN, BATCH, SIDE, STEPS = 7, 64, 16, 8, 32, 10
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-4
QUEUE, MOCO_M, MOCO_T = 48, 0.9, 0.2
"""MoCo: a queue that starts over within the ten steps, and a key encoder that moves in them."""
SCHEDULES = {"100": 0.05, "800": 0.1}
"""Epochs -> initial learning rate of the schedules that are recorded."""
AUGMENTATIONS = 24
"""Seeds 0 to 23 of the augmentation."""


def images(step: int) -> tuple[Tensor, Tensor]:
    """Two batches of views, (8, 3, 32, 32) float64: in double precision no BLAS or processor shows in the figures."""
    generator = torch.Generator().manual_seed(1000 + step)
    x1, x2 = torch.randn(2, BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x1, x2


def picture() -> Image.Image:
    """A 240 x 200 RGB image with edges, gradients and noise."""
    y, x = numpy.mgrid[0:200, 0:240]
    noise = numpy.random.default_rng(0).integers(0, 60, (200, 240, 3))
    base = numpy.stack([x * 0.8, y * 0.9, ((x // 16 + y // 16) % 2) * 190], axis=-1)
    return Image.fromarray((base + noise).clip(0, 255).astype(numpy.uint8))


def sums(module: nn.Module, gradients: bool = False) -> dict[str, list[float]]:
    """Name -> [sum, sum of absolute values, projection on a fixed ramp] of each parameter, or of its gradient."""
    result = {}
    for name, parameter in module.named_parameters():
        value = parameter.grad if gradients else parameter.detach()
        if value is not None:
            ramp = torch.linspace(-1, 1, value.numel(), dtype=value.dtype)
            result[name] = [value.sum().item(), value.abs().sum().item(), (value.flatten() * ramp).sum().item()]
    return result


def statistics(module: nn.Module) -> dict[str, list[float]]:
    """Name -> [sum, sum of absolute values] of each running statistic."""
    return {
        name: [value.sum().item(), value.abs().sum().item()]
        for name, value in module.named_buffers()
        if value.is_floating_point()
    }


def assert_equal(mine: dict[str, list[float]], theirs: dict[str, list[float]], relative: float = 1e-6) -> None:
    """Compare what `sums` made of two networks."""
    assert mine.keys() == theirs.keys()
    for name, values in theirs.items():
        # Sums may cancel to nothing: what counts is the size of what was summed, the second number.
        expected = pytest.approx(values, rel=relative, abs=relative * max(values[1], 1e-12))
        assert mine[name] == expected, f"{name}: {mine[name]} is not {expected}"
