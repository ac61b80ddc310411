"""The fast views: their colour on the device against the CPU, an operation at a time and whole, in 8-bit levels."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy
import torch
from torch import Tensor

from hardware.sample_images import draw_image
from hardware.section import Figure, Options
from pretrain.augment import build_view_transforms
from pretrain.augment.views import FastViews, Views
from pretrain.config import AugmentConfig
from pretrain.data import Images

NOTHING = AugmentConfig("nothing", jitter_p=0.0, gray_p=0.0, blur_p=0.0, solarize_p=0.0, flip_p=0.0)
ALONE: dict[str, dict[str, Any]] = {
    "crop": {}, "flip": {"flip_p": 1.0}, "gray": {"gray_p": 1.0}, "solarize": {"solarize_p": 1.0},
    "brightness": {"jitter_p": 1.0, "jitter": [0.4, 0, 0, 0]}, "contrast": {"jitter_p": 1.0, "jitter": [0, 0.4, 0, 0]},
    "saturation": {"jitter_p": 1.0, "jitter": [0, 0, 0.4, 0]}, "hue": {"jitter_p": 1.0, "jitter": [0, 0, 0, 0.1]},
    "blur (PIL)": {"blur_p": 1.0}, "blur (Gaussian)": {"blur_p": 1.0, "blur_kernel": 0.1},
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "SimSiam's views": {"jitter_p": 0.8, "gray_p": 0.2, "blur_p": 0.5, "flip_p": 0.5},
    "BYOL's views": {
        "jitter_p": 0.8, "jitter": [0.4, 0.4, 0.2, 0.1], "gray_p": 0.2, "blur_p": 1.0, "flip_p": 0.5,
        "blur_kernel": 0.1, "second": {"blur_p": 0.1, "solarize_p": 0.2},
    },
}  # fmt: skip
# Mean over pixels. One operation rounds once; whole, a rounding can be amplified by what follows.
MOST, MOST_WHOLE = 0.25, 0.5


def measure(options: Options) -> Iterator[Figure]:
    """Mean differences of the device's views from the CPU's, and of whole views from the reference pipeline's."""
    count, size = (16, 64) if options.small else (32, 224)
    chance = numpy.random.default_rng(0)
    files = [
        cv2.imencode(".jpg", draw_image(chance, 320, 240, n % 2), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        for n in range(count)
    ]
    images = Images("generated", "train", [f"{n}.jpg" for n in range(count)], [0] * count, ["all"], files.__getitem__)
    device = torch.device(options.device)
    for name, changes in (ALONE | WHOLE).items():
        recipe = replace(NOTHING, size=size, **changes)
        here = eight_bit_levels(FastViews(images, recipe.for_views(2), 0, False), torch.device("cpu"), recipe)
        there = eight_bit_levels(FastViews(images, recipe.for_views(2), 0, False, batched=True), device, recipe)
        most = MOST_WHOLE if name in WHOLE else MOST
        yield Figure(f"{name}: batches on {options.device} against single images", mean(here, there), "levels", most)
        if name in WHOLE:
            slow = eight_bit_levels(
                Views(images, build_view_transforms(recipe.for_views(2)), 0, False), torch.device("cpu"), recipe
            )
            yield Figure(f"{name}: fast against reference", mean(here, slow), "levels", 1.0)


def eight_bit_levels(views: Views, device: torch.device, recipe: AugmentConfig) -> Tensor:
    """All views (n, 3, size, size) as 8-bit levels on the CPU."""
    samples = [sample[0] for sample in views.__getitems__([(0, n) for n in range(len(views))])]
    finished = views.to_float_views([torch.stack(tensors) for tensors in zip(*samples, strict=True)], device)
    mean, std = torch.tensor(recipe.mean)[:, None, None], torch.tensor(recipe.std)[:, None, None]
    return torch.cat([(view.cpu() * std + mean) * 255 for view in finished])


def mean(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference."""
    return float((one - other).abs().mean())
