"""One training step of SimSiam: this project's against the official script's, and the rate of matrix products.

    python -m experiments.speed.official_step [--official CLONE] [--device cuda]

Both sides get the same images, already in memory. `--official` is a clone of facebookresearch/simsiam@a7bc177, whose
builder makes the model and whose loop (main_simsiam.py, `train`) is followed; without it the peer is that loop around
this project's network, which has the same layers. On the CPU one thread computes, in processor seconds.
"""

import argparse
from collections.abc import Iterator

import torch

from experiments.speed.rows import Row, Skipped, alternate, run_script
from hardware.build_steps import count_flops, official_step, our_step, random_views
from hardware.measure_peak_rates import multiply_rate
from hardware.section import OFFICIAL
from runs.errors import UserError

TITLES = {
    "official": "official=true",
    "default": "default settings",
    "bf16": "precision=bf16",
    "compiled": "compile=true, precision=bf16",
}
# How many times the release's step is asked for.
GOALS = {"default": 1.05, "bf16": 1.0, "compiled": 1.0}


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
    images = random_views(batch, size, device)
    peer = official_step(arch, images, device, arguments.official)
    name = f"{OFFICIAL}, fp32" if arguments.official else "the official script's loop around the same layers, fp32"
    work, rates = count_flops(peer), dict[str, float]()
    settings = {"official": "pytorch", "default": "auto", "bf16": "bf16"}
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
            f"official_step/{device}-{setting}",
            f"SimSiam step, {arch}, {batch} images of {size} px, {device}: "
            + TITLES[setting],
            "images/s", True, [batch / s for s in ours], [batch / s for s in theirs], name,
            "cpu" if device == "cpu" else "wall", limit, "matrix products at full rate",
            goal=2.0 if device == "cuda" and setting == "bf16" else GOALS.get(setting), note=done,
        )  # fmt: skip
    if device == "cpu" and not torch.cuda.is_available():
        yield Skipped("official_step/cuda", "no CUDA device; run it on a machine that has one: --device cuda")


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this script."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default: cuda where there is one")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="images a step (default 2; 512 on a GPU)")


if __name__ == "__main__":
    run_script(measure, __doc__ or "", options)
