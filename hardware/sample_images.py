"""Generated photographs, with as many bytes and pixels as a data set's."""

import os
from pathlib import Path

import cv2
import numpy


def write_image_folder(folder: Path, count: int, width: int = 500, height: int = 375, unique: int = 256) -> Path:
    """Write an ImageFolder of two classes, `train` and `val`, of smooth, textured JPEGs.

    Decoding takes as long as a photograph's: about 0.1 MB at 500 x 375 pixels. From `unique` on, files are links to
    earlier ones, so that a thousand images cost a second.

    Args:
        folder: where they go; what is there is kept.
        count: training images; an eighth as many for validation.
        width: of an image in pixels.
        height: of an image in pixels.
        unique: different images.

    Returns:
        The folder.
    """
    chance = numpy.random.default_rng(0)
    for split, images in (("train", count), ("val", max(count // 8, 8))):
        made: list[Path] = []
        for number in range(images):
            # The classes differ in colour, so that something can be learned.
            kind = number % 2
            path = folder / split / f"class{kind}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                made.append(path)
            elif number >= unique:
                os.link(made[number % unique], path)
            else:
                made.append(path)
                cv2.imwrite(str(path), draw_image(chance, width, height, kind), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


def draw_image(chance: numpy.random.Generator, width: int, height: int, kind: int) -> numpy.ndarray:
    """One image (height, width, 3), uint8: a coarse colour field, edges, and grain."""
    coarse = chance.integers(0, 256, (6, 8, 3), dtype=numpy.uint8)
    coarse[..., kind] //= 2
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(numpy.float32)
    for _ in range(6):
        left, top = int(chance.integers(0, width * 3 // 4)), int(chance.integers(0, height * 3 // 4))
        box = image[top : top + height // 3, left : left + width // 3]
        box[:] = 0.5 * box + 0.5 * chance.integers(0, 256, 3)
    image += chance.normal(0, 10, (height, width, 1))
    return image.clip(0, 255).astype(numpy.uint8)
