"""Twelve learning rates of a linear evaluation against one: each at the price of a step, the frozen network included.

The peer is the official way: a run of `main_lincls.py` a learning rate, of which every one computes the features
again. Asked is that twelve cost at most 1.3 times one, so the ratio must be at least 12 / 1.3 = 9.2.
The mini network is measured whole. At ImageNet's size the forward pass is measured on a few images and the classifiers
on a whole batch, and both are added by image.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.speed.limits import multiply_rate
from benchmarks.speed.rows import Row, Skipped, alternate, script
from converters.resnet import build_resnet
from pretrain.linear_heads import LinearHeads
from pretrain.networks import pooled
from pretrain.optim import OptimizerConfig, build_optimizer

RATES = 12
PEER = "one run a rate, as facebookresearch/simsiam@a7bc177 main_lincls.py --lars"


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """With augmentation (a forward pass a step) and on stored features (one forward pass for 90 epochs)."""
    torch.set_num_threads(1)
    rounds = 2 if arguments.quick else 5
    yield from rows("mini", "resnet50x0.25", 512, 10, 64, 256, 256, rounds)
    if not arguments.quick:
        yield from rows("imagenet", "resnet50", 2048, 1000, 224, 4096, 16, 3)


def rows(
    name: str, arch: str, width: int, classes: int, size: int, batch: int, forward: int, rounds: int
) -> Iterator[Row]:
    """Two rows of one size: `batch` images a step, of which `forward` are put through the network here."""
    network = build_resnet(arch).eval()
    images = torch.randn(forward, 3, size, size)
    with torch.no_grad():
        network_seconds = [seconds(lambda: pooled(network, images)) * batch / forward for _ in range(rounds)]
    ours, peer = heads(width, classes, batch, rounds)
    flops = 4 * batch * width * classes * RATES
    least = flops / multiply_rate()
    title = f"12 learning rates, {arch}, {size} px, {width} x {classes} classifiers, batch {batch}"
    for label, passes in (("augmented", 1.0), ("cached", 1 / 90)):
        extra = [passes * value for value in network_seconds]
        a = [h + e for h, e in zip(ours, extra, strict=True)]
        # One run after the other: twelve times the network as well.
        b = [RATES * (h + e) for h, e in zip(peer, extra, strict=True)]
        cost = sorted(x / (y / RATES) for x, y in zip(a, b, strict=True))[len(a) // 2]
        views = "new views each epoch" if passes == 1 else "features kept, 90 epochs"
        yield Row(
            f"linear/{label}-{name}", f"{title}, {views}", "s", False, a, b, PEER, "cpu", least + min(extra),
            "the network, then matrix products at full rate",
            RATES / 1.3, f"12 rates cost {cost:.2f} times one",
        )  # fmt: skip


def heads(width: int, classes: int, batch: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of a step of all classifiers together, and of the reference's single one."""
    features, labels = torch.randn(batch, width), torch.randint(classes, (batch,))
    start = torch.randn(classes, width) * 0.01
    together = LinearHeads(start, RATES, 0.9, 0.0, "larc", 0.001)
    rates = torch.linspace(0.01, 1.0, RATES)
    layer = nn.Linear(width, classes)
    optimizer = build_optimizer([{"params": list(layer.parameters())}], OptimizerConfig("larc", 0.1, 0.9, 0.0), 0.1)

    def single() -> None:
        loss = cross_entropy(layer(features), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return alternate(lambda: together.step(features, labels, rates), single, rounds, "cpu")


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    script(measure, __doc__ or "")
