"""Twelve learning rates of a linear evaluation against one: each at the price of a step, the frozen network included.

The peer is the official way: a run of `main_lincls.py` a learning rate, of which every one computes the features
again, in the same precision. Asked is that twelve cost at most 1.3 times one: a ratio of at least 12 / 1.3 = 9.2.
The mini network is measured whole. At ImageNet's size the forward pass is measured on a few images and the classifiers
on a whole batch, and both are added by image.
"""

import argparse
from collections.abc import Iterator
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from converters.resnet_model import build_resnet
from experiments.speed.rows import Row, Skipped, alternate, run_script, seconds
from hardware.measure_peak_rates import multiply_rate
from pretrain.config import LinearConfig, OptimizerConfig
from pretrain.linear.evaluation import LinearClassifiers
from pretrain.optim import build_optimizer

RATES = 12
EPOCHS = 90  # of the release; kept features are computed in the first one alone
PEER = "one run a rate, as facebookresearch/simsiam@a7bc177 main_lincls.py --lars"


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """With augmentation (a forward pass a step) and on stored features (one forward pass for 90 epochs)."""
    torch.set_num_threads(1)
    rounds = 2 if arguments.quick else 5
    yield from rows("mini", "resnet50x0.25", 512, 10, 64, 256, 256, rounds)
    if not arguments.quick:
        yield from rows("imagenet", "resnet50", 2048, 1000, 224, 4096, 16, 3)
        yield from rows("imagenet", "resnet50", 2048, 1000, 224, 4096, 16, 3, bf16=True)


def rows(
    name: str, arch: str, width: int, classes: int, size: int, batch: int, forward: int, rounds: int, bf16: bool = False
) -> Iterator[Row]:
    """Two rows of one size: `batch` images a step, of which `forward` are put through the network here."""
    network = build_resnet(arch).eval().requires_grad_(False)
    images = torch.randn(forward, 3, size, size)

    def features() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network(images)

    with FlopCounterMode(display=False) as counter:
        features()
    network_seconds = [seconds(features) * batch / forward for _ in range(rounds)]
    ours, peer = time_steps(width, classes, batch, rounds, bf16)
    one = 4 * width * classes  # a classifier's operations an image: the scores and the gradient
    least = batch * one * RATES / multiply_rate(torch.bfloat16 if bf16 else torch.float32)
    title = f"12 learning rates, {arch}, {size} px, {width} x {classes} classifiers, batch {batch}"
    for label, passes in (("augmented", 1.0), ("cached", 1 / EPOCHS)):
        extra = [passes * value for value in network_seconds]
        a = [h + e for h, e in zip(ours, extra, strict=True)]
        # One run after the other: twelve times the network as well.
        b = [RATES * (h + e) for h, e in zip(peer, extra, strict=True)]
        cost = median(x / (y / RATES) for x, y in zip(a, b, strict=True))
        shared = passes * counter.get_total_flops() / forward
        equal = (shared + RATES * one) / (shared + one)
        views = "new views each epoch" if passes == 1 else f"features kept, {EPOCHS} epochs"
        yield Row(
            f"linear_sweep/{label}-{name}{'-bf16' if bf16 else ''}",
            f"{title}, {views}, {'bf16' if bf16 else 'float32'}", "s", False, a, b, PEER, "cpu", least + min(extra),
            "the network, then matrix products at full rate",
            RATES / 1.3, f"12 rates cost {cost:.2f} times one; by their FLOPs {equal:.2f}",
        )  # fmt: skip


def time_steps(width: int, classes: int, batch: int, rounds: int, bf16: bool) -> tuple[list[float], list[float]]:
    """Seconds of a step of all classifiers together, and of the reference's single one."""
    features, labels = torch.randn(batch, width), torch.randint(classes, (batch,))
    config = LinearConfig(lr=torch.linspace(0.01, 1.0, RATES).tolist(), precision="bf16" if bf16 else "fp32")
    together = LinearClassifiers(config, width, classes, torch.device("cpu"))
    kept = features.to(torch.bfloat16 if bf16 else torch.float32)
    layer = nn.Linear(width, classes)
    optimizer = build_optimizer([{"params": list(layer.parameters())}], OptimizerConfig("larc", 0.1, 0.9, 0.0), 0.1)

    def single() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = cross_entropy(layer(kept), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return alternate(lambda: together.step(kept, labels), single, rounds, "cpu")


if __name__ == "__main__":
    run_script(measure, __doc__ or "")
