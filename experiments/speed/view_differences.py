"""How far the fast views are from torchvision's on PIL images, in 8-bit levels, as a Markdown table.

    python -m experiments.speed.view_differences [--data DIR] [--images N]

Operation by operation on crops of 224 pixels with given parameters, then whole views of every recipe with one seed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter

from experiments.speed.views import as_images, by_pillow, read_files, read_recipe
from hardware.views import eight_bit_levels
from pretrain.augment import batched_colour, build_view_transforms
from pretrain.augment import opencv_operations as opencv
from pretrain.augment.views import FastViews, Views

CPU = torch.device("cpu")
SIZE = 224
FACTORS = (0.6, 0.8, 1.1, 1.4)
HUES = (-0.1, -0.04, 0.03, 0.1)
SIGMAS = (0.3, 0.7, 1.2, 1.9)
Operation = Callable[[Any, float], Any]
# name -> parameters, torchvision, on arrays, on tensors
OPERATIONS: dict[str, tuple[tuple[float, ...], Operation, Operation, Callable[[Any, Any], Any]]] = {
    "brightness": (FACTORS, F.adjust_brightness, opencv.adjust_brightness_, batched_colour.adjust_brightness),
    "contrast": (FACTORS, F.adjust_contrast, opencv.adjust_contrast_, batched_colour.adjust_contrast),
    "saturation": (FACTORS, F.adjust_saturation, opencv.adjust_saturation_, batched_colour.adjust_saturation),
    "hue": (
        HUES, F.adjust_hue, opencv.adjust_hue_,
        lambda x, f: batched_colour.adjust_hue(x, torch.full_like(f, opencv.hue_steps(f.item()))),
    ),
    "grayscale": (
        (0.0,), lambda i, _: F.to_grayscale(i, 3), lambda x, _: numpy.stack([opencv.luminance(x)] * 3, axis=2),
        lambda x, _: batched_colour.luminance(x).expand_as(x),
    ),
    "blur, Pillow's": (
        SIGMAS, lambda i, s: i.filter(ImageFilter.GaussianBlur(s)), opencv.pillow_gaussian_blur_,
        lambda x, s: batched_colour.blur(x, batched_colour.blur_matrices(s.flatten(), SIZE, 0, CPU)),
    ),
    "blur, torchvision's": (
        SIGMAS, lambda i, s: F.gaussian_blur(i, 23, [s, s]), lambda x, s: opencv.torchvision_gaussian_blur_(x, s, 23),
        lambda x, s: batched_colour.blur(x, batched_colour.blur_matrices(s.flatten(), SIZE, 23, CPU)),
    ),
    "solarize": (
        (0.0,), lambda i, _: F.solarize(i, 128), lambda x, _: opencv.solarize_(x),
        lambda x, _: batched_colour.solarize(x),
    ),
}  # fmt: skip
Gaps = list[tuple[float, float]]


def gap(a: Any, b: Any) -> tuple[float, float]:
    """Largest and mean difference."""
    d = numpy.abs(numpy.asarray(a, float) - numpy.asarray(b, float))
    return float(d.max()), float(d.mean())


def line(name: str, *columns: Gaps) -> str:
    """One row: largest and mean of each column."""
    cells = [f"{max(g[0] for g in gaps):.0f} / {sum(g[1] for g in gaps) / len(gaps):.4f}" for gaps in columns]
    return f"| {name} | {' | '.join(cells)} |"


def operations(images: list[Image.Image]) -> None:
    """One row an operation."""
    crops: list[Gaps] = [[], []]
    for image in images:
        for k, name in enumerate(("bilinear", "bicubic")):
            expected = image.resize((SIZE, SIZE), getattr(Image.Resampling, name.upper()))
            crops[k].append(gap(opencv.resize_antialiased(numpy.array(image), SIZE, name), expected))
    print(line("crop and resize, bilinear", crops[0], crops[0]))
    print(line("crop and resize, bicubic", crops[1], crops[1]))
    squares = [image.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in images]
    for name, (parameters, official, on_array, on_tensor) in OPERATIONS.items():
        found: list[Gaps] = [[], []]
        for parameter in parameters:
            for square in squares:
                x, expected = numpy.array(square), official(square, parameter)
                tensor = torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float()
                batch = on_tensor(tensor, torch.full((1, 1, 1, 1), parameter))[0].permute(1, 2, 0)
                found[0].append(gap(on_array(x, parameter), expected))
                found[1].append(gap(batch.numpy(), expected))
        print(line(name, *found))


def whole(files: list[bytes], name: str) -> None:
    """One row a recipe: two views of each image."""
    config = read_recipe(name)
    images = as_images(files)
    expected = eight_bit_levels(Views(images, build_view_transforms(config.for_views(2)), 0, False), CPU, config)
    found = [
        eight_bit_levels(FastViews(images, config.for_views(2), 0, False, batched), CPU, config)
        for batched in (False, True)
    ]
    print(line(f"whole views: {name}", *([gap(a, b) for a, b in zip(side, expected, strict=True)] for side in found)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with VOC2007/; default: generated scenes")
    parser.add_argument("--images", type=int, default=16, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = read_files(arguments.data, arguments.images)
    print("| largest / mean difference in 8-bit levels | OpenCV, on the CPU | tensors, on any device |")
    print("| --- | --- | --- |")
    operations([by_pillow(content) for content in files])
    for name in ("simsiam", "moco", "simclr", "byol", "swav", "supervised"):
        whole(files, name)


if __name__ == "__main__":
    main()
