"""One training step of SimSiam, and its two views, against lightly's and solo-learn's.

The same network, images and optimizer. All are optional: `pip install -e .[peers]` brings lightly and what solo-learn
needs; solo-learn itself is a clone, `--solo-learn CLONE`, since its release on PyPI is an old one. A row whose library
is absent is left out. Steps get images from memory, so that neither side's loader counts; views start from the bytes of
the files. On the CPU one thread computes, in processor seconds.
"""

import argparse
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision import models

from experiments.speed.rows import SOLO_LEARN, Row, Skipped, alternate, run_script
from experiments.speed.views import by_pillow, fast_views, read_files, read_recipe, transformed_views
from hardware.build_steps import count_flops, our_step, random_views, synchronize
from hardware.measure_peak_rates import decode_rate, multiply_rate
from runs.distributed import set_precision
from runs.errors import UserError

Step = Callable[[], Any]
# A library's name, its step for (architecture, images, device), and its view of a Pillow image.
Peer = tuple[str, Callable[[str, list[Tensor], str], Step], Callable[[Any], Tensor]]


def lightly() -> Peer:
    """The SimSiam example of lightly's documentation, without its loader; its view."""
    loss, modules, transforms = (
        importlib.import_module(f"lightly.{name}") for name in ("loss", "models.modules", "transforms")
    )

    def build(arch: str, images: list[Tensor], device: str) -> Step:
        backbone = models.get_model(arch, zero_init_residual=True)
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        project = modules.SimSiamProjectionHead(width, 2048, 2048)
        predict = modules.SimSiamPredictionHead(2048, 512, 2048)
        model = nn.ModuleList([backbone, project, predict]).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        criterion = loss.NegativeCosineSimilarity()

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            z = project(backbone(x))
            return z.detach(), predict(z)

        def step() -> None:
            set_precision("pytorch", torch.device(device))
            (z0, p0), (z1, p1) = (forward(view.to(device, non_blocking=True)) for view in images)
            value = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            synchronize(device)

        return step

    return f"lightly {version('lightly')}", build, transforms.SimSiamViewTransform()


def solo_learn(folder: Path) -> Peer:
    """`training_step` of its SimSiam, with the online classifier that it always trains; its view.

    Its calls of Lightning's `log` do nothing here, so they cost it nothing.
    """
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is written for an older PyTorch
            method = importlib.import_module("solo.methods.simsiam")
            data = importlib.import_module("solo.data.pretrain_dataloader")
    except ImportError as error:
        raise UserError(f"--solo-learn {folder}: {error}; a clone of {SOLO_LEARN}, with .[peers] installed") from error

    def build(arch: str, images: list[Tensor], device: str) -> Step:
        settings = {
            "method": "simsiam", "backbone": {"name": arch, "kwargs": {"zero_init_residual": True}}, "max_epochs": 100,
            "data": {"dataset": "imagenet", "num_classes": 1000, "num_large_crops": 2, "num_small_crops": 0},
            "method_kwargs": {"proj_hidden_dim": 2048, "proj_output_dim": 2048, "pred_hidden_dim": 512},
            "optimizer": {
                "name": "sgd", "batch_size": 256, "lr": 0.05, "weight_decay": 1e-4, "classifier_lr": 0.1,
                "kwargs": {"momentum": 0.9},
            },
            "scheduler": {"name": "none"},
        }  # fmt: skip
        model = method.SimSiam(OmegaConf.create(settings)).to(device).train()
        model.log = model.log_dict = lambda *_, **__: None
        optimizer = model.configure_optimizers()
        labels = torch.zeros(len(images[0]), dtype=torch.long, device=device)

        def step() -> None:
            set_precision("pytorch", torch.device(device))
            value = model.training_step([labels, [view.to(device, non_blocking=True) for view in images], labels], 0)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            synchronize(device)

        return step

    settings = {
        "crop_size": 224, "rrc": {"enabled": True, "crop_min_scale": 0.2, "crop_max_scale": 1.0},
        "color_jitter": {"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "grayscale": {"prob": 0.2}, "gaussian_blur": {"prob": 0.5}, "solarization": {"prob": 0.0},
        "equalization": {"prob": 0.0}, "horizontal_flip": {"prob": 0.5},
    }  # fmt: skip
    return SOLO_LEARN, build, data.build_transform_pipeline("imagenet", OmegaConf.create(settings))


def rows(name: str, peer: Peer, arguments: argparse.Namespace) -> Iterator[Row]:
    """The views and the step of one library."""
    title, build, view = peer
    count, rounds = (8, 2) if arguments.quick else (96, 5)
    files = read_files(arguments.data, count)
    mine, theirs = fast_views(files, read_recipe("simsiam")), transformed_views(files, by_pillow, view)
    seconds = alternate(mine, theirs, rounds, "cpu")
    place = "VOC 2007 photographs" if arguments.data else "generated scenes of 400 pixels"
    yield Row(
        f"lightly_solo_learn/{name}-views", f"two SimSiam views of 224 px, {place}, on one core", "images/s", True,
        [len(files) / s for s in seconds[0]], [len(files) / s for s in seconds[1]], title, "cpu", decode_rate(files),
        "decoding alone (Pillow)",
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arch, batch, size, rounds = ("resnet18", 4, 64, 2) if arguments.quick else ("resnet50", 8, 96, 3)
    if device == "cuda" and not arguments.quick:
        batch, size, rounds = 256, 224, 10
    images = random_views(batch, size, device)
    # solo-learn turns its own to channels-last, as our defaults do; lightly leaves that to its user.
    for official, said, mark in ((False, "default settings", ""), (True, "official=true", "-official")):
        step = our_step(arch, images, device, "fp32" if official else "auto", official)
        seconds = alternate(step, build(arch, images, device), rounds, "cpu" if device == "cpu" else "wall")
        yield Row(
            f"lightly_solo_learn/{name}-{device}{mark}",
            f"SimSiam step, {arch}, {batch} images of {size} px, {device}: {said}",
            "images/s", True, [batch / s for s in seconds[0]], [batch / s for s in seconds[1]], title,
            "cpu" if device == "cpu" else "wall", batch * multiply_rate(device=device) / count_flops(step),
            "matrix products at full rate", goal=None if official else 1.0,
        )  # fmt: skip


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """Three rows a library."""
    torch.set_num_threads(1)
    if importlib.util.find_spec("lightly") is None:
        yield Skipped("lightly_solo_learn/lightly", "lightly is not installed; pip install -e .[peers] brings it")
    else:
        yield from rows("lightly", lightly(), arguments)
    if arguments.solo_learn is None:
        yield Skipped("lightly_solo_learn/solo-learn", f"--solo-learn names no clone of {SOLO_LEARN}")
    else:
        yield from rows("solo-learn", solo_learn(arguments.solo_learn), arguments)


if __name__ == "__main__":
    run_script(measure, __doc__ or "")
